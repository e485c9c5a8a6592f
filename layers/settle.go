package layers

// finish sends the directories' mtimes and END, and completes the index.
func (w *deltaWriter) finish(x *Index) error {
	if err := w.settle(x, x.root, ""); err != nil {
		return err
	}
	if err := w.enc.end(); err != nil {
		return err
	}
	w.stats.Unsettled = x.unsettled
	w.stats.StreamBytes = w.enc.written
	w.stats.Bytes = w.enc.bytes
	if w.o.Progress != nil {
		w.o.Progress(w.stats)
	}
	return nil
}

func (w *deltaWriter) settle(x *Index, n *node, path string) error {
	if n.flags&flagTouched != 0 {
		n.flags &^= flagTouched
		if err := w.enc.dirTime(path, n.id.mtime); err != nil {
			return err
		}
	}
	n.dir.parent = nil // was for the scan, and moves below
	keep := n.dir.children[:0]
	for i := range n.dir.children {
		c := &n.dir.children[i]
		if c.flags&flagGone != 0 {
			n.flags |= flagDirty
			continue
		}
		w.settleNode(x, c)
		if c.dir != nil {
			if err := w.settle(x, c, joinPath(path, c.name)); err != nil {
				return err
			}
		}
		keep = append(keep, *c)
	}
	clear(n.dir.children[len(keep):])
	n.dir.children = keep
	return nil
}

func (w *deltaWriter) settleNode(x *Index, c *node) {
	if g := w.group(c); g != nil && c.file != nil {
		c.file, c.attrs = g.contents, g.attrs
		c.file.shared = true
	}
	if c.unsettled() {
		x.unsettled++
	}
}

// pace spaces the calls of Options.Progress.
type pace struct{ entries, bytes int64 }

const (
	paceEntries = 1024
	paceBytes   = 8 << 20
)

func (p *pace) tick(w *deltaWriter, entries, bytes int64) {
	p.entries += entries
	p.bytes += bytes
	if w.o.Progress == nil || p.entries < paceEntries && p.bytes < paceBytes {
		return
	}
	*p = pace{}
	w.report()
}

// report hands out the counts so far.
func (w *deltaWriter) report() {
	w.stats.Bytes, w.stats.StreamBytes = w.enc.bytes, w.enc.written
	w.o.Progress(w.stats)
}
