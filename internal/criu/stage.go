package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Stage is a memory file system that holds one migration's image set, logs and hook. Memory of the container is never
// written anywhere else. It is not swapped out where the kernel can be told so (Linux 6.4); elsewhere swap has to be off or
// encrypted.
type Stage struct {
	dir  string
	lock *os.File
}

// Directories of a stage.
func (s *Stage) Images() string { return filepath.Join(s.dir, "images") }

// Work is for CRIU's logs and sockets.
func (s *Stage) Work() string { return filepath.Join(s.dir, "work") }

// Hook is for the action script.
func (s *Stage) Hook() string { return filepath.Join(s.dir, "hook") }

// Dir is the stage's root.
func (s *Stage) Dir() string { return s.dir }

// NewStage mounts a memory file system of at most size bytes at base/id. It is taken away by Remove, or, when this process
// dies, by the next CleanStages.
func NewStage(base, id string, size int64) (*Stage, error) {
	dir := filepath.Join(base, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make stage: %w", err)
	}
	lock, err := lockStage(dir)
	if err != nil {
		os.Remove(dir)
		return nil, fmt.Errorf("lock stage %s: %w", dir, err)
	}
	s := &Stage{dir: dir, lock: lock}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	data := "mode=0700,size=" + strconv.FormatInt(size, 10)
	err = unix.Mount("migrate", dir, "tmpfs", flags, data+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("migrate", dir, "tmpfs", flags, data)
	}
	if err != nil {
		s.unlock()
		os.Remove(dir)
		return nil, fmt.Errorf("mount memory file system at %s: %w", dir, err)
	}
	for _, d := range []string{s.Images(), s.Work(), s.Hook()} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("make stage: %w", err), s.Remove())
		}
	}
	return s, nil
}

// Remove frees the memory and takes the directory away. It is idempotent.
func (s *Stage) Remove() error {
	if err := removeStage(s.dir); err != nil {
		return err
	}
	s.unlock()
	return nil
}

func (s *Stage) unlock() {
	if s.lock != nil {
		os.Remove(s.lock.Name())
		s.lock.Close()
		s.lock = nil
	}
}

// CleanStages removes the stages under base whose process has died, and says how many there were.
func CleanStages(base string) (int, error) {
	locks, err := filepath.Glob(filepath.Join(base, "*.lock"))
	if err != nil {
		return 0, fmt.Errorf("look for stale stages: %w", err)
	}
	n := 0
	for _, l := range locks {
		lock, err := lockFile(l)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // its process lives
		}
		if err != nil {
			return n, fmt.Errorf("look for stale stages: %w", err)
		}
		s := &Stage{dir: l[:len(l)-len(".lock")], lock: lock}
		if err := s.Remove(); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// discardStage removes the stage of a process that died.
func discardStage(dir string) error {
	if dir == "" {
		return nil
	}
	if err := removeStage(dir); err != nil {
		return err
	}
	if err := os.Remove(dir + ".lock"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stage: %w", err)
	}
	return nil
}

func removeStage(dir string) error {
	// lazily: a CRIU that is just being killed may still hold a file
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount stage %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stage: %w", err)
	}
	return nil
}

// lockStage locks a new stage. CleanStages may be just looking at its lock, and remove it, before it is locked: it is
// made again then.
func lockStage(dir string) (lock *os.File, err error) {
	const attempts, pause = 20, 5 * time.Millisecond
	for range attempts {
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if lock, err = lockFile(dir + ".lock"); err == nil {
			if same(lock, dir+".lock") {
				return lock, nil
			}
			lock.Close()
			err = unix.EWOULDBLOCK
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		if _, serr := os.Stat(filepath.Join(dir, "images")); serr == nil {
			return nil, err // a live stage of this name
		}
		time.Sleep(pause)
	}
	return nil, err
}

// same says whether the open file is still the one at path.
func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// FreeMemory returns MemAvailable in bytes (Documentation/filesystems/proc.rst).
func FreeMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read free memory: %w", err)
	}
	return meminfoField(string(b), "MemAvailable")
}
