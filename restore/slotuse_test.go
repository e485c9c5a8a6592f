package restore

import (
	"slices"
	"testing"
)

func TestSlotUse(t *testing.T) {
	var u slotUse
	u.add(3, 10)
	u.add(5, 2)
	u.add(20, 1)
	for range 300 {
		u.add(8, 1)
	}
	var got []uint32
	if err := u.single(1, 20, func(slot, n uint32) error { got = append(got, slot, n); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []uint32{3, 2, 7, 1, 9, 4, 20, 1}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
