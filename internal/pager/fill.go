package pager

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// chunkPages bounds for how long a copy in the background keeps events and, through them, faults waiting: about 50 µs.
const chunkPages = 64

// filler copies pages in the background. Each has a buffer of its own, so that pages whose slots are scattered are placed
// with one call all the same.
type filler struct {
	w     *worker
	buf   []byte
	slots []uint32
	seen  uint64 // of the worker's looks, those after which this one has looked at everything
}

// outcome is what came of one attempt to fill.
type outcome int

const (
	idle    outcome = iota // there is nothing to fill now
	filled                 // some pages were filled, and there may be more
	blocked                // the kernel wants a little time
)

func newFiller(w *worker) *filler {
	f := &filler{w: w, buf: make([]byte, chunkPages*pageSize), slots: make([]uint32, 0, chunkPages)}
	for i := 0; i < len(f.buf); i += pageSize {
		f.buf[i] = 1 // the kernel copies several times faster from memory that is mapped
	}
	return f
}

// work fills for as long as the process lives, hot pages first.
func (f *filler) work() {
	pause := time.Duration(0)
	for {
		news := f.w.bell.next()
		for r, ok := f.w.nextHot(); ok; r, ok = f.w.nextHot() {
			f.hot(r)
		}
		looks := f.w.looks.Load()
		if looks == f.seen {
			waitFor(news, 0)
			continue
		}
		switch f.round() {
		case filled:
			pause = 0
		case blocked:
			pause = min(max(2*pause, pauseLeast), pauseMost)
			waitFor(news, pause)
		case idle:
			f.seen = looks
			waitFor(news, 0)
		}
	}
}

// hot fills what it can of one range, in all address spaces that have it. What is refused comes once more, in its turn.
func (f *filler) hot(r Range) {
	for _, s := range f.w.spacesOf(r.VPID) {
		for next := r.Addr; next < r.end(); {
			c, gen, ok := f.claim(s, next, r.end())
			if !ok || f.fill(s, c, gen) != filled {
				break
			}
			next = c.end()
		}
	}
}

// round fills what there is in every address space.
func (f *filler) round() outcome {
	best := idle
	for _, s := range f.w.allSpaces() {
		o := f.advance(s)
		for ; o == filled; o = f.advance(s) {
			best = filled
		}
		if best == idle {
			best = o
		}
	}
	return best
}

// advance fills the next chunk of an address space. At its end it is idle once, and begins anew with the next call, for pages that
// were moved, or not here before. All pages are looked at again after whatever may have changed that, since the bell rings then.
func (f *filler) advance(s *space) outcome {
	s.fillMu.Lock()
	r, gen, ok := f.claim(s, s.cursor, maxAddr)
	s.cursor = r.end() // 0 if there was none
	s.fillMu.Unlock()
	if !ok {
		return idle
	}
	o := f.fill(s, r, gen)
	if o == blocked { // again, then
		s.fillMu.Lock()
		s.cursor = min(s.cursor, r.addr)
		s.fillMu.Unlock()
	}
	return o
}

// claim looks for the next pages to fill in [from, to) and tells on which state of the map that is based. The run is valid until
// the next call.
func (f *filler) claim(s *space, from, to uint64) (run, uint64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 || s.over.Load() {
		return run{}, 0, false
	}
	slot := s.slot
	if s.family == nil || s.family.here.Load() == 0 {
		slot = nil
	}
	r, ok := s.pages.next(from, to, chunkPages, slot, f.slots)
	return r, s.gen, ok
}

// fill places the pages of a run. Those that it cannot place, because the map has changed or the mapping is still to come, stay for
// the next time that all are looked at.
func (f *filler) fill(s *space, r run, gen uint64) outcome {
	data := f.buf[:len(r.slots)*pageSize]
	if !r.zero {
		if err := f.w.store.read(r.slots, data); err != nil {
			f.w.fail(err)
			return idle
		}
	}
	switch err := s.place(r, data, gen); {
	case err == nil:
		if s.complete() {
			s.end()
		}
		return filled
	case errors.Is(err, errStale), errors.Is(err, errUnmapped):
		return filled
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return blocked
	case isGone(err):
		s.end()
	default:
		f.w.fail(fmt.Errorf("fill vpid %d at %#x: %w", s.vpid, r.addr, err))
	}
	return idle
}

// errStale: an event has changed the map since the pages were chosen.
var errStale = errors.New("the map has changed")

// place copies what is still missing of a run that was chosen when the map had the generation gen.
func (s *space) place(r run, data []byte, gen uint64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.fd < 0 || s.gen != gen {
		return errStale
	}
	if r.zero { // a missing page that is in no map reads as zeros
		s.pages.finish(r.addr, r.end(), s.drop)
		return nil
	}
	for addr := r.addr; addr < r.end(); {
		n := s.pages.still(addr, int((r.end()-addr)/pageSize))
		if n == 0 { // a fault was faster
			addr += pageSize
			continue
		}
		off := addr - r.addr
		if err := s.copy(addr, data[off:off+uint64(n)*pageSize]); err != nil {
			return err
		}
		addr += uint64(n) * pageSize
	}
	return nil
}
