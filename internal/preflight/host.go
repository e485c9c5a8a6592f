package preflight

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Host is what a host has, as far as migrations need it. It travels as JSON: a destination compares it with its own.
type Host struct {
	Kernel      string   `json:"kernel"`
	Arch        string   `json:"arch"`
	CRIU        string   `json:"criu"` // versions, "" for what is missing
	Runc        string   `json:"runc"`
	CRIUCheck   string   `json:"criu_check,omitempty"` // what `criu check` complains of
	Capable     bool     `json:"capable"`              // the agent has CAP_SYS_RESOURCE
	Root        bool     `json:"root"`
	Cgroup      int      `json:"cgroup"`                // version
	Controllers []string `json:"controllers,omitempty"` // of cgroups
	CPU         []string `json:"cpu,omitempty"`         // features that programs may use, as /proc/cpuinfo names them
	Tracking    bool     `json:"tracking"`              // userfaultfd tells which memory was written
}

// The versions from which on a tool does what is asked of it here.
var (
	oldestRunc    = version{1, 1}
	oldestCRIU    = version{3, 16}
	newKernel     = version{6, 16} // from which on an older CRIU fails on every socket
	criuForKernel = version{4, 2}
)

// JudgeHost finds what keeps a host from sending and receiving at all.
func JudgeHost(h *Host, side string) []Finding {
	l := newList(side, "")
	if !h.Root {
		l.add("not-root", Thing{}, "")
	}
	if h.CRIU == "" {
		l.add("criu-missing", Thing{}, "")
	} else if have, ok := parseVersion(h.CRIU); ok && (have.less(oldestCRIU) || have.less(criuForKernel) && !kernelBefore(h.Kernel, newKernel)) {
		l.add("criu-old", Thing{}, fmt.Sprintf("CRIU %s on Linux %s", h.CRIU, h.Kernel))
	}
	if h.Runc == "" {
		l.add("runc-missing", Thing{}, "")
	} else if have, ok := parseVersion(h.Runc); ok && have.less(oldestRunc) {
		l.add("runc-old", Thing{}, "runc "+h.Runc)
	}
	if h.CRIUCheck != "" {
		l.add("criu-check", Thing{}, h.CRIUCheck)
	}
	if !h.Capable {
		l.add("cap-sys-resource", Thing{}, "")
	}
	if !h.Tracking {
		l.add("write-tracking", Thing{}, "Linux "+h.Kernel)
	}
	return l.findings()
}

// Compare finds what the destination lacks that the source has. limits are the cgroup controllers for which the container has
// limits, cgroupMount is where it has control groups mounted, if it has.
func Compare(src, dst *Host, limits []string, cgroupMount string) []Finding {
	l := newList(Destination, StillRunning)
	if src.Arch != dst.Arch {
		l.add("arch", Thing{}, fmt.Sprintf("the source's is %s, the destination's %s", src.Arch, dst.Arch))
		return l.findings()
	}
	if lacks := without(src.CPU, dst.CPU); len(lacks) > 0 {
		l.add("cpu-features", Thing{}, strings.Join(lacks, " "))
	}
	if older(dst.Kernel, src.Kernel) {
		l.add("kernel-older", Thing{}, fmt.Sprintf("Linux %s there, %s here", dst.Kernel, src.Kernel))
	}
	for _, tool := range []struct{ name, dst, src string }{{"CRIU", dst.CRIU, src.CRIU}, {"runc", dst.Runc, src.Runc}} {
		if older(tool.dst, tool.src) {
			l.add("tool-older", Thing{}, fmt.Sprintf("%s %s there, %s here", tool.name, tool.dst, tool.src))
		}
	}
	if src.Cgroup != 0 && dst.Cgroup != 0 && src.Cgroup != dst.Cgroup {
		l.add("cgroup-version", Thing{}, fmt.Sprintf("v%d here, v%d there", src.Cgroup, dst.Cgroup))
		if cgroupMount != "" {
			l.add("cgroup-mount", Thing{Path: cgroupMount}, fmt.Sprintf("at %s; v%d here, v%d there", cgroupMount, src.Cgroup, dst.Cgroup))
		}
	}
	for _, c := range without(limits, dst.Controllers) {
		l.add("cgroup-controller", Thing{}, c)
	}
	return l.findings()
}

// without lists what of want is not in have.
func without(want, have []string) (lacks []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			lacks = append(lacks, w)
		}
	}
	return lacks
}

// version is major and minor, which is all that requirements here are about.
type version struct{ major, minor int }

func (v version) less(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// parseVersion reads the front of strings like 1.3.6, 1.1.15+ds1 and 6.18.44-fc.
func parseVersion(s string) (v version, ok bool) {
	major, rest, _ := strings.Cut(strings.TrimPrefix(s, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	var err error
	if v.major, err = strconv.Atoi(digits(major)); err != nil {
		return v, false
	}
	v.minor, _ = strconv.Atoi(digits(minor)) // "4" is 4.0
	return v, true
}

// digits is the leading number of s.
func digits(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return s
	}
	return s[:end]
}

func older(a, b string) bool {
	va, oka := parseVersion(a)
	vb, okb := parseVersion(b)
	return oka && okb && va.less(vb)
}

func kernelBefore(kernel string, v version) bool {
	have, ok := parseVersion(kernel)
	return ok && have.less(v)
}
