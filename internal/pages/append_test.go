package pages

import (
	"bytes"
	"errors"
	"testing"
)

// Append goes on behind what rounds have stored, up to the limit.
func TestAppend(t *testing.T) {
	l := newLink(t, testLimit, 0)
	l.pages(1, 10, page(1), page(2))
	room := l.store.Room()
	if room != testLimit/PageSize-2 {
		t.Fatalf("room for %d pages", room)
	}
	slot, err := l.store.Append(join(page(3), page(4)))
	if err != nil || slot != 3 {
		t.Fatalf("slot %d, %v", slot, err)
	}
	for i, seed := range []uint64{3, 4} {
		p := make([]byte, PageSize)
		if err := l.store.readSlot(slot+uint32(i), p); err != nil || !bytes.Equal(p, page(seed)) {
			t.Errorf("slot %d: %v", slot+uint32(i), err)
		}
	}
	l.want(1, 10, page(1))
	var limit *LimitError
	if _, err := l.store.Append(make([]byte, (room-1)*PageSize)); !errors.As(err, &limit) {
		t.Errorf("beyond the limit: %v", err)
	}
	if _, err := l.store.Append(make([]byte, (room-2)*PageSize)); err != nil || l.store.Room() != 0 {
		t.Errorf("up to the limit: %v, room for %d", err, l.store.Room())
	}
}
