package criu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"migrate/internal/criu/pagemap"
)

func TestForgeTracking(t *testing.T) {
	kdat := make([]byte, 200)
	forged, err := forgeTracking(kdat)
	if err != nil || forged[trackingAt] != 1 || kdat[trackingAt] != 0 {
		t.Errorf("%v, %v", forged, err)
	}
	for name, b := range map[string][]byte{"short": kdat[:trackingAt], "the kernel has the marks": forged} {
		if _, err := forgeTracking(b); !errors.Is(err, errNoClaim) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrivateRanges(t *testing.T) {
	list, err := privateRanges(os.Getpid())
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(maps), "[stack]") {
		t.Fatal("no stack")
	}
	for i, e := range list {
		if e.Pages == 0 || !e.Held() || i > 0 && e.Addr <= list[i-1].End() {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	// CRIU reads it as a pagemap: the order and the limits are those of one
	f := pagemap.File{PagesID: 1, Entries: list}
	path := filepath.Join(t.TempDir(), "pagemap-1.img")
	if err := f.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if back, err := pagemap.ReadFile(path); err != nil || !slices.Equal(back.Entries, list) {
		t.Errorf("%v", err)
	}
}

func TestWithout(t *testing.T) {
	const p = pagemap.PageSize
	for name, c := range map[string]struct {
		pages []uint64
		want  []pagemap.Range
	}{
		"nothing": {nil, []pagemap.Range{{Start: 2 * p, End: 6 * p}}},
		"outside": {[]uint64{p, 6 * p}, []pagemap.Range{{Start: 2 * p, End: 6 * p}}},
		"ends":    {[]uint64{5 * p, 2 * p}, []pagemap.Range{{Start: 3 * p, End: 5 * p}}},
		"middle":  {[]uint64{3 * p}, []pagemap.Range{{Start: 2 * p, End: 3 * p}, {Start: 4 * p, End: 6 * p}}},
		"all":     {[]uint64{2 * p, 3 * p, 4 * p, 5 * p}, nil},
	} {
		pages := map[uint64]bool{}
		for _, a := range c.pages {
			pages[a] = true
		}
		if got := without(2*p, 6*p, pages); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
