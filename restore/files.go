package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"migrate/internal/engine"
)

// pruneFiles removes files that were kept for containers which the engine does not know any more. A container that is just being taken in
// is known by its note.
func pruneFiles(ctx context.Context, opt Options, log *slog.Logger) {
	if opt.Files == "" {
		return
	}
	dirs, err := filepath.Glob(filepath.Join(opt.Files, "*", "*"))
	if err != nil {
		return // the pattern is good
	}
	for _, dir := range dirs {
		namespace, id := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
		if coming(opt.Incoming, namespace, id) {
			continue
		}
		if err := pruneOf(ctx, opt, dir, namespace, id); err != nil {
			log.Warn("remove files of a container that is gone", "container", id, "err", err)
		}
	}
}

func pruneOf(ctx context.Context, opt Options, dir, namespace, id string) error {
	eng, err := opt.OpenEngine(ctx, "", namespace)
	if err != nil {
		return err
	}
	defer eng.Close()
	if _, _, err := eng.Inspect(ctx, id); !errors.Is(err, engine.ErrNotFound) {
		return nil // it is there, or not known to be gone
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// coming says whether a note tells of a container. The word of a note that cannot be read is that it does.
func coming(notes, namespace, id string) bool {
	paths, _ := filepath.Glob(filepath.Join(notes, "*.json"))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was over just now
		}
		var in incoming
		// what may follow the note are remains of a longer one
		if err != nil || json.NewDecoder(bytes.NewReader(b)).Decode(&in) != nil || in.Container.Namespace == namespace && in.Container.ID == id {
			return true
		}
	}
	return false
}
