package layers

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Apply reads one round from r, to its end, and makes its changes to the
// directory upper, which exists, is mounted nowhere, and is used by nobody else
// meanwhile. Call it once for each round, in order, on the same directory.
//
// A damaged stream is a *FormatError, one that asks for too much a *LimitError,
// one that does not build on what the directory holds an ErrBase; failures of
// the file system are passed on, so that errors.Is finds ENOSPC. After any error
// the directory holds part of the round and must be discarded.
func Apply(ctx context.Context, r io.Reader, upper string, l Limits) (Stats, error) {
	t, err := openTree(upper)
	if err != nil {
		return Stats{}, err
	}
	defer t.close()
	a := &applier{ctx: ctx, t: t, l: l.withDefaults(), slots: make(map[uint32]string), stash: ".migrate-slot-" + rand.Text() + "-"}
	defer a.abandon()
	if err := a.run(r); err != nil {
		return a.stats, fmt.Errorf("apply layer to %s: %w", upper, err)
	}
	return a.stats, nil
}

// applier is one Apply.
type applier struct {
	ctx    context.Context
	t      *tree
	dec    *decoder
	l      Limits
	stats  Stats
	count  int64 // records against MaxEntries
	phase  phase
	last   string            // path of the last record in this phase
	file   *target           // file being written
	slots  map[uint32]string // number → name in the upper directory
	stash  string            // what those names start with; a stream cannot guess it
	xattrs xattrReader
}

// phase is the part of a stream a record belongs to. They come in this order, and
// paths ascend within each.
type phase int

const (
	phaseSlots phase = iota
	phaseRemovals
	phaseEntries
	phaseTimes
)

func phaseOf(typ byte) phase {
	switch typ {
	case recSlot:
		return phaseSlots
	case recRemove:
		return phaseRemovals
	case recDirTime:
		return phaseTimes
	}
	return phaseEntries
}

func (a *applier) run(r io.Reader) error {
	dec, err := newDecoder(r, a.l)
	if err != nil {
		return err
	}
	a.dec = dec
	var rec record
	for {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if err := dec.next(&rec); err != nil {
			return err
		}
		if rec.typ == recEnd {
			return a.end()
		}
		if err := a.record(&rec); err != nil {
			return err
		}
	}
}

func (a *applier) end() error {
	if a.file != nil {
		return a.dec.bad("end within a file")
	}
	a.stats.StreamBytes = a.dec.offset
	return a.dropSlots()
}

func (a *applier) record(rec *record) error {
	switch rec.typ {
	case recData, recHole, recFileEnd:
		return a.content(rec)
	}
	if a.file != nil {
		return a.dec.bad("record within a file")
	}
	if err := a.admit(rec); err != nil {
		return err
	}
	if err := a.act(rec); err != nil {
		return fmt.Errorf("%q: %w", rec.path, err)
	}
	return nil
}

// admit checks the order and the number of records.
func (a *applier) admit(rec *record) error {
	switch p := phaseOf(rec.typ); {
	case p < a.phase:
		return a.dec.bad("record out of order")
	case p > a.phase:
		a.phase = p
		a.t.forget()
		if p == phaseTimes { // no name changes after the first mtime
			if err := a.dropSlots(); err != nil {
				return err
			}
		}
	case a.count > 0 && comparePaths(a.last, rec.path) >= 0:
		return a.dec.bad(fmt.Sprintf("path %q out of order", rec.path))
	}
	a.last = rec.path
	if a.count++; a.count > a.l.MaxEntries {
		return &LimitError{What: "MaxEntries", Limit: a.l.MaxEntries, Got: a.count}
	}
	return nil
}

func (a *applier) act(rec *record) error {
	switch rec.typ {
	case recSlot:
		return a.putAside(rec)
	case recRemove:
		a.stats.Removed++
		return a.remove(rec.path)
	case recEntry:
		a.stats.Entries++
		return a.entry(&rec.entry)
	case recWhiteout:
		a.stats.Entries++
		return a.whiteout(rec.path)
	case recLink:
		a.stats.Entries++
		a.stats.Links++
		return a.link(rec.path, rec.target)
	}
	return a.dirTime(rec)
}

// entry creates or changes an entry. A file stays open for its content, and gets
// its metadata after that.
func (a *applier) entry(e *entry) error {
	dir, name, err := a.t.parent(e.path)
	if err != nil {
		return based(err)
	}
	switch e.kind {
	case kindFile:
		a.stats.Files++
		return a.openFile(dir, name, e)
	case kindDir:
		a.stats.Dirs++
	case kindChar, kindBlock:
		if !a.l.AllowDevices {
			return ErrDevice
		}
	}
	if e.flags&entryNew != 0 {
		err = create(dir, name, e)
	} else {
		err = expect(dir, name, unix.S_IFDIR)
	}
	if err != nil {
		return err
	}
	return a.setMetadata(dir, name, e)
}

// create makes an entry that is no regular file, closed to others until it has
// its metadata.
func create(dir *os.File, name string, e *entry) error {
	fd := int(dir.Fd())
	var err error
	switch e.kind {
	case kindDir:
		err = unix.Mkdirat(fd, name, 0o700)
	case kindSymlink:
		err = unix.Symlinkat(e.target, fd, name)
	case kindFIFO:
		err = unix.Mknodat(fd, name, unix.S_IFIFO|0o600, 0)
	case kindSocket:
		err = unix.Mknodat(fd, name, unix.S_IFSOCK|0o600, 0)
	case kindChar:
		err = unix.Mknodat(fd, name, unix.S_IFCHR|0o600, int(unix.Mkdev(e.major, e.minor)))
	case kindBlock:
		err = unix.Mknodat(fd, name, unix.S_IFBLK|0o600, int(unix.Mkdev(e.major, e.minor)))
	}
	if err != nil {
		return based(fmt.Errorf("create: %w", err))
	}
	return nil
}

// expect checks that an entry exists and is of the kind that the stream changes.
func expect(dir *os.File, name string, kind uint32) error {
	st, err := lstat(dir, name)
	if err != nil {
		return based(fmt.Errorf("stat: %w", err))
	}
	if st.Mode&unix.S_IFMT != kind {
		return fmt.Errorf("%w: mode %#o", ErrBase, st.Mode)
	}
	return nil
}

func (a *applier) whiteout(path string) error {
	dir, name, err := a.t.parent(path)
	if err != nil {
		return based(err)
	}
	if err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFCHR, 0); err != nil {
		return based(fmt.Errorf("create whiteout: %w", err))
	}
	return nil
}

// link gives a regular file that is there already a further name.
func (a *applier) link(path, target string) error {
	dir, name, err := a.t.parent(path)
	if err != nil {
		return based(err)
	}
	parent, base := splitPath(target)
	from, err := a.t.openDir(parent)
	if err != nil {
		return based(err)
	}
	defer from.Close()
	if err := expect(from, base, unix.S_IFREG); err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	if err := unix.Linkat(int(from.Fd()), base, int(dir.Fd()), name, 0); err != nil {
		return based(fmt.Errorf("link to %q: %w", target, err))
	}
	return nil
}

func (a *applier) dirTime(rec *record) error {
	dir, name, err := a.t.parent(rec.path)
	if err != nil {
		return based(err)
	}
	if err := expect(dir, name, unix.S_IFDIR); err != nil {
		return err
	}
	return setTime(dir, name, rec.mtime)
}
