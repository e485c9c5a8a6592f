package layers

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// overlayAttr is an attribute by which overlayfs keeps its books in an upper
// directory. It travels by number, so that a stream cannot name any trusted
// attribute it likes.
//
// Names and meanings are those of Linux fs/overlayfs/overlayfs.h (enum
// ovl_xattr) and Documentation/filesystems/overlayfs.rst. depth counts the
// escapes ("trusted.overlay.overlay.opaque" has 1) that overlayfs adds to what a
// container, itself running overlayfs, sets through the merged directory.
type overlayAttr struct {
	space uint8 // 0: trusted.overlay., 1: user.overlay. (mount option userxattr)
	depth uint8
	id    uint8
	value string
}

const (
	overlayOpaque   = 1 // directory hides the lower one: "y"; "x": holds attribute whiteouts
	overlayRedirect = 2 // path of the lower entry that this one stands for
	overlayMetacopy = 3 // content is still in the lower file; may hold its digest
	overlayProtattr = 4 // immutable and append-only flags, which the upper inode must not have
	overlayWhiteout = 5 // regular file standing for a whiteout
)

var overlaySpaces = [...]string{"trusted.overlay.", "user.overlay."}

var overlayNames = [...]string{
	overlayOpaque: "opaque", overlayRedirect: "redirect", overlayMetacopy: "metacopy",
	overlayProtattr: "protattr", overlayWhiteout: "whiteout",
}

const (
	overlayEscape   = "overlay."
	maxOverlayDepth = 8
)

type overlayClass int

const (
	notOverlay     overlayClass = iota
	overlayCarried              // means the same at the destination
	overlayHost                 // names this host's inodes; overlayfs makes it anew or does without
	overlayUnknown
)

func parseOverlayAttr(name string) (overlayAttr, overlayClass) {
	for space, prefix := range overlaySpaces {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		x := overlayAttr{space: uint8(space)}
		for x.depth < maxOverlayDepth {
			if rest, ok = strings.CutPrefix(rest, overlayEscape); !ok {
				break
			}
			x.depth++
		}
		class := overlayUnknown
		x.id, class = overlayID(rest)
		return x, class
	}
	return overlayAttr{}, notOverlay
}

func overlayID(suffix string) (uint8, overlayClass) {
	switch suffix {
	case "origin", // file handle of the lower inode
		"impure", // an entry below has origin
		"nlink",  // correction that counts on the index directory
		"upper",  // file handle, in the index directory
		"uuid":   // of the overlay instance
		return 0, overlayHost
	}
	for id, name := range overlayNames {
		if name != "" && name == suffix {
			return uint8(id), overlayCarried
		}
	}
	return 0, overlayUnknown
}

func (x overlayAttr) name() string {
	return overlaySpaces[x.space] + strings.Repeat(overlayEscape, int(x.depth)) + overlayNames[x.id]
}

func (x overlayAttr) compare(y overlayAttr) int {
	return cmp.Or(cmp.Compare(x.space, y.space), cmp.Compare(x.depth, y.depth), cmp.Compare(x.id, y.id))
}

// validate checks an attribute from a stream. Escaped ones are the container's
// and mean nothing to the overlay this directory is the upper of.
func (x overlayAttr) validate(kind uint8) error {
	switch {
	case int(x.space) >= len(overlaySpaces), x.id == 0, int(x.id) >= len(overlayNames), x.depth > maxOverlayDepth:
		return errors.New("unknown overlay attribute")
	case kind == kindSymlink && x.space == 1:
		return errors.New("user attribute of a symbolic link")
	case x.depth > 0:
		return nil
	}
	switch x.id {
	case overlayOpaque:
		if kind != kindDir || x.value != "y" && x.value != "x" {
			return fmt.Errorf("opaque mark %q", x.value)
		}
	case overlayRedirect:
		return validRedirect(kind, x.value)
	case overlayMetacopy:
		if kind != kindFile || len(x.value) > maxMetacopy {
			return errors.New("bad metacopy mark")
		}
	case overlayProtattr:
		if strings.Trim(x.value, "ai") != "" || len(x.value) > 2 {
			return fmt.Errorf("protattr %q", x.value)
		}
	case overlayWhiteout:
		if kind != kindFile || len(x.value) > 1 {
			return errors.New("bad whiteout mark")
		}
	}
	return nil
}

// validRedirect follows ovl_get_redirect_xattr in fs/overlayfs/util.c: a single
// name in the same lower directory, or an absolute path from the lower root.
func validRedirect(kind uint8, v string) error {
	if kind != kindDir && kind != kindFile {
		return errors.New("redirect of neither file nor directory")
	}
	if len(v) > maxRedirect || strings.IndexByte(v, 0) >= 0 {
		return errors.New("redirect too long or with a NUL")
	}
	names := []string{v}
	if rest, ok := strings.CutPrefix(v, "/"); ok {
		names = strings.Split(rest, "/")
	}
	for _, name := range names {
		if name == "" || name == "." || name == ".." || len(name) > maxName || strings.Contains(name, "/") {
			return fmt.Errorf("redirect %q", v)
		}
	}
	return nil
}
