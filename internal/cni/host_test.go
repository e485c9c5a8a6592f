//go:build inhost

package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

// pluginDir holds real plugins; without them, or without root, there is nothing to attach with.
func pluginDir(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{DefaultBinDir, debianBinDir, os.Getenv("MIGRATE_CNI_BIN_DIR")} {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); dir != "" && err == nil {
			if os.Geteuid() != 0 {
				t.Skip("SKIPPED: run as root to test with CNI plugins")
			}
			return dir
		}
	}
	t.Skip("SKIPPED: install the CNI plugins, or name their directory in MIGRATE_CNI_BIN_DIR, to run this test as root")
	return ""
}

const dualStack = `{
  "cniVersion": "1.0.0", "name": "dual",
  "plugins": [{
    "type": "bridge", "bridge": "br-cnitest",
    "ipam": {"type": "host-local", "dataDir": %q, "ranges": [
      [{"subnet": "10.213.0.0/24"}], [{"subnet": "fd13:213::/64"}]
    ]}
  }]
}`

// inOwnHost runs f in a network namespace of its own, so that bridges and the like vanish with it.
func inOwnHost(t *testing.T, f func(h *Host, dir string)) {
	t.Helper()
	bin, dir := pluginDir(t), t.TempDir()
	conf := fmt.Appendf(nil, dualStack, filepath.Join(dir, "networks"))
	if err := os.WriteFile(filepath.Join(dir, "dual.conflist"), conf, 0o644); err != nil {
		t.Fatal(err)
	}
	h := New(Config{ConfDir: dir, BinDirs: []string{bin}, CacheDir: filepath.Join(dir, "cache")})
	if err := thread.Run(func() error {
		if err := unshareNet(); err != nil {
			return err
		}
		f(h, dir)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAttachGivesTheAddressesAskedFor(t *testing.T) {
	inOwnHost(t, func(h *Host, dir string) {
		path := filepath.Join(dir, "ns")
		if err := NewNamespace(path); err != nil {
			t.Errorf("NewNamespace: %v", err)
			return
		}
		defer RemoveNamespace(path)
		a := Attachment{
			Network: "dual", ContainerID: "web", Interface: "eth0", MAC: "02:00:00:00:13:13", MTU: 1400,
			IPs: []string{"10.213.0.77/24", "fd13:213::77/64"},
		}
		if err := h.Check(a); err != nil {
			t.Errorf("Check before: %v", err)
		}
		if err := WithoutDAD(path, func() error { return h.Attach(t.Context(), path, a) }); err != nil {
			t.Errorf("Attach: %v", err)
		}
		if err := h.Check(a); !errors.Is(err, ErrInUse) {
			t.Errorf("Check while attached: %v, want ErrInUse", err)
		}
		got, err := h.Attached(path)
		if err != nil || len(got) != 1 || !slices.Equal(got[0].IPs, a.IPs) || got[0].MAC != a.MAC || got[0].MTU != a.MTU {
			t.Errorf("Attached = %+v, %v, want %+v", got, err, a)
		}
		for range 2 {
			if err := h.Detach(t.Context(), path, a); err != nil {
				t.Errorf("Detach: %v", err)
			}
		}
		if err := h.Check(a); err != nil {
			t.Errorf("Check after: %v", err)
		}
		if got, err := h.Attached(path); err != nil || len(got) != 0 {
			t.Errorf("Attached after Detach = %+v, %v", got, err)
		}
	})
}

func TestDetachAfterTheNamespaceIsGone(t *testing.T) {
	inOwnHost(t, func(h *Host, dir string) {
		path := filepath.Join(dir, "ns")
		a := Attachment{Network: "dual", ContainerID: "web", Interface: "eth0", IPs: []string{"10.213.0.78/24", "fd13:213::78/64"}}
		if err := errors.Join(NewNamespace(path), h.Attach(t.Context(), path, a), RemoveNamespace(path)); err != nil {
			t.Error(err)
		}
		if err := h.Detach(t.Context(), path, a); err != nil {
			t.Errorf("Detach: %v", err)
		}
		if err := h.Check(a); err != nil {
			t.Errorf("address still reserved: %v", err)
		}
	})
}

func TestForeignInterfaceIsNamed(t *testing.T) {
	inOwnHost(t, func(h *Host, dir string) {
		path := filepath.Join(dir, "ns")
		a := Attachment{Network: "dual", ContainerID: "web", Interface: "eth0", IPs: []string{"10.213.0.79/24", "fd13:213::79/64"}}
		if err := errors.Join(NewNamespace(path), h.Attach(t.Context(), path, a)); err != nil {
			t.Error(err)
		}
		defer RemoveNamespace(path)
		if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
			t.Error(err)
		}
		if _, err := h.Attached(path); !errors.Is(err, ErrForeign) {
			t.Errorf("Attached without cache entry: %v, want ErrForeign", err)
		}
	})
}

func TestNewNamespaceKeepsWhatIsThere(t *testing.T) {
	pluginDir(t)
	path := filepath.Join(t.TempDir(), "ns")
	if err := NewNamespace(path); err != nil {
		t.Fatalf("NewNamespace: %v", err)
	}
	defer RemoveNamespace(path)
	if err := NewNamespace(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second NewNamespace: %v, want ErrInUse", err)
	}
	if !IsNamespace(path) {
		t.Error("the namespace is gone")
	}
	for range 2 {
		if err := RemoveNamespace(path); err != nil {
			t.Errorf("RemoveNamespace: %v", err)
		}
	}
	if err := unix.Access(path, unix.F_OK); err == nil {
		t.Error("the file is still there")
	}
}

func TestSysctlsAreFoundAndSet(t *testing.T) {
	pluginDir(t)
	base, err := NewBaseline()
	if err != nil {
		t.Fatalf("NewBaseline: %v", err)
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := errors.Join(NewNamespace(from), NewNamespace(to)); err != nil {
		t.Fatal(err)
	}
	defer func() { RemoveNamespace(from); RemoveNamespace(to) }()
	want := map[string]string{"net/ipv4/ip_unprivileged_port_start": "80", "net/ipv4/tcp_fin_timeout": "11"}
	if err := SetSysctls(from, want); err != nil {
		t.Fatalf("SetSysctls: %v", err)
	}
	for _, path := range []string{from, to} {
		got, err := base.Sysctls(path)
		if err != nil || len(got) != len(want) || got["net/ipv4/tcp_fin_timeout"] != "11" {
			t.Errorf("Sysctls of %s = %v, %v, want %v", path, got, err, want)
		}
		if err := SetSysctls(to, got); err != nil {
			t.Errorf("SetSysctls: %v", err)
		}
	}
}
