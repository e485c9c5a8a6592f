package pages

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestPatchOfEqualPagesIsEmpty(t *testing.T) {
	if p, ok := diff([]byte("x"), page(1), page(1)); !ok || string(p) != "x" {
		t.Errorf("patch is %q, %v", p, ok)
	}
}

func TestPatches(t *testing.T) {
	for name, tt := range map[string]struct {
		changed []int // bytes that differ
		size    int   // of the patch; 0: none is made
	}{
		"first byte":               {[]int{0}, 2 + 8},
		"last byte":                {[]int{PageSize - 1}, 2*2 + 2 + 8}, // too far for one step
		"bytes of one word":        {[]int{16, 23}, 2 + 8},
		"words side by side":       {[]int{16, 24}, 2 + 16},
		"words apart":              {[]int{16, 32}, 2 * (2 + 8)},
		"just within one step":     {[]int{255 * 8}, 2 + 8},
		"just beyond one step":     {[]int{256 * 8}, 2 + 2 + 8},
		"as much as can be":        {every(8, 254), 2 + 254*8},
		"more than can be":         {every(8, 255), 2 + 255*8},
		"longer than half a page":  {every(8, 256), 0},
		"all of it":                {every(8, 512), 0},
		"many small ones":          {every(16, 204), 204 * 10},
		"too many small ones":      {every(16, 205), 0},
		"every byte of one eighth": {every(1, 512), 2 + 512},
	} {
		old := page(1)
		content := bytes.Clone(old)
		for _, i := range tt.changed {
			content[i]++
		}
		p, ok := diff(nil, old, content)
		if ok != (tt.size > 0) || len(p) != tt.size {
			t.Errorf("%s: patch has %d bytes, %v, want %d", name, len(p), ok, tt.size)
		}
		if !ok {
			continue
		}
		if err := patch(old, p); err != nil || !bytes.Equal(old, content) {
			t.Errorf("%s: does not make the page, %v", name, err)
		}
	}
}

// every lists the first n multiples of step.
func every(step, n int) (all []int) {
	for i := range n {
		all = append(all, i*step)
	}
	return all
}

// FuzzPatch applies whatever comes as a patch to a page.
func FuzzPatch(f *testing.F) {
	f.Add([]byte{0, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{255, 0, 255, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{255, 255})
	f.Add(bytes.Repeat([]byte{255, 0}, 3))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, p []byte) {
		around := page(1)
		around = append(around, filled(5)...)
		at := around[:PageSize] // what lies behind must stay
		err := patch(at, p)
		if err != nil && !errors.Is(err, errPatch) {
			t.Errorf("error is %v", err)
		}
		if !bytes.Equal(around[PageSize:], filled(5)) {
			t.Error("patch reaches beyond the page")
		}
		if err != nil {
			return
		}
		// what a patch makes can be made again by our own
		own, ok := diff(nil, page(1), at)
		if !ok {
			return
		}
		again := page(1)
		if err := patch(again, own); err != nil || !bytes.Equal(again, at) {
			t.Errorf("own patch makes another page: %v", err)
		}
	})
}

// FuzzDiff makes patches between pages whose differences are drawn from the input.
func FuzzDiff(f *testing.F) {
	f.Add(uint64(1), uint16(1), uint16(1))
	f.Add(uint64(2), uint16(100), uint16(8))
	f.Add(uint64(3), uint16(10), uint16(4096))
	f.Add(uint64(4), uint16(0), uint16(0))
	f.Fuzz(func(t *testing.T, seed uint64, runs, longest uint16) {
		r := rand.New(rand.NewPCG(seed, 1))
		old := page(seed)
		content := bytes.Clone(old)
		for range runs % 1024 {
			from := r.IntN(PageSize)
			to := min(PageSize, from+r.IntN(int(longest)+1))
			for i := from; i < to; i++ {
				content[i] = byte(r.Uint32())
			}
		}
		p, ok := diff(nil, old, content)
		if len(p) > maxDelta || !ok && len(p) > 0 {
			t.Fatalf("patch has %d bytes, %v", len(p), ok)
		}
		if !ok {
			return
		}
		if err := patch(old, p); err != nil || !bytes.Equal(old, content) {
			t.Errorf("patch does not make the page: %v", err)
		}
	})
}
