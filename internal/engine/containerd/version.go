package containerd

import (
	"fmt"
	"strconv"
	"strings"
)

// version is major and minor, which is all that requirements here are about.
type version struct{ major, minor int }

// The oldest tools that restore what this engine makes. CRIU below 4.2 fails from Linux 6.16 on, whose
// vdso it cannot parse.
var (
	oldestRunc       = version{1, 1}
	criuAny          = version{3, 16}
	criuForNewKernel = version{4, 2}
	newKernel        = version{6, 16}
)

func oldestCRIU(kernel string) (oldest version, why string) {
	if k, err := parseVersion(kernel); err == nil && !k.less(newKernel) {
		return criuForNewKernel, " for Linux " + kernel
	}
	return criuAny, ""
}

// parseVersion reads the front of strings like 1.3.6, 1.1.15+ds1 and 6.18.44-fc.
func parseVersion(s string) (version, error) {
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	if len(parts) < 2 {
		parts = append(parts, "0")
	}
	major, err1 := strconv.Atoi(digits(parts[0]))
	minor, err2 := strconv.Atoi(digits(parts[1]))
	if err1 != nil || err2 != nil {
		return version{}, fmt.Errorf("%q is not a version", s)
	}
	return version{major, minor}, nil
}

// digits is the leading number of s.
func digits(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return s
	}
	return s[:end]
}

func (v version) less(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }
