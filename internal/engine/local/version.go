package local

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is major and minor, which is all that requirements here are about.
type Version struct{ Major, Minor int }

// The oldest tools that restore what is made here. CRIU below 4.2 fails from Linux 6.16 on, whose
// vdso it cannot parse.
var (
	OldestRunc       = Version{1, 1}
	criuAny          = Version{3, 16}
	criuForNewKernel = Version{4, 2}
	newKernel        = Version{6, 16}
)

// OldestCRIU is the oldest CRIU that restores on a kernel.
func OldestCRIU(kernel string) (oldest Version, why string) {
	if k, err := ParseVersion(kernel); err == nil && !k.Less(newKernel) {
		return criuForNewKernel, " for Linux " + kernel
	}
	return criuAny, ""
}

// ParseVersion reads the front of strings like 1.3.6, 1.1.15+ds1 and 6.18.44-fc.
func ParseVersion(s string) (Version, error) {
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	if len(parts) < 2 {
		parts = append(parts, "0")
	}
	major, err1 := strconv.Atoi(digits(parts[0]))
	minor, err2 := strconv.Atoi(digits(parts[1]))
	if err1 != nil || err2 != nil {
		return Version{}, fmt.Errorf("%q is not a version", s)
	}
	return Version{major, minor}, nil
}

// digits is the leading number of s.
func digits(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return s
	}
	return s[:end]
}

func (v Version) Less(o Version) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
