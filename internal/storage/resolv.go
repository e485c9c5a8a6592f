package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
)

// resolvedConf is where systemd-resolved names the servers that it asks, when /etc/resolv.conf names only itself.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

// ResolvConf is the resolv.conf that a container gets on this host. One with a network of its own cannot reach servers that listen on the
// host's loopback addresses: they are left out, and systemd-resolved's own are taken if none is left. etc and run name the files, ""
// for the usual ones.
func ResolvConf(ownNetwork bool, etc, run string) ([]byte, error) {
	if etc == "" {
		etc, run = resolvConf, resolvedConf
	}
	b, err := os.ReadFile(etc)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read this host's resolv.conf: %w", err)
	}
	if !ownNetwork {
		return b, nil
	}
	kept, servers := withoutLoopback(b)
	if servers > 0 {
		return kept, nil
	}
	if r, err := os.ReadFile(run); err == nil {
		if other, n := withoutLoopback(r); n > 0 {
			return other, nil
		}
	}
	return kept, nil
}

// withoutLoopback leaves out name servers on loopback addresses, and counts the others.
func withoutLoopback(b []byte) (kept []byte, servers int) {
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) > 1 && f[0] == "nameserver" {
			host, _, _ := strings.Cut(f[1], "%")
			if a, err := netip.ParseAddr(host); err == nil && a.Unmap().IsLoopback() {
				continue
			}
			servers++
		}
		kept = append(kept, line...)
	}
	return kept, servers
}
