package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"migrate/internal/engine"
	"migrate/internal/fail"
)

// givenSuffix ends the names of notes in the run directory that say that a frozen container is another host's.
const givenSuffix = ".given"

// note says, from COMMITTED until the frozen copy here is gone, that the container is the destination's. It is for whoever meets that
// copy when this agent has died: unlike one whose outcome is in doubt it must never run again.
type note struct {
	Container   string `json:"container"`
	Namespace   string `json:"namespace"`
	Destination string `json:"destination"`
	Pid         int    `json:"pid"`   // of its first process, with which the note loses its meaning
	Start       string `json:"start"` // of that process, in clock ticks since boot

	path string
}

// noteGiven leaves the note. The hand-over does not depend on it.
func (s *sender) noteGiven() {
	n := &note{Container: s.c.ID, Namespace: s.c.Namespace, Destination: s.opt.Destination, Pid: s.h.Pid, path: filepath.Join(s.opt.RunDir, s.offer.ID+givenSuffix)}
	var err error
	if n.Start, err = startOf(n.Pid); err == nil {
		err = n.write()
	}
	if err != nil {
		s.log.Warn("note that the container is the destination's", "err", err)
		return
	}
	s.given = n
}

func (n *note) write() error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return os.WriteFile(n.path, b, 0o600)
}

func (n *note) remove() error {
	if n == nil {
		return nil
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the note of the hand-over: %w", err)
	}
	return nil
}

// startOf reads when a process was started, which with its pid names it (proc(5), field 22 of stat).
func startOf(pid int) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const start = 22 - 3 // the fields behind the name begin with the third
	if len(fields) <= start {
		return "", fmt.Errorf("process %d: its stat is not understood", pid)
	}
	return fields[start], nil
}

// Given returns a Fault if the frozen container of that id belongs to another host since an earlier migration, whose agent here has
// died, and nil if not. It takes notes away that have lost their meaning.
func Given(runDir, namespace, id string) error {
	paths, err := filepath.Glob(filepath.Join(runDir, "*"+givenSuffix))
	if err != nil {
		return fmt.Errorf("look for containers that were handed over: %w", err)
	}
	for _, path := range paths {
		n := note{path: path}
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &n)
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // its agent lives and is done
		}
		if err != nil {
			return fmt.Errorf("look for containers that were handed over: %w", err)
		}
		if start, err := startOf(n.Pid); err != nil || start != n.Start {
			if err := n.remove(); err != nil {
				return err
			}
			continue
		}
		if n.Container == id && n.Namespace == namespace {
			return &fail.Fault{Code: fail.Container, What: fmt.Sprintf("container %q was handed over to %s", id, n.Destination), Where: "source",
				Why: "what is frozen here is what that migration has left, and must never run again", Remedy: "kill and delete it here",
				State: "if its memory was still here, the container was lost with the migration's agent; otherwise it runs at the destination"}
		}
	}
	return nil
}

// unlessGiven explains a container that is found paused.
func (s *sender) unlessGiven(err error) error {
	if !errors.Is(err, engine.ErrPaused) {
		return err
	}
	if gerr := Given(s.opt.RunDir, s.opt.Namespace, s.opt.Container); gerr != nil {
		return gerr
	}
	return err
}
