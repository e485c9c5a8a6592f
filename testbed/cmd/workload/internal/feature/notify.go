package feature

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inotify watches a directory and a file in it.
type inotify struct {
	fd                 int
	directory, watched int // watches
	dir                string
}

func newInotify(o Options) (m machine, err error) {
	i := &inotify{dir: o.Dir}
	file := filepath.Join(o.Dir, "watched")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	if i.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, err
	}
	if i.directory, err = unix.InotifyAddWatch(i.fd, o.Dir, unix.IN_CREATE|unix.IN_DELETE); err != nil {
		return nil, err
	}
	i.watched, err = unix.InotifyAddWatch(i.fd, file, unix.IN_ATTRIB)
	return i, err
}

// An event is what came of a watch.
type event struct {
	watch int
	mask  uint32
	name  string
}

func (i *inotify) step(n uint64) error {
	name := fmt.Sprintf("step-%d", n)
	path := filepath.Join(i.dir, name)
	for _, do := range []struct {
		action func() error
		want   event
	}{
		{func() error { return os.WriteFile(path, nil, 0o600) }, event{i.directory, unix.IN_CREATE, name}},
		{func() error { return os.Chtimes(filepath.Join(i.dir, "watched"), time.Now(), time.Now()) }, event{i.watched, unix.IN_ATTRIB, ""}},
		{func() error { return os.Remove(path) }, event{i.directory, unix.IN_DELETE, name}},
	} {
		if err := do.action(); err != nil {
			return err
		}
		got, err := i.next()
		if err != nil {
			return err
		}
		if got != do.want {
			return damage("the event is %+v and not %+v", got, do.want)
		}
	}
	return nil
}

// notifyLimit is how long an event may take that ought to be there already.
const notifyLimit = 10 * time.Second

// wait returns when a descriptor can be read.
func wait(fd int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	var n int
	if err := retry(func() (err error) { n, err = unix.Poll(poll, int(notifyLimit.Milliseconds())); return err }); err != nil {
		return os.NewSyscallError("poll", err)
	}
	if n == 0 {
		return damage("no event came")
	}
	return nil
}

// next takes one event.
func (i *inotify) next() (e event, err error) {
	if err := wait(i.fd); err != nil {
		return e, err
	}
	b := make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1)
	n, err := unix.Read(i.fd, b)
	if err != nil || n < unix.SizeofInotifyEvent {
		return e, damage("%d bytes of an event, %v", n, err)
	}
	raw := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
	if n != unix.SizeofInotifyEvent+int(raw.Len) {
		return e, damage("%d bytes of events: there is more than one", n)
	}
	return event{int(raw.Wd), raw.Mask, unix.ByteSliceToString(b[unix.SizeofInotifyEvent:n])}, nil
}

// fanotify has a mark on a directory, which says what is opened in it.
type fanotify struct {
	fd  int
	dir string
}

func newFanotify(o Options) (m machine, err error) {
	f := &fanotify{dir: o.Dir}
	if f.fd, err = unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY); err != nil {
		return nil, fmt.Errorf("fanotify_init: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "watched"), nil, 0o600); err != nil {
		return nil, err
	}
	if err := unix.FanotifyMark(f.fd, unix.FAN_MARK_ADD, unix.FAN_CLOSE_WRITE|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, o.Dir); err != nil {
		return nil, fmt.Errorf("fanotify_mark: %w", err)
	}
	return f, nil
}

func (f *fanotify) step(n uint64) error {
	path := filepath.Join(f.dir, "watched")
	if err := os.WriteFile(path, number(n), 0o600); err != nil {
		return err
	}
	if err := wait(f.fd); err != nil {
		return err
	}
	var e unix.FanotifyEventMetadata
	length, err := unix.Read(f.fd, unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e)))
	if err != nil || length != int(unsafe.Sizeof(e)) || e.Mask != unix.FAN_CLOSE_WRITE {
		return damage("%d bytes of an event with mask %#x, %v", length, e.Mask, err)
	}
	file := os.NewFile(uintptr(e.Fd), path)
	defer file.Close()
	var b [8]byte
	if _, err := file.ReadAt(b[:], 0); err != nil || binary.BigEndian.Uint64(b[:]) != n {
		return damage("the event's file holds %x, %v", b, err)
	}
	return nil
}
