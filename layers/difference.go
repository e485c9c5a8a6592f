package layers

import (
	"errors"
	"io"
)

// difference compares a file with what the destination holds of it and writes
// what differs.
type difference struct {
	w     *deltaWriter
	r     *blockReader
	begin func() error // writes the ENTRY record; called before anything else is, once or more
	old   []blockSum   // the destination's blocks not yet compared
	out   []blockSum   // the destination's blocks from now on
	hole  extent       // pending hole, not yet written
}

// run returns the blocks that the destination will hold.
func (d *difference) run() ([]blockSum, error) {
	for {
		if err := d.w.ctx.Err(); err != nil {
			return nil, err
		}
		err := d.r.next()
		if errors.Is(err, io.EOF) {
			return d.out, d.finish()
		}
		if err != nil {
			return nil, err
		}
		if err := d.block(); err != nil {
			return nil, err
		}
	}
}

func (d *difference) finish() error {
	if err := d.punchUntil(d.r.size); err != nil {
		return err
	}
	return d.flushHole()
}

// block compares the reader's block and writes it if it differs.
func (d *difference) block() error {
	r := d.r
	if err := d.punchUntil(r.index * r.block); err != nil {
		return err
	}
	d.out = append(d.out, blockSum{r.index, r.sum})
	replaces := len(d.old) > 0 && d.old[0].index == r.index
	if replaces {
		same := d.old[0].sum == r.sum
		d.old = d.old[1:]
		if same {
			d.w.stats.BlocksSame++
			for _, e := range r.extents {
				d.w.stats.BytesSkipped += e.end - e.at
			}
			return nil
		}
	}
	return d.write(replaces)
}

// write sends the block's data, and holes between them where the destination may
// have something else. A hole at the end of the file reaches to the end of the
// block, so that the file's last block can be freed.
func (d *difference) write(replaces bool) error {
	r := d.r
	at, end := r.index*r.block, (r.index+1)*r.block
	for _, e := range r.extents {
		if err := d.punch(at, e.at, replaces); err != nil {
			return err
		}
		if err := d.flushHole(); err != nil {
			return err
		}
		if err := d.begin(); err != nil {
			return err
		}
		if err := d.w.enc.data(e.at, r.data(e)); err != nil {
			return err
		}
		d.w.pace.tick(d.w, 0, e.end-e.at)
		at = e.end
	}
	return d.punch(at, end, replaces)
}

// punchUntil makes holes of the destination's blocks before offset limit that the
// file has no data in. Those past the file's size go with the truncation.
func (d *difference) punchUntil(limit int64) error {
	for len(d.old) > 0 && d.old[0].index*d.r.block < limit {
		at := d.old[0].index * d.r.block
		d.old = d.old[1:]
		if err := d.punch(at, at+d.r.block, true); err != nil {
			return err
		}
	}
	return nil
}

// punch notes the hole [at, end), joined with the one before if they touch.
func (d *difference) punch(at, end int64, needed bool) error {
	if !needed || at >= end {
		return nil
	}
	if d.hole.end == at && d.hole.end > d.hole.at {
		d.hole.end = end
		return nil
	}
	if err := d.flushHole(); err != nil {
		return err
	}
	d.hole = extent{at, end}
	return nil
}

func (d *difference) flushHole() error {
	h := d.hole
	if h.at >= h.end {
		return nil
	}
	d.hole = extent{}
	if err := d.begin(); err != nil {
		return err
	}
	return d.w.enc.hole(h.at, h.end-h.at)
}
