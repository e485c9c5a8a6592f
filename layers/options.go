package layers

import (
	"fmt"
	"time"
)

const (
	defaultBlockSize     = 64 << 10
	minBlockSize         = 4 << 10
	defaultMoveThreshold = 1 << 20
	defaultMaxEntries    = 10_000_000
	defaultRacy          = 100 * time.Millisecond
)

// Options steer WriteDelta. The zero value is usable.
type Options struct {
	// Recheck names upper-relative paths of regular files whose content is
	// compared by hash even when their times are equal: those mapped shared and
	// writable by the container's processes. Paths that do not exist are ignored.
	Recheck []string

	// Final says that every task which could change the tree is frozen: a file
	// that changes while it is read is then a ChangedError. Without it such a
	// file is sent as far as it was seen, and compared again in the next round.
	Final bool

	// Only restricts the tree to this one name in the directory, and what is
	// below it; "" takes all. It cannot change between the rounds of one migration.
	Only string

	// Racy is how old a ctime must be, at the moment of our stat, to be trusted
	// to change with the next modification. Default 100 ms: kernels before 6.13
	// stamp inodes once a tick, 10 ms at HZ=100. Negative trusts every ctime.
	Racy time.Duration

	// BlockSize is the unit in bytes in which file content is compared; a power
	// of two from 4 KiB to 1 MiB, default 64 KiB. It cannot change between the
	// rounds of one migration.
	BlockSize int

	// MoveThreshold is the size in bytes from which a renamed file is moved at
	// the destination instead of being sent again. Default 1 MiB.
	MoveThreshold int64

	// MaxEntries bounds the tree, default 10,000,000; more is a LimitError.
	MaxEntries int

	// AllowDevices carries device nodes other than whiteouts. Without it they
	// are ErrDevice.
	AllowDevices bool

	// Progress, if set, is called from time to time and at the end, by the
	// goroutine that called WriteDelta. It must not keep DroppedXattrs.
	Progress func(Stats)
}

func (o Options) withDefaults(prev *Index) (Options, error) {
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
		if prev != nil {
			o.BlockSize = prev.blockSize
		}
	}
	if o.BlockSize < minBlockSize || o.BlockSize > maxData || o.BlockSize&(o.BlockSize-1) != 0 {
		return o, fmt.Errorf("block size %d is not a power of two from %d to %d", o.BlockSize, minBlockSize, maxData)
	}
	if prev != nil && prev.blockSize != o.BlockSize {
		return o, fmt.Errorf("block size %d differs from %d in the round before", o.BlockSize, prev.blockSize)
	}
	if o.Racy == 0 {
		o.Racy = defaultRacy
	}
	if o.MoveThreshold == 0 {
		o.MoveThreshold = defaultMoveThreshold
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = defaultMaxEntries
	}
	return o, nil
}
