package layers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxScanners bounds the goroutines that stat in parallel. More than a few gain
// nothing on a cached tree and disturb a running container.
const maxScanners = 4

// scanner reads the names and stats of a whole tree into nodes: one getdents and
// one fstatat an entry, no attributes, no content.
type scanner struct {
	ctx   context.Context
	dev   uint64
	final bool
	racy  time.Duration
	limit int64
	only  string // see Options

	entries atomic.Int64
	blocks  atomic.Int64 // of 512 bytes, without files of several names
	linked  sync.Map     // inode → struct{}, files of several names already counted

	mu      sync.Mutex
	wake    *sync.Cond
	queue   []*node // directories to read
	pending int     // directories queued or being read
	err     error
}

// scan returns the upper directory's node. A directory that vanishes meanwhile
// is left empty and dirty, or is an error in a final round.
func (s *scanner) scan(t *tree) (*node, error) {
	now := time.Now()
	st, err := lstat(t.root, ".")
	if err != nil {
		return nil, fmt.Errorf("stat upper directory: %w", err)
	}
	s.dev = uint64(st.Dev)
	root := s.newNode("", &st, now, nil)
	s.wake = sync.NewCond(&s.mu)
	s.queue, s.pending = []*node{root}, 1
	var wg sync.WaitGroup
	for range min(maxScanners, runtime.GOMAXPROCS(0)) {
		wg.Go(func() { s.work(t.share()) })
	}
	wg.Wait()
	return root, s.err
}

func (s *scanner) work(t *tree) {
	for {
		n := s.take()
		if n == nil {
			return
		}
		found, err := s.readDir(t, n)
		s.done(found, err)
	}
}

// take waits for a directory; nil means that all are read or one has failed.
func (s *scanner) take() *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && s.pending > 0 && s.err == nil {
		s.wake.Wait()
	}
	if s.err != nil || s.pending == 0 {
		return nil
	}
	n := s.queue[len(s.queue)-1]
	s.queue = s.queue[:len(s.queue)-1]
	return n
}

func (s *scanner) done(found []*node, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, found...)
	s.pending += len(found) - 1
	if err != nil && s.err == nil {
		s.err = err
	}
	s.wake.Broadcast()
}

// readDir fills in n's children and returns those that are directories.
func (s *scanner) readDir(t *tree, n *node) ([]*node, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	path := n.path()
	if len(path) > maxPath-maxName-1 {
		return nil, &LimitError{What: "MaxPath", Limit: maxPath, Got: int64(len(path) + maxName + 1), Path: path}
	}
	dir, err := t.openDir(path)
	if err != nil {
		return nil, s.tolerate(n, path, err)
	}
	defer dir.Close()
	// Taken before the stats, so that a ctime looks younger than it is, not older.
	now := time.Now()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, s.tolerate(n, path, err)
	}
	if s.only != "" && path == "" {
		names = slices.DeleteFunc(names, func(name string) bool { return name != s.only })
	}
	slices.Sort(names)
	if err := s.statAll(dir, n, path, names, now); err != nil {
		return nil, err
	}
	var dirs []*node
	for i := range n.dir.children {
		if c := &n.dir.children[i]; c.dir != nil {
			dirs = append(dirs, c)
		}
	}
	return dirs, nil
}

func (s *scanner) statAll(dir *os.File, n *node, path string, names []string, now time.Time) error {
	children := make([]node, 0, len(names))
	for _, name := range names {
		st, err := lstat(dir, name)
		if err != nil {
			if err := s.tolerate(n, joinPath(path, name), err); err != nil {
				return err
			}
			continue
		}
		if uint64(st.Dev) != s.dev {
			return fmt.Errorf("scan %q: another file system is mounted there", joinPath(path, name))
		}
		children = append(children, *s.newNode(name, &st, now, n))
	}
	n.dir.children = children
	return s.count(int64(len(children)))
}

func (s *scanner) count(n int64) error {
	if total := s.entries.Add(n); s.limit > 0 && total > s.limit {
		return &LimitError{What: "MaxEntries", Limit: s.limit, Got: total}
	}
	return nil
}

func (s *scanner) newNode(name string, st *unix.Stat_t, now time.Time, parent *node) *node {
	n := &node{name: name, id: identOf(st)}
	if n.id.isDir() {
		n.dir = &dirNode{parent: parent}
	}
	if s.racy >= 0 && !n.id.isWhiteout() && now.Sub(n.id.ctime.time()) < s.racy {
		n.flags |= flagRacy
	}
	s.account(st)
	return n
}

func (s *scanner) account(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if _, seen := s.linked.LoadOrStore(st.Ino, struct{}{}); seen {
			return
		}
	}
	s.blocks.Add(st.Blocks)
}

// tolerate passes over what a running container does to a tree that is being
// read: n is looked at again in the next round.
func (s *scanner) tolerate(n *node, path string, err error) error {
	if !vanished(err) {
		return fmt.Errorf("scan %q: %w", path, err)
	}
	if s.final {
		return &ChangedError{Path: path, Err: err}
	}
	n.flags |= flagDirty
	return nil
}

// vanished says whether err is what a name gives that has been removed or
// replaced since it was listed.
func vanished(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ESTALE, unix.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// path returns a directory's path.
func (n *node) path() string {
	var names []string
	for ; n.dir.parent != nil; n = n.dir.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}
