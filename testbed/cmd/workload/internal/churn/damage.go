package churn

import (
	"fmt"
	"unsafe"
)

// Damage is memory that does not hold what was put there.
type Damage struct {
	Case   string `json:"case"`
	What   string `json:"what"`              // which memory, and what is wrong with it
	Page   string `json:"page,omitempty"`    // its address
	ID     uint64 `json:"id,omitempty"`      // of the content that is expected
	Gen    uint64 `json:"gen,omitempty"`     // likewise
	Offset int    `json:"offset,omitempty"`  // in the page, of the first wrong word
	Found  string `json:"found,omitempty"`   // that word
	Want   string `json:"want,omitempty"`    // what it must be
	Is     string `json:"page_is,omitempty"` // what the page holds instead, where that is known
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s: %s: page %s, offset %d: found %s, want %s (%s)", d.Case, d.What, d.Page, d.Offset, d.Found, d.Want, d.Is)
}

// damaged describes a page whose i-th word is wrong.
func damaged(what string, page unsafe.Pointer, seed, id, gen uint64, i int) *Damage {
	return &Damage{
		What: what, Page: fmt.Sprintf("%#x", uintptr(page)), ID: id, Gen: gen, Offset: 8 * i,
		Found: fmt.Sprintf("%#016x", *wordAt(page, uint64(i))),
		Want:  fmt.Sprintf("%#016x", word(digest(seed, id, gen), seed, id, gen, uint64(i))),
		Is:    resembles(page, seed, id, gen),
	}
}

// lookBack is how many older generations a wrong page is compared with.
const lookBack = 256

// resembles tells what a wrong page looks like: most often it is lost, or old.
func resembles(page unsafe.Pointer, seed, id, gen uint64) string {
	if wrong(page, 0, 0, 0, pageWords) < 0 {
		return "zeros"
	}
	for g := gen; g > 0 && gen-g <= lookBack; g-- {
		if wrong(page, seed, id, g, pageWords) < 0 {
			return fmt.Sprintf("generation %d, %d before", g, gen-g)
		}
	}
	if wrong(page, seed, id, gen+1, pageWords) < 0 {
		return "the next generation"
	}
	if *wordAt(page, 2) == seed {
		return fmt.Sprintf("begins like id %d, generation %d", *wordAt(page, 0), *wordAt(page, 1))
	}
	return "unknown"
}
