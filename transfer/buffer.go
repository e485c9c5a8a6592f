package transfer

import "sync"

// headroom is kept free before a frame's content in every buffer, so that
// header and offset can be put before it and the frame leaves in one write.
const headroom = headerSize + offsetSize

// buffer is pooled memory. b has headroom and the capacity asked for.
// Whoever holds it releases it exactly once.
type buffer struct {
	b    []byte
	pool *sync.Pool
}

// bufferSizes are the pooled sizes: control answers, default frames, the
// largest frames with the room s2 wants for its worst case.
var bufferSizes = [...]int{4 << 10, 64 << 10, 320 << 10, 1280 << 10}

var bufferPools [len(bufferSizes)]sync.Pool

// getBuffer returns a buffer with headroom and at least n bytes after it.
func getBuffer(n int) *buffer {
	n += headroom
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if b, ok := bufferPools[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{b: make([]byte, size), pool: &bufferPools[i]}
	}
	return &buffer{b: make([]byte, n)}
}

// content is the part after the headroom.
func (b *buffer) content() []byte { return b.b[headroom:] }

func (b *buffer) release() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}
