package gather

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/internal/preflight"
	"migrate/internal/uffd"
)

// Versions are what the engine knows of a host's tools; "" for what is missing.
type Versions struct{ Kernel, Arch, CRIU, Runc string }

// Host gathers what this host has. With thorough CRIU is asked whether it is content, which may take a second.
func Host(ctx context.Context, v Versions, thorough bool) *preflight.Host {
	h := &preflight.Host{
		Kernel: v.Kernel, Arch: v.Arch, CRIU: v.CRIU, Runc: v.Runc, Capable: capable(capSysResource), Root: os.Geteuid() == 0,
		CPU: cpuFeatures(), Tracking: tracksWrites(),
	}
	h.Cgroup, h.Controllers = Cgroups()
	if thorough && v.CRIU != "" {
		h.CRIUCheck = criuCheck(ctx)
	}
	return h
}

const capSysResource = 24

// capable says whether this process, and so what it starts, has a capability.
func capable(bit uint) bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(s), 16, 64)
			return err == nil && caps&(1<<bit) != 0
		}
	}
	return false
}

// usable are the CPU features of x86 that programs use without asking the kernel: instructions, and registers that signal frames
// hold. The kernel's list has many more that are its own business.
var usable = regexp.MustCompile(`^(mmx|sse.*|ssse3|pni|avx.*|aes|pclmulqdq|vaes|vpclmulqdq|fma4?|f16c|bmi[12]|adx|sha_ni|sha512|sm[34]|` +
	`popcnt|abm|movbe|rdrand|rdseed|xsave.*|xgetbv1|fsgsbase|rdtscp|cx8|cx16|lahf_lm|3dnow.*|clflushopt|clwb|cldemote|movdiri|movdir64b|` +
	`serialize|waitpkg|rdpid|rtm|hle|sse4a|xop|tbm|gfni|amx_.*|pku|ospke|fsrm|erms|cmpccxadd|prefetchi|user_shstk|apx)$`)

// cpuFeatures reads the features of the first CPU; arm64 lists those for programs only.
func cpuFeatures() []string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	return parseCPU(string(text))
}

func parseCPU(text string) []string {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "flags":
			fs := slices.DeleteFunc(strings.Fields(value), func(f string) bool { return !usable.MatchString(f) })
			slices.Sort(fs)
			return slices.Compact(fs)
		case "Features":
			fs := strings.Fields(value)
			slices.Sort(fs)
			return fs
		}
	}
	return nil
}

// Cgroups finds the version that containers are under, and the controllers there are. Version 0 means that it cannot be told.
func Cgroups() (version int, controllers []string) {
	const root = "/sys/fs/cgroup"
	if text, err := os.ReadFile(root + "/cgroup.controllers"); err == nil {
		return 2, strings.Fields(string(text))
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return 0, nil
	}
	for _, e := range entries {
		// some are mounted together, as cpu,cpuacct, with or without links of their own beside
		if e.Name() != "systemd" && e.Name() != "unified" {
			controllers = append(controllers, strings.Split(e.Name(), ",")...)
		}
	}
	slices.Sort(controllers)
	return 1, slices.Compact(controllers)
}

// criuCheck is what `criu check` complains of, "" when it is content. It complains also of what no dump here needs.
func criuCheck(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "criu", "check").CombinedOutput()
	if err == nil {
		return ""
	}
	var said []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "Error") {
			said = append(said, strings.TrimSpace(line))
		}
	}
	if len(said) == 0 {
		return err.Error()
	}
	return strings.Join(said, "\n")
}

// tracksWrites asks the kernel for userfaultfd that marks written pages by itself.
func tracksWrites() bool {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|uffd.UserModeOnly, 0, 0)
	if errno != 0 {
		return false
	}
	defer unix.Close(int(fd))
	return uffd.API(int(fd), uffd.FeatureWPAsync|uffd.FeatureWPUnpopulated) == nil
}

// DiskFree is the free space in bytes of the file system that holds dir.
func DiskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look for free disk at %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
