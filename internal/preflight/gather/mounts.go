package gather

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/internal/preflight"
)

// readMounts reads the mounts that processes see.
func readMounts(pids []int) (map[uint64]*preflight.Mount, error) {
	all := map[uint64]*preflight.Mount{}
	for _, pid := range pids {
		text, err := os.ReadFile(procPath(pid, "mountinfo"))
		if gone(err) || errors.Is(err, unix.EINVAL) {
			continue // it has ended, and has no mounts any more
		}
		if err != nil {
			return nil, err
		}
		parseMounts(all, string(text))
	}
	return all, nil
}

// parseMounts reads lines "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw" (proc(5)).
func parseMounts(all map[uint64]*preflight.Mount, text string) {
	at := map[string]*preflight.Mount{}
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(fs) < 1 {
			continue
		}
		m := &preflight.Mount{Root: unescape(f[3]), Point: unescape(f[4]), Type: fs[0]}
		m.ID, _ = strconv.ParseUint(f[0], 10, 64)
		m.Parent, _ = strconv.ParseUint(f[1], 10, 64)
		major, minor, _ := strings.Cut(f[2], ":")
		ma, _ := strconv.ParseUint(major, 10, 32)
		mi, _ := strconv.ParseUint(minor, 10, 32)
		m.Dev = preflight.Dev{Major: uint32(ma), Minor: uint32(mi)}
		// mounted on the very root of another mount: that one's files cannot be reached by path any more
		if below := at[m.Point]; below != nil && below.ID == m.Parent {
			below.Hidden = true
		}
		at[m.Point] = m
		all[m.ID] = m
	}
}

// unescape undoes the octal escapes of blanks in paths.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// readLeases lists the inodes of files with a write lease, by holder. Other locks travel.
func readLeases() (map[int][]uint64, error) {
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil, err
	}
	return parseLeases(string(text)), nil
}

// parseLeases reads lines "1: LEASE  ACTIVE    WRITE 22603 fe:00:9978076 0 EOF". One that is being broken is there as well.
func parseLeases(text string) map[int][]uint64 {
	leases := map[int][]uint64{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "LEASE" || f[2] == "ACTIVE" && f[3] != "WRITE" {
			continue
		}
		pid, _ := strconv.Atoi(f[4])
		ino, err := strconv.ParseUint(f[5][strings.LastIndexByte(f[5], ':')+1:], 10, 64)
		if pid != 0 && err == nil {
			leases[pid] = append(leases[pid], ino)
		}
	}
	return leases
}
