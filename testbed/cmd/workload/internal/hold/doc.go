// Package hold opens one of each thing that a checkpoint has to cope with, or cannot: sockets of all families, descriptors
// without a path, locks, deleted files, processes in unusual states. A test starts it in a container and looks at what is
// said of the container, and at whether it moves.
package hold

import (
	"fmt"
	"os"
	"slices"
)

// Held is what a kind keeps open. It must stay referenced: files and connections close with it.
type Held struct {
	FD   int `json:"fd"`  // -1 when the kind is none of a descriptor
	Pid  int `json:"pid"` // of the process that has it
	Keep any `json:"-"`
}

// kind opens something below a directory of the container's own.
type kind func(dir string) (Held, error)

// kinds by name.
var kinds = map[string]kind{}

// Kinds lists the names of all kinds.
func Kinds() []string {
	var names []string
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Open opens one of a kind. dir is a directory for files and sockets with names.
func Open(name, dir string) (Held, error) {
	open, ok := kinds[name]
	if !ok {
		return Held{}, fmt.Errorf("kind %q is unknown", name)
	}
	h, err := open(dir)
	if err != nil {
		return Held{}, fmt.Errorf("hold %s: %w", name, err)
	}
	if h.Pid == 0 {
		h.Pid = os.Getpid()
	}
	return h, nil
}

// descriptor is a kind that is one descriptor and nothing else.
func descriptor(open func() (int, error)) kind {
	return func(string) (Held, error) {
		fd, err := open()
		return Held{FD: fd}, err
	}
}
