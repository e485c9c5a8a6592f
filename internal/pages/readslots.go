package pages

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ReadSlots reads as many slots as p has room for, from slot on, which is not 0: what Extents tells of.
func (s *Store) ReadSlots(slot uint32, p []byte) error {
	if _, err := s.file.ReadAt(p, int64(slot)*PageSize); err != nil {
		return fmt.Errorf("read %d slots from %d: %w", len(p)/PageSize, slot, err)
	}
	return nil
}

// Discard gives the memory of n slots back, whose content nobody needs any more. They read as zeros from then on.
func (s *Store) Discard(slot, n uint32) error {
	const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(s.file.Fd()), punch, int64(slot)*PageSize, int64(n)*PageSize); err != nil {
		return fmt.Errorf("give %d slots from %d back: %w", n, slot, err)
	}
	return nil
}
