package layers

import "golang.org/x/sys/unix"

// slot is a file that the destination has put aside under a number, because it
// has another name now: a log that was rotated, a database that was compacted.
type slot struct {
	number uint32
	base   *content
}

// sendSlots puts aside files whose old name goes and whose inode has a new name.
// Files with several names are left alone, and so are small ones.
func (w *deltaWriter) sendSlots(root, prev *node) error {
	fresh := make(map[uint64]*node)
	if err := w.collectFresh(root, prev, fresh); err != nil || len(fresh) == 0 {
		return err
	}
	return w.matchGone(root, root, prev, "", fresh)
}

// collectFresh finds the big files that the destination does not have by name.
func (w *deltaWriter) collectFresh(cur, prev *node, fresh map[uint64]*node) error {
	return mergeChildren(cur, prev, func(c, p *node) error {
		switch {
		case c == nil:
			return nil
		case c.dir != nil:
			return w.collectFresh(c, p, fresh)
		case c.id.isRegular() && c.id.size >= w.o.MoveThreshold && c.id.nlink == 1 &&
			w.group(c) == nil && !w.keeps(c, p):
			fresh[c.id.ino] = c
		}
		return nil
	})
}

// matchGone finds those files among the old names that go. cur is nil below a
// directory that goes.
func (w *deltaWriter) matchGone(root, cur, prev *node, path string, fresh map[uint64]*node) error {
	return mergeChildren(cur, prev, func(c, p *node) error {
		if p == nil {
			return nil
		}
		at := joinPath(path, p.name)
		if p.id.kind() == unix.S_IFDIR {
			if !w.keeps(c, p) {
				c = nil
			}
			return w.matchGone(root, c, p, at, fresh)
		}
		to := fresh[p.id.ino]
		if to == nil || p.file == nil || p.file.shared || w.keeps(c, p) ||
			p.id.size < w.o.MoveThreshold || len(w.slots) >= maxSlots {
			return nil
		}
		delete(fresh, p.id.ino)
		number := uint32(len(w.slots))
		w.slots[to] = slot{number, p.file}
		w.aside[p] = true
		root.flags |= flagTouched // slots are kept in the directory itself
		return w.enc.putAside(at, number)
	})
}
