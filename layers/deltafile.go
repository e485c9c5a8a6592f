package layers

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sendFile sends a regular file: as a link if the destination has its inode by
// another name, not at all if nothing changed, else metadata and what differs.
func (w *deltaWriter) sendFile(c, p *node, path string) error {
	g := w.group(c)
	if g != nil && (g.settled && p != nil || p == nil && g.path != "") {
		return w.sendName(c, p, g, path)
	}
	if !w.mustRead(c, p, g, path) {
		c.file, c.attrs = p.file, p.attrs
		if g != nil {
			g.settled = true
		}
		return nil
	}
	out, err := w.transmit(c, p, path)
	if err != nil {
		return w.lost(c, p, path, err)
	}
	c.file = out
	if g != nil {
		out.shared = true
		out.dirty = out.dirty || g.mixed
		g.settled, g.contents, g.attrs = true, out, c.attrs
		if g.path == "" {
			g.path = path
		}
	}
	return nil
}

// sendName deals with a further name of a file that the destination has.
func (w *deltaWriter) sendName(c, p *node, g *linkGroup, path string) error {
	if w.o.Final && g.mixed {
		return &ChangedError{Path: path}
	}
	c.file = g.contents // until settle, which knows the last word
	c.file.shared = true
	if p != nil {
		return nil
	}
	w.stats.Entries++
	w.stats.Links++
	return w.enc.link(path, g.path)
}

func (w *deltaWriter) mustRead(c, p *node, g *linkGroup, path string) bool {
	if g != nil && (g.mixed || g.recheck) {
		return true
	}
	return c.changed(p) || w.recheck[path]
}

// lost deals with a file that vanished before anything was sent of it. The
// destination keeps what it has by that name until the next round.
func (w *deltaWriter) lost(c, p *node, path string, err error) error {
	if p == nil {
		c.flags |= flagGone
	} else {
		p.file.dirty = true
		name := c.name
		*c = *p
		c.name = name
		c.flags |= flagDirty
	}
	return w.tolerate(path, err)
}

// transmit sends a file and returns what the destination holds then. It fails
// with a vanished error only before the first record.
func (w *deltaWriter) transmit(c, p *node, path string) (*content, error) {
	dir, name, err := w.t.parent(path)
	if err != nil {
		return nil, err
	}
	a, err := w.xattrs.read(procName(dir, name), w.stats.drop)
	if err != nil {
		return nil, err
	}
	f, size, err := w.openFile(c, dir, name)
	if err != nil {
		return nil, err
	}
	if f != nil {
		defer f.Close()
	}
	c.attrs = a.digest()
	s := sending{w: w, c: c, p: p, path: path, attrs: a}
	if p != nil {
		s.old = p.file.blocks
	} else if slot, ok := w.slots[c]; ok {
		s.slot = &slot
		s.old = slot.base.blocks
	}
	return s.run(f, size)
}

// openFile returns the file opened and its size at that time, or nil if it is
// empty.
func (w *deltaWriter) openFile(c *node, dir *os.File, name string) (*os.File, int64, error) {
	if c.id.size == 0 {
		return nil, 0, nil
	}
	f, st, err := openRegular(dir, name)
	if err != nil {
		return nil, 0, fmt.Errorf("open: %w", err)
	}
	if st.Size > maxFileSize {
		f.Close()
		return nil, 0, &LimitError{What: "MaxFileSize", Limit: maxFileSize, Got: st.Size}
	}
	if st.Ino != c.id.ino {
		f.Close()
		return nil, 0, fmt.Errorf("open: %w", unix.ESTALE)
	}
	return f, st.Size, nil
}

// sending is one file on its way.
type sending struct {
	w     *deltaWriter
	c, p  *node
	path  string
	attrs attrs
	slot  *slot
	old   []blockSum
	begun bool
	dirty bool
}

func (s *sending) run(f *os.File, size int64) (*content, error) {
	if s.metadataChanged() {
		if err := s.begin(); err != nil {
			return nil, err
		}
	}
	blocks, err := s.readContent(f, size)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", s.path, notVanished(err))
	}
	if s.begun {
		if err := s.w.enc.fileEnd(size); err != nil {
			return nil, err
		}
	}
	return &content{blocks: blocks, dirty: s.dirty}, nil
}

// readContent reads and sends what differs.
//
// Stores through a shared mapping change neither mtime nor ctime while the page
// stays dirty: the time is stamped when the first store faults on a
// write-protected page (Linux mm/filemap.c filemap_page_mkwrite, file_update_time)
// and the page is write-protected again only when it is written out
// (clear_page_dirty_for_io, folio_mkclean). So the file is written out between
// the stat that the index keeps and the read: a store before the read is read,
// and a later one faults and makes the ctime differ in the next round. On a clean
// file it costs a microsecond. tmpfs does neither; there Options.Recheck is the
// only help.
func (s *sending) readContent(f *os.File, size int64) ([]blockSum, error) {
	if f == nil {
		return nil, nil
	}
	if !s.w.o.Final {
		const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err := unix.SyncFileRange(int(f.Fd()), 0, 0, all); err != nil {
			s.dirty = true
		}
	}
	r := &blockReader{f: f, size: size, block: int64(s.w.o.BlockSize), buf: s.w.buf, hash: s.w.hash}
	d := difference{w: s.w, r: r, begin: s.begin, old: s.old}
	blocks, err := d.run()
	if err != nil {
		return nil, err
	}
	return blocks, s.checkUnchanged(f, r.short)
}

// checkUnchanged compares the file with the stat that the index keeps.
func (s *sending) checkUnchanged(f *os.File, short bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if !short && identOf(&st) == s.c.id {
		return nil
	}
	if s.w.o.Final {
		return &ChangedError{Path: s.path}
	}
	s.dirty = true
	return nil
}

func (s *sending) metadataChanged() bool {
	p := s.p
	return p == nil || p.unsettled() || !sameOwner(&s.c.id, &p.id) || s.c.id.size != p.id.size ||
		s.c.id.mtime != p.id.mtime || s.c.attrs != p.attrs
}

// begin writes the ENTRY record, once.
func (s *sending) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	e := s.w.entryOf(s.c, s.p, s.path, s.attrs)
	if s.slot != nil {
		e.flags |= entrySlot
		e.slot = s.slot.number
		s.w.stats.Moved++
	}
	s.w.stats.Entries++
	s.w.stats.Files++
	return s.w.enc.entry(e)
}

// notVanished keeps an error met after the first record from being taken for a
// file that can be left out.
func notVanished(err error) error {
	if vanished(err) {
		return fmt.Errorf("read: %v", err)
	}
	return err
}
