package pager

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// store is the file of slots. Who reads a slot must be one of its users; when the last user of a slot is gone, a hole is
// punched in its place, so that memory is not held twice.
type store struct {
	f     *os.File
	mu    sync.Mutex
	users []uint32      // by slot
	holes []uint32      // slots without users, to be punched
	ring  chan struct{} // tells that there are holes to punch
}

// gone marks a slot that had users and has none any more.
const gone = ^uint32(0)

func openStore(path string) (*store, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the page store: %w", err)
	}
	return &store{f: f, ring: make(chan struct{}, 1)}, nil
}

// use adds a user to each of n slots. A slot that had lost its last user cannot come back.
func (s *store) use(first, n uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := int(first) + int(n); end > len(s.users) {
		s.users = append(s.users, make([]uint32, end-len(s.users))...)
	}
	for slot := first; slot < first+n; slot++ {
		if s.users[slot] == gone {
			return fmt.Errorf("slot %d was given up before", slot)
		}
		s.users[slot]++
	}
	return nil
}

// drop takes a user from each of n slots.
func (s *store) drop(first, n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot := first; slot < first+n; slot++ {
		if s.users[slot]--; s.users[slot] > 0 {
			continue
		}
		s.users[slot] = gone
		s.holes = append(s.holes, slot)
	}
	if len(s.holes) > 0 {
		select {
		case s.ring <- struct{}{}:
		default:
		}
	}
}

// read puts the slots' content into p, one after the other.
func (s *store) read(slots []uint32, p []byte) error {
	for len(slots) > 0 {
		n := consecutive(slots)
		if _, err := s.f.ReadAt(p[:n*pageSize], int64(slots[0])*pageSize); err != nil {
			return fmt.Errorf("read %d pages from slot %d on: %w", n, slots[0], err)
		}
		slots, p = slots[n:], p[n*pageSize:]
	}
	return nil
}

// consecutive counts how many of slots follow each other from the first on.
func consecutive(slots []uint32) int {
	n := 1
	for n < len(slots) && slots[n] == slots[n-1]+1 {
		n++
	}
	return n
}

// punch gives the memory of slots without users back.
func (s *store) punch() error {
	s.mu.Lock()
	holes := s.holes
	s.holes = nil
	s.mu.Unlock()
	slices.Sort(holes)
	for len(holes) > 0 {
		n := consecutive(holes)
		err := unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(holes[0])*pageSize, int64(n)*pageSize)
		if err != nil {
			return fmt.Errorf("give back %d slots from %d on: %w", n, holes[0], err)
		}
		holes = holes[n:]
	}
	return nil
}
