package churn

import "unsafe"

const (
	pageSize  = 4096
	pageWords = pageSize / 8
)

// A page's content follows from three numbers: the seed of what it belongs to, its id in there, and its generation, which
// grows with every write. Generation 0 has not been written and is zeros.
//
// Contents are of several kinds, since a mover of memory has a way of its own for each: zeros, one of a few pages that are
// everywhere the same, little among zeros, little that changes from one generation to the next, and random numbers.
//
// These functions run in forked children too, see kid: they call nothing but each other.

// mix is the finalizer of SplitMix64.
//
//go:nosplit
//go:norace
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// digest is what a content follows from. Its upper four bits are the kind.
//
//go:nosplit
//go:norace
func digest(seed, id, gen uint64) uint64 {
	if gen == 0 {
		return 0 // of kind zeros
	}
	return mix(seed ^ mix(id^mix(gen)))
}

const (
	kindZeros  = 0
	kindCommon = 1
	kindSparse = 3 // and 2
	kindDelta  = 7 // and 4 to 6
	header     = 3 // words: id, generation, seed
)

// word is the i-th word of a page.
//
//go:nosplit
//go:norace
func word(h, seed, id, gen, i uint64) uint64 {
	kind := h >> 60
	switch {
	case kind == kindZeros:
		return 0
	case kind == kindCommon:
		return mix(h >> 56) // one of 16 pages
	case i == 0:
		return id
	case i == 1:
		return gen
	case i == 2:
		return seed
	case kind <= kindSparse:
		return 0
	case kind <= kindDelta && i%128 != h%128:
		return mix(seed^id) + i
	}
	return mix(h + i)
}

// fill writes a page.
//
//go:nosplit
//go:norace
func fill(page unsafe.Pointer, seed, id, gen uint64) {
	h := digest(seed, id, gen)
	for i := uint64(0); i < pageWords; i++ {
		*wordAt(page, i) = word(h, seed, id, gen, i)
	}
}

// wrong compares the first words of a page and returns the first that is not as it must be, or -1.
//
//go:nosplit
//go:norace
func wrong(page unsafe.Pointer, seed, id, gen, words uint64) int {
	h := digest(seed, id, gen)
	for i := uint64(0); i < words; i++ {
		if *wordAt(page, i) != word(h, seed, id, gen, i) {
			return int(i)
		}
	}
	return -1
}

//go:nosplit
//go:norace
func wordAt(page unsafe.Pointer, i uint64) *uint64 { return (*uint64)(unsafe.Add(page, 8*i)) }

// random is a SplitMix64 generator that children can use.
type random uint64

//go:nosplit
//go:norace
func (r *random) next() uint64 {
	*r++
	return mix(uint64(*r))
}

// below returns a number less than n.
//
//go:nosplit
//go:norace
func (r *random) below(n uint64) uint64 { return r.next() % n }
