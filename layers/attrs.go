package layers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
)

// digest is a hash cut to 128 bits. A container that makes two of its own blocks
// collide harms its own files only.
type digest [16]byte

func sumDigest(h *blake3.Hasher) (d digest) {
	var full [32]byte
	copy(d[:], h.Sum(full[:0]))
	return d
}

// attrs are the extended attributes of an entry that are carried.
type attrs struct {
	overlay []overlayAttr // bookkeeping of overlayfs, by number; see overlay.go
	plain   []plainAttr   // all others, sorted by name
}

type plainAttr struct{ name, value string }

func (a *attrs) empty() bool { return len(a.overlay)+len(a.plain) == 0 }

// digest identifies the set; the empty set has the zero digest.
func (a *attrs) digest() digest {
	if a.empty() {
		return digest{}
	}
	h := blake3.New()
	var n [4]byte
	add := func(s string) {
		binary.LittleEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.WriteString(s)
	}
	for _, x := range a.overlay {
		h.Write([]byte{x.space, x.depth, x.id})
		add(x.value)
	}
	for _, x := range a.plain {
		add(x.name)
		add(x.value)
	}
	return sumDigest(h)
}

// add files an attribute under its class. It returns false for one that is not
// carried and worth mentioning.
func (a *attrs) add(name, value string) bool {
	if x, class := parseOverlayAttr(name); class != notOverlay {
		if class == overlayCarried {
			x.value = value
			a.overlay = append(a.overlay, x)
		}
		return class != overlayUnknown
	}
	if !carriedName(name) {
		return false
	}
	a.plain = append(a.plain, plainAttr{name, value})
	return true
}

func (a *attrs) sort() {
	slices.SortFunc(a.overlay, func(x, y overlayAttr) int { return x.compare(y) })
	slices.SortFunc(a.plain, func(x, y plainAttr) int { return strings.Compare(x.name, y.name) })
}

// carriedName says which attributes besides those of overlayfs are carried.
// security.selinux and its like name labels of this host's policy, security.ima
// and evm are keyed to it, and trusted.* belongs to programs of the host.
func carriedName(name string) bool {
	switch name {
	case "security.capability", aclAccess, aclDefault:
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// managedName says which attributes Apply owns: those that it removes from an
// entry when the stream does not name them. It covers what a directory's default
// ACL hands down to new entries.
func managedName(name string) bool {
	_, class := parseOverlayAttr(name)
	return class != notOverlay || carriedName(name)
}

// validate checks attributes from a stream.
func (a *attrs) validate(kind uint8) error {
	for i, x := range a.overlay {
		if i > 0 && a.overlay[i-1].compare(x) >= 0 {
			return errors.New("overlay attributes not in order")
		}
		if err := x.validate(kind); err != nil {
			return err
		}
	}
	total := 0
	for i, x := range a.plain {
		if i > 0 && a.plain[i-1].name >= x.name {
			return errors.New("attributes not in order")
		}
		if _, class := parseOverlayAttr(x.name); class != notOverlay || !carriedName(x.name) || strings.IndexByte(x.name, 0) >= 0 {
			return fmt.Errorf("attribute %q is not allowed", x.name)
		}
		if total += len(x.name) + len(x.value); total > maxXattrBytes {
			return &LimitError{What: "MaxXattrBytes", Limit: maxXattrBytes, Got: int64(total)}
		}
	}
	return nil
}

// all returns every attribute by its name in the file system.
func (a *attrs) all() []plainAttr {
	out := make([]plainAttr, 0, len(a.overlay)+len(a.plain))
	for _, x := range a.overlay {
		out = append(out, plainAttr{x.name(), x.value})
	}
	return append(out, a.plain...)
}
