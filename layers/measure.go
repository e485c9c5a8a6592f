package layers

import (
	"context"
	"fmt"
	"time"
)

// Measure returns what the tree below upper takes on disk, for reserving space
// at a destination. It reads no file.
func Measure(ctx context.Context, upper string) (Usage, error) { return MeasureOnly(ctx, upper, "") }

// MeasureOnly is Measure of one name in the directory; see Options.Only.
func MeasureOnly(ctx context.Context, upper, only string) (Usage, error) {
	t, err := openTree(upper)
	if err != nil {
		return Usage{}, err
	}
	defer t.close()
	s := &scanner{ctx: ctx, racy: time.Duration(-1), only: only}
	if _, err := s.scan(t); err != nil {
		return Usage{}, fmt.Errorf("measure %s: %w", upper, err)
	}
	return Usage{Bytes: s.blocks.Load() * 512, Entries: s.entries.Load() + 1}, nil
}
