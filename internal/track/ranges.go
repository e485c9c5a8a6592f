package track

import (
	"cmp"
	"slices"
)

// Range is a run of bytes of a process's address space, page-aligned, half open.
type Range struct{ Start, End uint64 }

// Len is in bytes.
func (r Range) Len() uint64 { return r.End - r.Start }

// Bytes is the total length of the ranges.
func Bytes(rs []Range) uint64 {
	var n uint64
	for _, r := range rs {
		n += r.Len()
	}
	return n
}

// add appends r, which must not start before what is there, and joins it with the last one where they touch.
func add(rs []Range, r Range) []Range {
	if n := len(rs); n > 0 && r.Start <= rs[n-1].End {
		rs[n-1].End = max(rs[n-1].End, r.End)
		return rs
	}
	return append(rs, r)
}

// normal sorts ranges in place and joins those that touch or overlap.
func normal(rs []Range) []Range {
	if len(rs) == 0 {
		return nil
	}
	slices.SortFunc(rs, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	out := rs[:1]
	for _, r := range rs[1:] {
		out = add(out, r)
	}
	return out
}

// Minus returns what of a is not in b; both ascend, and the ranges of each are apart.
func Minus(a, b []Range) []Range { return minus(slices.Clone(a), b) }

// minus returns what of a is not in b; both normal.
func minus(a, b []Range) []Range {
	var out []Range
	for _, r := range a {
		for len(b) > 0 && b[0].End <= r.Start {
			b = b[1:]
		}
		for _, hole := range b {
			if hole.Start >= r.End {
				break
			}
			if hole.Start > r.Start {
				out = append(out, Range{r.Start, hole.Start})
			}
			r.Start = min(r.End, hole.End)
		}
		if r.Start < r.End {
			out = append(out, r)
		}
	}
	return out
}

// holds tells whether one of the ranges, which are normal, contains the address.
func holds(rs []Range, addr uint64) bool {
	i, found := slices.BinarySearchFunc(rs, addr, func(r Range, a uint64) int { return cmp.Compare(r.Start, a) })
	return found || i > 0 && addr < rs[i-1].End
}

// batches cuts ranges into groups of at most size bytes and at most count ranges each.
func batches(rs []Range, size uint64, count int) [][]Range {
	var out [][]Range
	var cur []Range
	var n uint64
	for _, r := range rs {
		for r.Start < r.End {
			part := Range{r.Start, min(r.End, r.Start+size-n)}
			cur, n, r.Start = append(cur, part), n+part.Len(), part.End
			if n == size || len(cur) == count {
				out, cur, n = append(out, cur), nil, 0
			}
		}
	}
	if len(cur) > 0 {
		out = append(out, cur)
	}
	return out
}
