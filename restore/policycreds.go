package restore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/criu"
)

// capNames are the capabilities by number (include/uapi/linux/capability.h).
var capNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CheckImages holds the credentials in an image set against the specification that was let in: CRIU restores what the images
// say, whatever the specification does.
func (p Policy) CheckImages(dir string, spec json.RawMessage) error {
	if p.AllowPrivileged {
		return nil
	}
	var s specs.Spec
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("decode the container's specification: %w", err)
	}
	threads, err := criu.ReadCredentials(dir)
	if err != nil {
		return err
	}
	allowed := allowedCaps(s.Process.Capabilities)
	for _, t := range threads {
		if extra := t.Caps &^ allowed; extra != 0 {
			return refusal(fmt.Sprintf("a process in its checkpoint (%s) has %s, which its specification does not give", t.File, nameCaps(extra)), needPrivileged)
		}
		if s.Linux.Seccomp != nil && !t.Seccomp {
			return refusal(fmt.Sprintf("a process in its checkpoint (%s) runs without the seccomp filter of its specification", t.File), needPrivileged)
		}
	}
	return nil
}

func allowedCaps(c *specs.LinuxCapabilities) (m uint64) {
	if c == nil {
		return 0
	}
	for _, set := range [][]string{c.Bounding, c.Permitted, c.Effective, c.Inheritable, c.Ambient} {
		for _, name := range set {
			if i := slices.Index(capNames, name); i >= 0 {
				m |= 1 << i
			}
		}
	}
	return m
}

func nameCaps(m uint64) string {
	var names []string
	for i := range 64 {
		switch {
		case m&(1<<i) == 0:
		case i < len(capNames):
			names = append(names, capNames[i])
		default:
			names = append(names, fmt.Sprintf("capability %d", i))
		}
	}
	return strings.Join(names, ", ")
}
