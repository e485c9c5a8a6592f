package feature

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// locks holds a lock of each sort, which another process must not get, and hands them over to it now and then.
type locks struct {
	files   []*os.File
	partner *partner
}

// A lock is a sort of lock: take and drop work on an open file.
type lock struct {
	name string
	take func(f *os.File) error
	drop func(f *os.File) error
}

var lockSorts = []lock{
	{"flock", func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) },
		func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }},
	{"posix", func(f *os.File) error { return setLock(f, unix.F_SETLK, unix.F_WRLCK) },
		func(f *os.File) error { return setLock(f, unix.F_SETLK, unix.F_UNLCK) }},
	{"ofd", func(f *os.File) error { return setLock(f, unix.F_OFD_SETLK, unix.F_WRLCK) },
		func(f *os.File) error { return setLock(f, unix.F_OFD_SETLK, unix.F_UNLCK) }},
}

// setLock locks some bytes in the middle.
func setLock(f *os.File, command int, kind int16) error {
	return unix.FcntlFlock(f.Fd(), command, &unix.Flock_t{Type: kind, Start: 10, Len: 20})
}

func newLocks(o Options) (machine, error) {
	l := &locks{}
	for _, sort := range lockSorts {
		f, err := create(lockPath(o.Dir, sort.name), make([]byte, 100))
		if err != nil {
			return nil, err
		}
		if err := sort.take(f); err != nil {
			return nil, err
		}
		l.files = append(l.files, f)
	}
	var err error
	l.partner, err = startPartner("locks", nil, o.Dir)
	return l, err
}

func lockPath(dir, name string) string { return filepath.Join(dir, "lock-"+name) }

func (l *locks) step(n uint64) error {
	const handOver = 8
	for i, sort := range lockSorts {
		if err := l.partner.expect("take "+sort.name, "held"); err != nil {
			return err
		}
		if n%handOver != 0 {
			continue
		}
		if err := l.handOver(sort, l.files[i]); err != nil {
			return err
		}
	}
	return nil
}

// handOver lets the other process have a lock and takes it back.
func (l *locks) handOver(sort lock, f *os.File) error {
	if err := sort.drop(f); err != nil {
		return err
	}
	if err := l.partner.expect("take "+sort.name, "taken"); err != nil {
		return err
	}
	if err := sort.take(f); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return damage("the %s lock could be taken twice: %v", sort.name, err)
	}
	if err := l.partner.expect("drop "+sort.name, "dropped"); err != nil {
		return err
	}
	if err := sort.take(f); err != nil {
		return damage("the %s lock cannot be taken back: %v", sort.name, err)
	}
	return nil
}

// locksPartner tries locks on descriptors of its own.
func locksPartner(args []string) (func(string) string, error) {
	does := map[string]func() string{}
	for _, sort := range lockSorts {
		f, err := os.OpenFile(lockPath(args[0], sort.name), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		does["take "+sort.name] = func() string {
			switch err := sort.take(f); {
			case err == nil:
				return "taken"
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
				return "held"
			default:
				return err.Error()
			}
		}
		does["drop "+sort.name] = func() string {
			if err := sort.drop(f); err != nil {
				return err.Error()
			}
			return "dropped"
		}
	}
	return func(question string) string {
		if do := does[question]; do != nil {
			return do()
		}
		return "what?"
	}, nil
}
