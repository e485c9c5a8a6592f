package layers

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// target is a regular file of the destination while its content arrives.
type target struct {
	f     *os.File
	dir   *os.File // its directory; the tree's, unchanged until the file is closed
	name  string
	entry entry
	size  int64 // before this round
	pos   int64 // end of what the stream has covered
	data  int64 // end of the last data
}

func (a *applier) openFile(dir *os.File, name string, e *entry) error {
	flags := unix.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	switch {
	case e.flags&entrySlot != 0:
		if err := a.takeSlot(dir, name, e.slot); err != nil {
			return err
		}
	case e.flags&entryNew != 0:
		flags |= unix.O_CREAT | unix.O_EXCL
	default:
		// Never open what is no file: a FIFO or a device has other effects.
		if err := expect(dir, name, unix.S_IFREG); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(int(dir.Fd()), name, flags, 0o600)
	if err != nil {
		return based(fmt.Errorf("open: %w", err))
	}
	t := &target{f: os.NewFile(uintptr(fd), e.path), dir: dir, name: name, entry: *e}
	a.file = t
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	t.size = info.Size()
	return nil
}

// content handles the records that follow a file's ENTRY.
func (a *applier) content(rec *record) error {
	t := a.file
	if t == nil {
		return a.dec.bad("content outside of a file")
	}
	if err := a.checkRange(rec); err != nil {
		return err
	}
	var err error
	switch rec.typ {
	case recData:
		_, err = t.f.WriteAt(rec.data, rec.at)
		t.pos = rec.at + rec.length
		t.data = t.pos
		a.stats.Bytes += rec.length
	case recHole:
		t.pos = rec.at + rec.length
		err = t.punch(rec.at, t.pos)
	case recFileEnd:
		a.file = nil
		err = a.finishFile(t, rec.length)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", t.entry.path, err)
	}
	return nil
}

// checkRange keeps content within the limits and in ascending order.
func (a *applier) checkRange(rec *record) error {
	t := a.file
	if rec.at > a.l.MaxFileSize-rec.length {
		return &LimitError{What: "MaxFileSize", Limit: a.l.MaxFileSize, Got: max(rec.at, rec.length), Path: t.entry.path}
	}
	switch {
	case rec.typ == recFileEnd:
		if rec.length < t.data {
			return a.dec.bad("size less than the content")
		}
		return nil
	case rec.length == 0:
		return a.dec.bad("empty range")
	case rec.at < t.pos:
		return a.dec.bad("content out of order")
	}
	if got := a.stats.Bytes + rec.length; rec.typ == recData && got > a.l.MaxBytes {
		return &LimitError{What: "MaxBytes", Limit: a.l.MaxBytes, Got: got, Path: t.entry.path}
	}
	return nil
}

// punch makes a hole of what the file held before in [at, end). A range to the
// end of the file goes on past it, as file systems free whole blocks only.
func (t *target) punch(at, end int64) error {
	end = min(end, (t.size|(maxData-1))+1)
	if at >= min(end, t.size) {
		return nil
	}
	err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, end-at)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return t.writeZeros(at, min(end, t.size))
	case err != nil:
		return fmt.Errorf("punch hole: %w", err)
	}
	return nil
}

// writeZeros stands in for punch where the file system cannot.
func (t *target) writeZeros(at, end int64) error {
	zeros := make([]byte, min(end-at, maxData))
	for at < end {
		n, err := t.f.WriteAt(zeros[:min(end-at, maxData)], at)
		if err != nil {
			return fmt.Errorf("write zeros: %w", err)
		}
		at += int64(n)
	}
	return nil
}

func (a *applier) finishFile(t *target, size int64) error {
	defer t.f.Close()
	if err := t.f.Truncate(size); err != nil {
		return err
	}
	if err := a.setMetadata(t.dir, t.name, &t.entry); err != nil {
		return err
	}
	return t.f.Close()
}
