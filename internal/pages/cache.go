package pages

import "sync"

// DefaultDeltaCache is a good size of the delta cache in bytes: most containers rewrite few pages over and over.
const DefaultDeltaCache = 32 << 20

// cacheLocks is how many locks the cache's places share.
const cacheLocks = 64

// deltaCache has copies of what some of the destination's slots hold, those that are written again and again, so that
// what is sent of them is what changed. A slot has one place where it can be, which it shares with others. It is safe for
// concurrent use as long as one slot is written by one goroutine at a time.
type deltaCache struct {
	places []cachePlace
	locks  [cacheLocks]sync.Mutex
}

type cachePlace struct {
	page  *[PageSize]byte
	slot  uint32 // 0: none
	round uint32 // in which it was written last
}

// newDeltaCache makes a cache that takes up to that many bytes, as they are needed. It is nil when there is no room.
func newDeltaCache(bytes int64) *deltaCache {
	if bytes < PageSize {
		return nil
	}
	return &deltaCache{places: make([]cachePlace, bytes/PageSize)}
}

// lock returns a slot's place, locked.
func (c *deltaCache) lock(slot uint32) (*cachePlace, *sync.Mutex) {
	i := slot % uint32(len(c.places))
	mu := &c.locks[i%cacheLocks]
	mu.Lock()
	return &c.places[i], mu
}

// rewrite notes that page is written over what slot held. When that was known, and is similar, it appends to dst the
// patch that does it.
func (c *deltaCache) rewrite(dst []byte, slot uint32, page []byte, round uint32) (patched []byte, ok bool) {
	place, mu := c.lock(slot)
	defer mu.Unlock()
	switch {
	case place.slot == slot:
		dst, ok = diff(dst, place.page[:], page)
	case place.slot != 0 && round-place.round < 2:
		// Who was there first stays while it is in use: were it replaced each time, slots that share a place
		// would never find themselves in it.
		return dst, false
	}
	if place.page == nil {
		place.page = new([PageSize]byte)
	}
	copy(place.page[:], page)
	place.slot, place.round = slot, round
	return dst, ok
}

// forget notes that slot is used for something else.
func (c *deltaCache) forget(slot uint32) {
	place, mu := c.lock(slot)
	defer mu.Unlock()
	if place.slot == slot {
		place.slot = 0
	}
}
