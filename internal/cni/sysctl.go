package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/internal/network"
	"migrate/internal/thread"
)

const procSys = "/proc/sys"

// maxSysctl bounds one value: the kernel's are short, and a peer's have no business to be longer.
const maxSysctl = 4096

// sysctlKey is a key in its path form (net/ipv4/ip_forward), since interface names may hold dots.
var sysctlKey = regexp.MustCompile(`^net/(core|ipv4|ipv6|mptcp|netfilter|unix|mpls)(/[A-Za-z0-9_.@-]+)+$`)

// ownSysctls do not travel: secrets, which a new namespace makes itself, and what an Attachment says already.
var ownSysctls = []string{"stable_secret", "tcp_fastopen_key", "mtu"}

// ValidSysctl says whether key names a setting of a network namespace.
func ValidSysctl(key string) bool {
	if !sysctlKey.MatchString(key) || strings.Contains(key, "..") {
		return false
	}
	return !slices.Contains(ownSysctls, filepath.Base(key))
}

// Baseline is what a namespace just made on this host has.
type Baseline struct{ values map[string]string }

// NewBaseline reads the settings of a new namespace.
func NewBaseline() (*Baseline, error) {
	base := &Baseline{}
	err := thread.Run(func() error {
		if err := unshareNet(); err != nil {
			return err
		}
		var err error
		base.values, err = readSysctls()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read settings of a new network namespace: %w", err)
	}
	return base, nil
}

// Sysctls returns what was changed in the namespace at path since it was made, as far as this host can tell. An
// interface's settings are compared with the namespace's defaults.
func (b *Baseline) Sysctls(path string) (map[string]string, error) {
	var live map[string]string
	err := network.Do(path, func() error {
		var err error
		live, err = readSysctls()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read settings of network namespace %s: %w", path, err)
	}
	changed := map[string]string{}
	for key, value := range live {
		was, known := b.values[key]
		if !known {
			was, known = live[defaultKey(key)]
		}
		if known && was != value {
			changed[key] = value
		}
	}
	return changed, nil
}

// defaultKey turns net/ipv4/conf/eth0/x into net/ipv4/conf/default/x.
func defaultKey(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) != 5 || (parts[2] != "conf" && parts[2] != "neigh") {
		return ""
	}
	parts[3] = "default"
	return strings.Join(parts, "/")
}

// readSysctls reads all settings of the calling thread's namespace that can be read and written.
func readSysctls() (map[string]string, error) {
	values := map[string]string{}
	buf := make([]byte, maxSysctl+1)
	err := filepath.WalkDir(procSys+"/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // an interface may go while we walk
		}
		key := strings.TrimPrefix(path, procSys+"/")
		if d.IsDir() || !ValidSysctl(key) {
			return nil
		}
		if value, ok := readSysctl(path, buf); ok {
			values[key] = value
		}
		return nil
	})
	return values, err
}

// readSysctl reads a setting that can be written as well. There are a thousand of them: it makes no more system calls than it needs, and the
// kernel gives a whole value at once.
func readSysctl(path string, buf []byte) (value string, ok bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o600 != 0o600 {
		return "", false
	}
	n, err := unix.Read(fd, buf)
	if err != nil || n > maxSysctl {
		return "", false
	}
	return strings.TrimSpace(string(buf[:n])), true
}

// SetSysctls applies settings to the namespace at path. Settings of interfaces that are not there are skipped.
func SetSysctls(path string, values map[string]string) error {
	if len(values) == 0 {
		return nil
	}
	keys := make([]string, 0, len(values))
	for key, value := range values {
		if !ValidSysctl(key) || len(value) > maxSysctl {
			return fmt.Errorf("network setting %q is not one a namespace has", key)
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareSysctls)
	return network.Do(path, func() error {
		for _, key := range keys {
			if err := writeSysctl(key, values[key]); err != nil {
				return err
			}
		}
		return nil
	})
}

// compareSysctls puts all (ip_forward is one of them) and default before interfaces: writing the former changes the
// latter.
func compareSysctls(a, b string) int {
	if ra, rb := sysctlRank(a), sysctlRank(b); ra != rb {
		return ra - rb
	}
	return compare(a, b)
}

func sysctlRank(key string) int {
	switch {
	case strings.Contains(key, "/all/"), key == "net/ipv4/ip_forward":
		return 0
	case strings.Contains(key, "/default/"):
		return 1
	}
	return 2
}

func writeSysctl(key, value string) error {
	path := filepath.Join(procSys, key)
	if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	err := os.WriteFile(path, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s to %q: %w", key, value, err)
	}
	return nil
}

// acceptDAD is the default that new interfaces take.
const acceptDAD = "net/ipv6/conf/default/accept_dad"

// WithoutDAD runs f while new interfaces in the namespace at path take IPv6 addresses without looking for duplicates:
// the address moves, and a second of waiting would be a second of downtime. Afterwards the default is as before, and the
// interfaces made meanwhile have it too.
func WithoutDAD(path string, f func() error) error {
	before, err := swapDAD(path, "0")
	if err != nil {
		return err
	}
	if err := f(); err != nil || before == "" {
		return err
	}
	links, err := Links(path)
	if err != nil {
		return err
	}
	restore := map[string]string{acceptDAD: before}
	for _, l := range links {
		restore["net/ipv6/conf/"+l.Name+"/accept_dad"] = before
	}
	return SetSysctls(path, restore)
}

// swapDAD sets the default and returns what it was, "" on a host without IPv6.
func swapDAD(path, value string) (before string, err error) {
	err = network.Do(path, func() error {
		data, err := os.ReadFile(filepath.Join(procSys, acceptDAD))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", acceptDAD, err)
		}
		before = strings.TrimSpace(string(data))
		return writeSysctl(acceptDAD, value)
	})
	return before, err
}
