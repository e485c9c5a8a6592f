package pager

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/uffd"
)

// space is one address space: that of a restored task, or of a child that it forked since.
type space struct {
	id     int
	vpid   int // that of the task in the plan from which it descends
	w      *worker
	family *family // nil for tasks that the plan does not know
	over   atomic.Bool

	kicks int // eventfd: look at over and at the faults again

	mu     sync.RWMutex // held for reading during every copy, for writing while events are read and applied
	fd     int          // userfaultfd; -1 when closed
	pages  *pageMap
	gen    uint64  // counts what events have done to pages
	moving []moved // mremaps that the kernel has not completed for certain

	// of the goroutine that serves faults
	waiting []uint64 // addresses of faults that are not answered
	page    [pageSize]byte

	// of the fillers
	fillMu sync.Mutex
	cursor uint64 // where the next chunk is looked for
}

// moved is an mremap of n bytes.
type moved struct{ from, to, n uint64 }

func newSpace(w *worker, id, vpid, fd int) (*space, error) {
	kicks, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return &space{id: id, vpid: vpid, w: w, fd: fd, kicks: kicks, pages: newPageMap(nil)}, nil
}

// kick makes the serving goroutine look again.
func (s *space) kick() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd >= 0 {
		_, _ = unix.Write(s.kicks, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a full counter wakes as well
	}
}

// end makes the address space be let go. Not to be called with mu held.
func (s *space) end() {
	if !s.over.Swap(true) {
		s.kick()
	}
}

// How long to wait before trying again what the kernel refused for the moment: it tells when an event is to be read, and not
// when the task that caused it has gone on.
const (
	pauseLeast = 50 * time.Microsecond
	pauseMost  = 10 * time.Millisecond
)

// serve answers faults until nothing is missing or the process is gone, and lets the address space go. After an error it is not
// let go: its tasks had better block.
func (s *space) serve() {
	pause := time.Duration(0)
	for !s.complete() {
		err := s.wait(pause)
		if err == nil {
			err = s.takeEvents()
		}
		if err != nil {
			s.w.fail(err)
			return
		}
		if s.answerAll() {
			pause = min(max(2*pause, pauseLeast), pauseMost)
		} else {
			pause = 0
		}
	}
	s.close()
}

// complete says that there is nothing to be done any more. Before the restore is complete, mappings may still come.
func (s *space) complete() bool {
	return s.over.Load() || s.w.restored.Load() && s.pages.left.Load() == 0
}

// wait returns when there are events, after a kick, or after pause if that is not zero.
func (s *space) wait(pause time.Duration) error {
	var limit *unix.Timespec
	if pause > 0 {
		t := unix.NsecToTimespec(pause.Nanoseconds())
		limit = &t
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.kicks), Events: unix.POLLIN}}
	if _, err := unix.Ppoll(fds, limit, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for faults of vpid %d: %w", s.vpid, err)
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 {
		return fmt.Errorf("wait for faults of vpid %d: the descriptor is not in order", s.vpid)
	}
	if fds[1].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(s.kicks, b[:])
	}
	return nil
}

// takeEvents reads what events there are and applies them.
func (s *space) takeEvents() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.moving) > 0 && !uffd.Changing(s.fd) {
		s.moving = nil
	}
	evs, err := uffd.ReadEvents(s.fd, nil)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("read events of vpid %d: %w", s.vpid, err)
	}
	for _, ev := range evs {
		if err := s.apply(ev); err != nil {
			return err
		}
	}
	return nil
}

func (s *space) apply(ev uffd.Event) error {
	switch ev.Kind {
	case uffd.EventFault:
		if addr := ev.Addr &^ (pageSize - 1); !slices.Contains(s.waiting, addr) {
			s.waiting = append(s.waiting, addr)
		}
		return nil
	case uffd.EventFork:
		return s.w.forked(s, ev.FD)
	case uffd.EventRemap:
		s.pages.move(ev.Addr, ev.To, ev.Len, s.drop)
		s.moving = append(s.moving, moved{ev.Addr, ev.To, ev.Len})
	case uffd.EventRemove:
		s.pages.finish(ev.Start, ev.End, s.drop)
	case uffd.EventUnmap:
		s.unmap(ev.Start, ev.End)
	default:
		return fmt.Errorf("event %#x of vpid %d is unknown", ev.Kind, s.vpid)
	}
	s.gen++
	s.w.lookAgain()
	return nil
}

// unmap takes [start, end) out of the map, except for what an mremap has just put there: while that mremap is under way, the
// message must be a late one about what was at the same place before, by a thread that had unmapped it but was not yet heard. It
// is over when its own message comes, that where it took the pages from is unmapped.
func (s *space) unmap(start, end uint64) {
	s.moving = slices.DeleteFunc(s.moving, func(m moved) bool { return start <= m.from && m.from < end })
	for start < end {
		stop, next := end, end
		for _, m := range s.moving {
			if m.to < end && start < m.to+m.n && m.to < stop {
				stop, next = max(m.to, start), m.to+m.n
			}
		}
		s.pages.finish(start, stop, s.drop)
		start = next
	}
}

// drop is for pages that are not missing any more. Only pages of a family are ever in a map.
func (s *space) drop(src source, n uint32) { s.family.drop(src, n) }

// slot tells where a missing page is; false: not on this host.
func (s *space) slot(src source) (uint32, bool) { return s.family.slot(src) }

// answerAll tries every fault that waits. It tells whether one of them is to be tried again soon.
func (s *space) answerAll() (again bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	kept := s.waiting[:0]
	for _, addr := range s.waiting {
		switch err := s.answer(addr); {
		case err == nil:
			s.w.faults.Add(1)
		case errors.Is(err, errRemote):
			kept = append(kept, addr)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, errUnmapped):
			kept = append(kept, addr)
			again = true
		case isGone(err):
			s.over.Store(true)
		default:
			s.w.fail(fmt.Errorf("answer the fault of vpid %d at %#x: %w", s.vpid, addr, err))
		}
	}
	s.waiting = kept
	return again
}

// isGone recognizes that the process has ended, or runs another program.
func isGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOSPC) }

var (
	// errRemote: the page has to arrive first.
	errRemote = errors.New("the page is not on this host")
	// errUnmapped: there is no mapping, but there may be one when the restore is complete.
	errUnmapped = errors.New("the page is not mapped yet")
)

func (s *space) answer(addr uint64) error {
	src, ok := s.pages.find(addr)
	if !ok {
		return s.zero(addr)
	}
	slot, ok := s.slot(src)
	switch {
	case !ok:
		if planned, first := s.family.ask(src); first {
			s.w.request(Request{s.vpid, planned})
		}
		return errRemote
	case slot == ZeroSlot:
		return s.zero(addr)
	}
	// another user of this page may finish it meanwhile, and the slot become a hole; then the copy finds the page in place
	if err := s.w.store.read([]uint32{slot}, s.page[:]); err != nil {
		return err
	}
	return s.copy(addr, s.page[:])
}

// zero puts a page of zeros at addr.
func (s *space) zero(addr uint64) error {
	_, err := uffd.Zero(s.fd, addr, pageSize)
	if err == nil {
		s.w.zeros.Add(1)
	}
	if err = s.settle(addr, err); err == nil {
		s.pages.finish(addr, addr+pageSize, s.drop)
	}
	return err
}

// copy fills missing pages. The caller holds mu for reading, and has seen under the same lock that data is what belongs there.
func (s *space) copy(addr uint64, data []byte) error {
	for try := len(data); len(data) > 0; {
		n, err := uffd.Copy(s.fd, addr, data[:min(try, len(data))])
		s.w.copied.Add(int64(n / pageSize))
		switch {
		case err == nil:
			try = len(data)
		case n > 0: // why not more comes with the next attempt
		case errors.Is(err, unix.ENOENT) && try > pageSize:
			// a copy must not cross mappings
			try = max(min(try, len(data))/pageSize/2*pageSize, pageSize)
			continue
		default:
			if err := s.settle(addr, err); err != nil {
				return err
			}
			n = pageSize
		}
		s.pages.finish(addr, addr+uint64(n), s.drop)
		addr, data = addr+uint64(n), data[n:]
	}
	return nil
}

// settle decides what an attempt to fill the page at addr means: nil, the page is not missing any more.
func (s *space) settle(addr uint64, err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
	case errors.Is(err, unix.ENOENT):
		// a mapping that moves while the kernel looks for it is seen to be gone before the kernel looks for changes
		switch {
		case uffd.Changing(s.fd):
			return unix.EAGAIN
		case !s.w.restored.Load():
			return errUnmapped
		}
	default:
		return err
	}
	// who waits for it looks again; only EINVAL is possible, for a range that is none
	_ = uffd.Wake(s.fd, addr, pageSize)
	return nil
}

// close lets the address space go: first at the guard, so that a death in between does not look like a loss.
func (s *space) close() {
	s.over.Store(true)
	s.mu.Lock()
	s.pages.finish(0, maxAddr, s.drop)
	s.w.release(s)
	_ = unix.Close(s.fd)
	_ = unix.Close(s.kicks)
	s.fd = -1
	s.mu.Unlock()
	s.w.ended(s)
}
