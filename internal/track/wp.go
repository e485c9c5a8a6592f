package track

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"migrate/internal/uffd"

	"golang.org/x/sys/unix"
)

const wpFeatures = uffd.FeatureWPAsync | uffd.FeatureWPUnpopulated

// Queries, all on ownPages.
var (
	wpWritten = func() uffd.Query {
		q := ownPages
		q.Mask |= uffd.Written
		q.Return, q.Protect = uffd.Written, true
		return q
	}()
	wpAll = func() uffd.Query {
		q := ownPages
		q.Return, q.Protect = uffd.Written, true
		return q
	}()
	wpClean = func() uffd.Query {
		q := ownPages
		q.Inverted |= uffd.Written
		q.Mask |= uffd.Written | uffd.WPAllowed
		q.Return = uffd.WPAllowed
		return q
	}()
)

// injectTries is how many scans try to take in a process that does not let them. Meanwhile it is hashed.
const injectTries = 5

func newWPMethods(log *slog.Logger) (methods, error) {
	return &wpMethods{
		log:     log,
		hash:    hashMethods{newHasher(), newLister()},
		scanner: uffd.NewScanner(-1),
		live:    map[*wpMethod]bool{},
	}, nil
}

// wpMethods tracks by write protection. All but copied is called by one goroutine at a time.
type wpMethods struct {
	log     *slog.Logger
	hash    hashMethods
	maps    mapReader
	scanner *uffd.Scanner
	live    map[*wpMethod]bool
}

func (m *wpMethods) adopt(_ context.Context, p *process, _ space) (method, error) {
	for other := range m.live {
		if same(kcmpVM, p.pid, other.p.pid, 0, 0) {
			return &sharedMethod{pid: p.pid, owner: other.p.pid}, nil
		}
	}
	w := &wpMethod{
		all: m, p: p, fd: -1,
		hash: &hashMethod{p: p, lister: m.hash.lister, sums: newSums(m.hash.hasher)},
	}
	m.live[w] = true
	return w, nil
}

// strays lists the descriptors that a process got from one that forked while ours was in it.
func (m *wpMethods) strays(pid int) []int {
	var fds []int
	for _, fd := range userfaultfds(pid) {
		for w := range m.live {
			if w.fd >= 0 && same(kcmpFile, os.Getpid(), pid, w.fd, fd) {
				fds = append(fds, fd)
			}
		}
	}
	return fds
}

// sharedMethod stands for a process whose memory is all another's that is tracked, as between vfork and exec. Its pages are not
// listed: most such processes are gone before they could be copied, and nothing of them counts as clean.
type sharedMethod struct{ pid, owner int }

func (s *sharedMethod) scan(context.Context, space) (pages, void []Range, err error) {
	if !same(kcmpVM, s.pid, s.owner, 0, 0) {
		return nil, nil, gone(s.pid, fmt.Errorf("process %d no longer has the memory of %d", s.pid, s.owner))
	}
	return nil, nil, nil
}

func (s *sharedMethod) final(space) ([]Range, error) { return nil, nil }
func (s *sharedMethod) copied([]Range, []byte)       {}
func (s *sharedMethod) close()                       {}

// wpMethod tracks one process: anonymous memory by write protection, the rest by content.
type wpMethod struct {
	all   *wpMethods
	p     *process
	hash  *hashMethod
	fd    int // userfaultfd of the process's memory; -1: there is none, everything is hashed
	tries int
	young fresh
	busy  backoff

	mu     sync.Mutex
	hashed []Range // what the last scan hashed
}

// arm puts a userfaultfd into the process if there is none.
func (w *wpMethod) arm(ctx context.Context, sp space) {
	if w.fd >= 0 || w.tries >= injectTries || sp.still {
		return
	}
	w.tries++
	fd, err := injectUserfaultfd(ctx, w.p.pid, sp.vdso, func() []int { return w.all.strays(w.p.pid) })
	if err == nil {
		if err = uffd.API(fd, wpFeatures); err != nil {
			unix.Close(fd)
			err = fmt.Errorf("set up userfaultfd of process %d: %w", w.p.pid, err)
		}
	}
	if err != nil {
		if errors.Is(err, errStay) {
			w.tries = injectTries
		}
		if !errors.Is(err, ErrGone) {
			w.all.log.InfoContext(ctx, "process is tracked by content", "pid", w.p.pid, "error", err)
		}
		return
	}
	w.fd = fd
}

func (w *wpMethod) scan(ctx context.Context, sp space) (pages, void []Range, err error) {
	defer w.hash.sums.turn()
	w.arm(ctx, sp)
	rest, open := []vma(nil), []Range(nil)
	for _, v := range sp.private {
		if !v.anon || w.fd < 0 {
			rest = append(rest, v)
			continue
		}
		switch err := w.query(v.Range, wpWritten, &pages); {
		case errors.Is(err, unix.EPERM):
			// What was protected before the scan met the part that is not watched is lost, so everything is reported.
			open = append(open, v.Range)
		case err != nil:
			return nil, nil, fmt.Errorf("protect memory of process %d at %#x: %w", w.p.pid, v.Start, err)
		}
	}
	if len(open) > 0 {
		all, fresh, more, err := w.begin(ctx, sp, open)
		if err != nil {
			return nil, nil, err
		}
		void, pages, rest = fresh, append(pages, all...), append(rest, more...)
		slices.SortFunc(rest, func(a, b vma) int { return cmp.Compare(a.Start, b.Start) })
	}
	pages = append(pages, w.young.turn(w.p.pid, sp.aio, pages)...)
	w.setHashed(rest)
	changed, err := w.hash.changed(rest)
	if err != nil {
		return nil, nil, err
	}
	return normal(append(pages, changed...)), void, nil
}

func (w *wpMethod) query(r Range, q uffd.Query, pages *[]Range) error {
	w.all.scanner.Use(int(w.p.pagemap.Fd()))
	return w.all.scanner.Scan(r.Start, r.End, q, func(f uffd.Region) { *pages = add(*pages, Range{f.Start, f.End}) })
}

func (w *wpMethod) final(sp space) ([]Range, error) {
	var clean []Range
	var rest []vma
	for _, v := range sp.private {
		if v.anon && w.fd >= 0 {
			var found []Range
			err := w.query(v.Range, wpClean, &found)
			if err == nil {
				clean = append(clean, found...)
				continue
			}
			if !errors.Is(err, unix.EPERM) {
				return nil, fmt.Errorf("look at memory of process %d at %#x: %w", w.p.pid, v.Start, err)
			}
		}
		rest = append(rest, v)
	}
	clean = minus(normal(clean), w.young.unsettled())
	v, _, err := w.hash.look(rest)
	if err != nil {
		return nil, err
	}
	return normal(append(clean, v.same...)), nil
}

func (w *wpMethod) setHashed(vmas []vma) {
	hashed := make([]Range, 0, len(vmas))
	for _, v := range vmas {
		hashed = add(hashed, v.Range)
	}
	w.mu.Lock()
	w.hashed = hashed
	w.mu.Unlock()
}

// copied remembers what is hashed. Of other pages an older sum must not stay: they may be hashed again one day.
func (w *wpMethod) copied(ranges []Range, data []byte) {
	w.mu.Lock()
	hashed := w.hashed
	w.mu.Unlock()
	for _, r := range ranges {
		one := []Range{r}
		outside := minus(one, hashed)
		for _, o := range outside {
			w.hash.sums.drop(o)
		}
		for _, in := range minus(one, outside) {
			w.hash.sums.put(in.Start, data[in.Start-r.Start:in.End-r.Start])
		}
		data = data[r.Len():]
	}
}

// close ends the registration of all of the process's memory with the descriptor, since there is no other copy of it.
func (w *wpMethod) close() {
	delete(w.all.live, w)
	if w.fd >= 0 {
		unix.Close(w.fd)
		w.fd = -1
	}
}

// settling is how long a device may take to fill a page, generously.
const settling = time.Second

// fresh keeps the pages that a process with direct or asynchronous I/O has written lately.
//
// A page that is being read into from a device counts as written from the start of that; if it is protected and copied before the device has
// written, nothing tells that it changed. So, for such processes, what was written is reported once more after a while and is
// not clean until then.
type fresh struct {
	direct bool
	rounds []freshRound // oldest first
}

type freshRound struct {
	at    time.Time
	pages []Range
}

// turn takes what a scan has just found and returns what has to be reported again. It looks after the scan for open files
// of direct I/O: one that was used as the scan ran is still open, as long as the program waits for its data.
func (f *fresh) turn(pid int, aio bool, pages []Range) []Range {
	f.direct = f.direct || aio || readsDirectly(pid)
	if !f.direct {
		return nil
	}
	now := time.Now()
	var again []Range
	for len(f.rounds) > 0 && now.Sub(f.rounds[0].at) >= settling {
		again = append(again, f.rounds[0].pages...)
		f.rounds = f.rounds[1:]
	}
	if len(pages) > 0 {
		f.rounds = append(f.rounds, freshRound{now, normal(append([]Range(nil), pages...))})
	}
	return again
}

func (f *fresh) unsettled() []Range {
	var all []Range
	for _, r := range f.rounds {
		all = append(all, r.pages...)
	}
	return normal(all)
}
