package track

import (
	"hash/maphash"
	"runtime"
	"sync"
)

// sum is a keyed hash of a page's content.
type sum [2]uint64

// hasher makes sums. Its keys are random and secret, so that no content can be made to collide.
type hasher [2]maphash.Seed

func newHasher() hasher { return hasher{maphash.MakeSeed(), maphash.MakeSeed()} }

func (h hasher) sum(page []byte) sum {
	return sum{maphash.Bytes(h[0], page), maphash.Bytes(h[1], page)}
}

// chunkPages is small, so that a heap with a page here and there does not cost more than its content.
const chunkPages = 64

const chunkSize = chunkPages * PageSize

// chunk holds the sums of neighbouring pages.
type chunk struct {
	known uint64 // a bit for each page whose sum is held
	round uint32 // when it was looked for last
	sums  [chunkPages]sum
}

// sums remembers what was copied of one process: 16 bytes a page. Safe for concurrent use.
type sums struct {
	hasher hasher
	mu     sync.Mutex
	round  uint32
	chunks map[uint64]*chunk // by address / chunkSize
}

func newSums(h hasher) *sums { return &sums{hasher: h, chunks: map[uint64]*chunk{}} }

func place(addr uint64) (key uint64, bit uint) {
	return addr / chunkSize, uint(addr / PageSize % chunkPages)
}

// put remembers the content of pages, which start at addr; data holds as many as are meant.
func (s *sums) put(addr uint64, data []byte) {
	for ; len(data) >= PageSize; addr, data = addr+PageSize, data[PageSize:] {
		v := s.hasher.sum(data[:PageSize])
		key, bit := place(addr)
		s.mu.Lock()
		c := s.chunks[key]
		if c == nil {
			c = new(chunk)
			s.chunks[key] = c
		}
		c.known |= 1 << bit
		c.sums[bit] = v
		c.round = s.round
		s.mu.Unlock()
	}
}

// drop forgets pages.
func (s *sums) drop(r Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Len()/chunkSize > uint64(len(s.chunks)) { // most of it is not known anyway
		for key, c := range s.chunks {
			for bit := range uint64(chunkPages) {
				if a := key*chunkSize + bit*PageSize; a >= r.Start && a < r.End {
					c.known &^= 1 << bit
				}
			}
		}
		return
	}
	for a := r.Start; a < r.End; a += PageSize {
		key, bit := place(a)
		if c := s.chunks[key]; c != nil {
			c.known &^= 1 << bit
		}
	}
}

// split tells the pages whose sums are held from the others.
func (s *sums) split(r Range, known, unknown func(Range)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := r.Start; a < r.End; a += PageSize {
		key, bit := place(a)
		c := s.chunks[key]
		if c != nil {
			c.round = s.round
		}
		if c != nil && c.known&(1<<bit) != 0 {
			known(Range{a, a + PageSize})
		} else {
			unknown(Range{a, a + PageSize})
		}
	}
}

// is tells whether a page's content is what is remembered of it.
func (s *sums) is(addr uint64, page []byte) bool {
	v := s.hasher.sum(page)
	key, bit := place(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.chunks[key]
	return c != nil && c.known&(1<<bit) != 0 && c.sums[bit] == v
}

// turn ends a round: chunks that nobody has looked for in it are forgotten, since their memory is no longer there.
func (s *sums) turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, c := range s.chunks {
		if c.round != s.round {
			delete(s.chunks, key)
		}
	}
	s.round++
}

// verdict is what comparing has found. Pages that could not be read are changed.
type verdict struct{ same, changed []Range }

const maxComparers = 4

// buffers of BatchSize for comparing.
var buffers = sync.Pool{New: func() any { b := NewBuffer(BatchSize); return &b }}

// compare reads pages of a process and tells those that are as remembered from the others.
func (s *sums) compare(r Reader, pages []Range) (verdict, error) {
	work := batches(pages, BatchSize, maxRanges)
	results := make([]verdict, len(work))
	errs := make([]error, len(work))
	next := make(chan int, len(work))
	for i := range work {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	for range min(len(work), runtime.GOMAXPROCS(0), maxComparers) {
		wg.Go(func() {
			buf := buffers.Get().(*[]byte)
			defer buffers.Put(buf)
			for i := range next {
				results[i], errs[i] = s.compareBatch(r, work[i], *buf)
			}
		})
	}
	wg.Wait()
	var all verdict
	for i, v := range results {
		if errs[i] != nil {
			return verdict{}, errs[i]
		}
		all.same, all.changed = append(all.same, v.same...), append(all.changed, v.changed...)
	}
	return verdict{normal(all.same), normal(all.changed)}, nil
}

func (s *sums) compareBatch(r Reader, ranges []Range, buf []byte) (verdict, error) {
	failed, err := r.Read(ranges, buf)
	if err != nil {
		return verdict{}, err
	}
	var v verdict
	for _, part := range ranges {
		for a := part.Start; a < part.End; a, buf = a+PageSize, buf[PageSize:] {
			page := Range{a, a + PageSize}
			if !holds(failed, a) && s.is(a, buf[:PageSize]) {
				v.same = add(v.same, page)
			} else {
				v.changed = add(v.changed, page)
			}
		}
	}
	return v, nil
}
