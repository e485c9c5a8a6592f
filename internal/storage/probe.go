package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// Probe is a question whether two hosts see the same storage: the destination asks the source to make a file whose name and content
// only these two know, and looks whether it appears. It is asked only where something is in the way, since on other storage
// there is nothing to find.
type Probe struct {
	Volume int    `json:"volume"` // index in the offer
	Name   string `json:"name"`
	Nonce  string `json:"nonce"`
}

// NewProbe asks about a volume.
func NewProbe(volume int) Probe {
	return Probe{Volume: volume, Name: ".migrate-probe-" + rand.Text(), Nonce: rand.Text()}
}

var probeText = regexp.MustCompile(`^(\.migrate-probe-)?[A-Z2-7]{16,64}$`)

// dir is where the file is to be: in a directory, or beside a file.
func (p Probe) dir(path string, t Type) string {
	if t == File {
		return filepath.Dir(path)
	}
	return path
}

// Answer makes the file, for a volume at a path of this host, and returns what removes it again.
func (p Probe) Answer(path string, t Type) (remove func() error, err error) {
	if !probeText.MatchString(p.Name) || !probeText.MatchString(p.Nonce) {
		return nil, fmt.Errorf("protocol error: probe %q", p.Name)
	}
	at := filepath.Join(p.dir(path, t), p.Name)
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("show the destination which storage this is: %w", err)
	}
	remove = func() error { return removeFile(at) }
	_, err = f.WriteString(p.Nonce)
	// a network file system has it at the server when this returns, and elsewhere it does not matter
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("show the destination which storage this is: %w", err), remove())
	}
	return remove, nil
}

// Seen says whether the file is at a path of this host.
func (p Probe) Seen(path string, t Type) bool {
	f, err := os.OpenFile(filepath.Join(p.dir(path, t), p.Name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(p.Nonce))+1))
	return err == nil && string(b) == p.Nonce
}
