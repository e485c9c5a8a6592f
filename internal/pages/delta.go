package pages

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Patches go by words, which keeps comparing fast; counters and pointers are of this size anyway.
const (
	wordSize  = 8
	pageWords = PageSize / wordSize
	maxStep   = 255 // words that one byte can count
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errPatch is what patches get that do not fit a page.
var errPatch = errors.New("patch leaves the page or ends early")

func word(page []byte, i int) uint64 { return binary.LittleEndian.Uint64(page[i*wordSize:]) }

// diff appends to dst the patch that makes page from old. ok is false, and dst as it was, when that exceeds maxDelta.
func diff(dst, old, page []byte) (patched []byte, ok bool) {
	old, page = old[:PageSize], page[:PageSize]
	start := len(dst)
	for at := 0; ; {
		from := at
		for at < pageWords && word(old, at) == word(page, at) {
			at++
		}
		if at == pageWords {
			return dst, true
		}
		skip, first := at-from, at
		for at < pageWords && at-first < maxStep && word(old, at) != word(page, at) {
			at++
		}
		for ; skip > maxStep; skip -= maxStep {
			dst = append(dst, maxStep, 0)
		}
		if len(dst)-start+2+(at-first)*wordSize > maxDelta {
			return dst[:start], false
		}
		dst = append(dst, byte(skip), byte(at-first))
		dst = append(dst, page[first*wordSize:at*wordSize]...)
	}
}

// patch applies a patch to page in place. After an error page is of no use.
func patch(page, p []byte) error {
	at := 0
	for len(p) > 0 {
		if len(p) < 2 {
			return errPatch
		}
		at += int(p[0]) * wordSize
		n := int(p[1]) * wordSize
		p = p[2:]
		if n > len(p) || at+n > len(page) {
			return errPatch
		}
		at += copy(page[at:], p[:n])
		p = p[n:]
	}
	return nil
}
