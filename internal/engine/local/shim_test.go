package local

import (
	"strings"
	"testing"
)

func TestShimFor(t *testing.T) {
	for line, want := range map[string]bool{
		"/usr/bin/containerd-shim-runc-v2 -namespace default -id web -address /run/c.sock":                   true,
		"/usr/bin/containerd-shim-runc-v2 -namespace default -id web2 -address /run/c.sock":                  false,
		"/usr/bin/containerd-shim-runc-v2 -namespace other -id web":                                          false,
		"/usr/bin/containerd-shim-runc-v2 -namespace default -address /run/c.sock -id web -bundle /b delete": false,
		"/usr/bin/less -namespace default -id web":                                                           false,
		"containerd-shim-runc-v2": false,
	} {
		address, got := shimFor(strings.Fields(line), "default", "web")
		if got != want || got && address != "/run/c.sock" {
			t.Errorf("%q: %q, %v", line, address, got)
		}
	}
}
