package layers

// linkGroup is a regular file with several names, now or at the destination.
// The first name that is met in order carries the content, the others are links.
type linkGroup struct {
	first    ident
	mixed    bool     // names were seen with different stats: it changed during the scan
	many     bool     // more than one name in this tree
	recheck  bool     // one of the names is in Options.Recheck
	held     *content // what the destination's inode holds, nil if it has none of the names
	path     string   // a name that the destination has, "" if none yet
	settled  bool     // content and metadata have been dealt with in this round
	attrs    digest
	contents *content // what the destination's inode holds after this round
}

// collectLinks finds the groups. Membership goes by inode number, for new link
// counts above one as well as for old ones, and by what is one inode at the
// destination: all names that are one inode there and stay have one inode number
// here, so they are in one group.
func (w *deltaWriter) collectLinks(cur, prev *node, path string) error {
	return mergeChildren(cur, prev, func(c, p *node) error {
		if c == nil {
			return nil
		}
		at := joinPath(path, c.name)
		if c.dir != nil {
			return w.collectLinks(c, p, at)
		}
		if c.id.isRegular() && (c.id.nlink > 1 || p != nil && p.file != nil && p.file.shared) {
			w.addLink(c, p, at)
		}
		return nil
	})
}

func (w *deltaWriter) addLink(c, p *node, path string) {
	g := w.groups[c.id.ino]
	if g == nil {
		g = &linkGroup{first: c.id}
		w.groups[c.id.ino] = g
	} else {
		g.many = true
	}
	g.mixed = g.mixed || g.first != c.id
	g.recheck = g.recheck || w.recheck[path]
	if g.held == nil && c.inPlace(p) {
		g.held, g.path = p.file, path
		g.contents, g.attrs = p.file, p.attrs
	}
}

// group returns the group of a regular file, nil if it has but one name.
func (w *deltaWriter) group(c *node) *linkGroup {
	if len(w.groups) == 0 || !c.id.isRegular() {
		return nil
	}
	return w.groups[c.id.ino]
}

// keeps says whether the destination's entry at this path stays and is changed in
// place. A name whose inode at the destination is another than its group's is not
// kept: it becomes a link.
func (w *deltaWriter) keeps(c, p *node) bool {
	if c == nil || !c.inPlace(p) {
		return false
	}
	g := w.group(c)
	return g == nil || p.file == g.held
}
