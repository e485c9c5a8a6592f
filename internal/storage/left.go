package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Left remembers content that has gone with its container to another host and is still here. As long as nobody has changed it since, it
// is of no use to anybody: should the container come back with what has become of it, this copy may make room.
type Left struct {
	Path      string `json:"path"`
	Namespace string `json:"namespace"`
	Container string `json:"container"` // its id here
	Print     string `json:"print"`     // of the tree as it was sent, see package layers
	Migration string `json:"migration"`
}

// Note writes the record to a directory that may not exist yet.
func (l Left) Note(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("remember what is left of a volume: %w", err)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("remember what is left of a volume: %w", err)
	}
	tmp := leftPath(dir, l.Path) + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("remember what is left of a volume: %w", err)
	}
	if err := os.Rename(tmp, leftPath(dir, l.Path)); err != nil {
		return fmt.Errorf("remember what is left of a volume: %w", err)
	}
	return nil
}

// FindLeft looks for a record; there being none is no error.
func FindLeft(dir, path string) (l Left, found bool, err error) {
	b, err := os.ReadFile(leftPath(dir, path))
	if errors.Is(err, fs.ErrNotExist) {
		return l, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return l, false, fmt.Errorf("look for what is left of a volume: %w", err)
	}
	return l, l.Path == filepath.Clean(path), nil
}

// ForgetLeft removes a record; there being none is no error.
func ForgetLeft(dir, path string) error {
	if err := removeFile(leftPath(dir, path)); err != nil {
		return fmt.Errorf("forget what is left of a volume: %w", err)
	}
	return nil
}

func leftPath(dir, path string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(path)))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+".json")
}
