package pages

// Missing calls yield, in ascending order, with runs of those of n pages from page of which the destination knows nothing. The
// table must not be used by yield.
func (t *Table) Missing(space int32, page, n uint64, yield func(page, n uint64)) {
	if page >= maxPage {
		return
	}
	n = min(n, maxPage-page)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.pages.spaces[space]
	start := page // of the run of missing pages under way
	flush := func(end uint64) {
		if start < end {
			yield(start, end-start)
		}
	}
	for _, index := range chunksWithin(s, page, n) {
		c, base := s[index], index*chunkPages
		if c.used == chunkPages { // nothing is missing in it
			flush(max(base, start))
			start = max(start, base+chunkPages)
			continue
		}
		from, to := overlap(index, page, n)
		for i := from; i < to; i++ {
			if c.entries[i] != entryNone {
				flush(base + i)
				start = base + i + 1
			}
		}
	}
	flush(page + n)
}
