package pages

import "fmt"

// Append stores consecutive pages in slots behind all others and returns the first of them. It is for pages that come one by one
// when all rounds are over, and says nothing of where they belong. len(p) is a multiple of PageSize, and not 0. It may be called by several
// goroutines, but not beside Apply.
func (s *Store) Append(p []byte) (slot uint32, err error) {
	n := uint32(len(p) / PageSize)
	for {
		high := s.high.Load()
		if n > s.last-high {
			return 0, fmt.Errorf("append %d pages to the page store: %w", n, &LimitError{What: "slot", Got: uint64(high) + uint64(n), Max: uint64(s.last)})
		}
		if s.high.CompareAndSwap(high, high+n) {
			slot = high + 1
			break
		}
	}
	if _, err := s.file.WriteAt(p, int64(slot)*PageSize); err != nil {
		return 0, fmt.Errorf("append %d pages to the page store: %w", n, err)
	}
	return slot, nil
}

// Room is how many pages Append can take.
func (s *Store) Room() int64 { return int64(s.last - s.high.Load()) }
