package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Place is where the content of one bind mount comes to at its destination. Its record is JSON, so that the next agent can take it away
// should this one die.
//
// A directory is filled where it is, since it may be a file system of its own. A file is made beside its place and renamed,
// so that it appears whole. What was there before is never changed: it is in the way, or, when it is what the container itself
// left behind, it is put aside until the container runs.
type Place struct {
	Path   string   `json:"path"`
	Type   Type     `json:"type"`
	Work   string   `json:"work"`             // directory that takes in the content
	Name   string   `json:"name,omitempty"`   // of a file: what it is called in Work
	Made   []string `json:"made,omitempty"`   // directories that did not exist, outermost first; the last may be Work itself
	Filled *Was     `json:"filled,omitempty"` // Work existed and was empty
	Begun  bool     `json:"begun,omitempty"`  // Prepare was called
	Aside  string   `json:"aside,omitempty"`  // where what the container left behind is meanwhile
	Public bool     `json:"public,omitempty"` // a file was renamed to its place

	lock *os.File // on Work if that existed
}

// Was is what an empty directory was like before it was filled.
type Was struct {
	Mode     uint32 `json:"mode"` // permissions
	UID, GID int
}

// ErrInTheWay is something at a place where content was to come.
var ErrInTheWay = errors.New("something is there already")

// NewPlace looks at a path and decides how it is to be filled, without touching anything. left says whether what is there is what the
// container left behind. name is what a file is called in Work. id tells this migration's files from others.
func NewPlace(path string, t Type, name, id string, left bool) (*Place, error) {
	p := &Place{Path: filepath.Clean(path), Type: t, Name: name}
	p.Work = p.Path
	if t == File {
		p.Work = filepath.Join(filepath.Dir(p.Path), ".migrate-"+id+"-"+filepath.Base(p.Path))
	}
	info, err := os.Lstat(p.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		return nil, fmt.Errorf("look at the place of a volume: %w", err)
	case left:
		p.Aside = filepath.Join(filepath.Dir(p.Path), ".migrate-"+id+"-old-"+filepath.Base(p.Path))
		return p, nil
	case t == Dir && info.IsDir():
		names, err := os.ReadDir(p.Path)
		if err != nil {
			return nil, fmt.Errorf("look at the place of a volume: %w", err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && len(names) == 0 {
			p.Filled = &Was{Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid)}
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", p.Path, ErrInTheWay)
}

// Prepare makes Work. note is called with the record whenever it has changed, before the change is made.
func (p *Place) Prepare(note func() error) error {
	p.Begun, p.Made = true, missing(p.Work)
	if p.Aside != "" && p.Type == Dir {
		p.Made = []string{p.Work}
	}
	if err := note(); err != nil {
		return err
	}
	if p.Aside != "" {
		if err := os.Rename(p.Path, p.Aside); err != nil {
			return fmt.Errorf("put aside what the container left: %w", err)
		}
	}
	if p.Filled != nil {
		return p.claim()
	}
	for i, dir := range p.Made {
		mode := fs.FileMode(0o755)
		if i == len(p.Made)-1 {
			mode = 0o700 // until the content says what it is to be
		}
		if err := os.Mkdir(dir, mode); err != nil {
			return fmt.Errorf("make the place of a volume: %w", err)
		}
	}
	return nil
}

// claim keeps another migration from filling the same directory.
func (p *Place) claim() error {
	f, err := os.Open(p.Work)
	if err != nil {
		return fmt.Errorf("claim the place of a volume: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		p.Begun = false // it is the other's
		return fmt.Errorf("%s: %w: another volume comes to it", p.Path, ErrInTheWay)
	}
	p.lock = f
	return nil
}

func (p *Place) release() {
	if p.lock != nil {
		p.lock.Close()
		p.lock = nil
	}
}

// missing lists the directories that have to be made for path to exist, outermost first.
func missing(path string) []string {
	var made []string
	for dir := path; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return made
		}
		made = append([]string{dir}, made...)
	}
}

// Publish brings a file to its place.
func (p *Place) Publish(note func() error) error {
	if p.Type != File || p.Public {
		return nil
	}
	p.Public = true
	if err := note(); err != nil {
		return err
	}
	// never over what appeared there meanwhile
	if err := unix.Renameat2(unix.AT_FDCWD, p.inWork(), unix.AT_FDCWD, p.Path, unix.RENAME_NOREPLACE); err != nil {
		p.Public = false
		return fmt.Errorf("bring a file to its place: %w", &os.LinkError{Op: "rename", Old: p.inWork(), New: p.Path, Err: err})
	}
	return nil
}

func (p *Place) inWork() string { return filepath.Join(p.Work, p.Name) }

// Keep ends a migration that succeeded: what is not needed any more goes.
func (p *Place) Keep() error {
	defer p.release()
	var errs []error
	if p.Type == File {
		errs = append(errs, os.RemoveAll(p.Work))
	}
	if p.Aside != "" {
		errs = append(errs, os.RemoveAll(p.Aside))
	}
	return errors.Join(errs...)
}

// Undo takes everything away that Prepare and the rounds made, and brings back what was put aside. It may be repeated.
func (p *Place) Undo() error {
	if !p.Begun {
		return nil
	}
	defer p.release()
	var errs []error
	if p.Public {
		errs = append(errs, removeFile(p.Path))
	}
	if p.Filled != nil {
		errs = append(errs, empty(p.Work), p.Filled.again(p.Work))
	} else if len(p.Made) > 0 {
		errs = append(errs, os.RemoveAll(p.Work))
	}
	for i := len(p.Made) - 2; i >= 0; i-- {
		// others may use a directory that was made on the way
		if err := os.Remove(p.Made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	if p.Aside != "" {
		if _, err := os.Lstat(p.Aside); err == nil {
			errs = append(errs, os.Rename(p.Aside, p.Path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the volume at %s away: %w", p.Path, err)
	}
	return nil
}

// again makes a directory what it was.
func (w *Was) again(dir string) error {
	if err := os.Lchown(dir, w.UID, w.GID); err != nil {
		return err
	}
	return unix.Chmod(dir, w.Mode)
}

// empty removes what is in a directory, and keeps the directory.
func empty(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, n := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return errors.Join(errs...)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
