package restore_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/restore"
)

// ctrSpec is what `ctr run` gives a container (containerd, cmd/ctr/commands/run/run_unix.go).
func ctrSpec(t *testing.T) *specs.Spec {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "default")
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "web"},
		oci.WithDefaultUnixDevices, oci.WithTTY, oci.WithProcessArgs("redis-server"), oci.WithAnnotations(map[string]string{"nerdctl/x": "y"}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func goodSpec(t *testing.T) json.RawMessage {
	t.Helper()
	return encode(t, ctrSpec(t))
}

func encode(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decodeSpec(t *testing.T, b json.RawMessage) *specs.Spec {
	t.Helper()
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func inNoNetwork(t *testing.T, s *specs.Spec) *engine.Container {
	t.Helper()
	return &engine.Container{ID: "web", Spec: encode(t, s), Network: engine.Network{Mode: engine.NetworkNone}}
}

func wantRefused(t *testing.T, err error, words string) {
	t.Helper()
	var f *fail.Fault
	if !errors.As(err, &f) || f.Code != fail.Refused {
		t.Errorf("got %v, want a refusal", err)
	} else if !strings.Contains(f.Error(), words) {
		t.Errorf("refused with %q, want %q", f, words)
	}
}

func TestPolicyTakesOrdinaryContainers(t *testing.T) {
	s := ctrSpec(t)
	s.Annotations["org.criu.config"] = "/evil.conf"
	s.Annotations["io.containerd.runc.v2.group"] = "somebody"
	s.Annotations["io.kubernetes.cri.sandbox-id"] = "somebody"
	s.Annotations["run.oci.handler"] = "x"
	s.Annotations["org.opencontainers.image.version"] = "7"
	c := inNoNetwork(t, s)
	c.ID = "web2"
	spec, err := restore.Policy{}.Check(c, "/ours.conf")
	if err != nil {
		t.Fatal(err)
	}
	got := decodeSpec(t, spec)
	want := map[string]string{"org.criu.config": "/ours.conf", "nerdctl/x": "y", "org.opencontainers.image.version": "7"}
	if len(got.Annotations) != len(want) {
		t.Errorf("annotations are %v, want %v", got.Annotations, want)
	}
	for k, v := range want {
		if got.Annotations[k] != v {
			t.Errorf("annotation %s is %q, want %q", k, got.Annotations[k], v)
		}
	}
	if got.Linux.CgroupsPath != "/default/web2" {
		t.Errorf("cgroup is %q", got.Linux.CgroupsPath)
	}
	// what the record holds in the end has no trace of the migration
	if a := decodeSpec(t, c.Spec).Annotations; a["org.criu.config"] != "" || len(a) != 2 {
		t.Errorf("the record's annotations are %v", a)
	}
}

func TestPolicyRefuses(t *testing.T) {
	major := func(n int64) *int64 { return &n }
	adj := -999
	for _, c := range []struct {
		name   string
		change func(s *specs.Spec)
		words  string
		always bool // also when privileged containers are allowed
	}{
		{"hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}} }, "hooks", true},
		//lint:ignore SA1019 a peer may use the deprecated kind
		{"old hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/x"}}} }, "hooks", true},
		{"absolute root", func(s *specs.Spec) { s.Root.Path = "/" }, "root file system", true},
		{"root above", func(s *specs.Spec) { s.Root.Path = "../../../.." }, "root file system", true},
		{"bind", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/h", Type: "bind", Source: "/etc"})
		}, "binds /etc", true},
		{"bind by option", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/h", Type: "tmpfs", Source: "/etc", Options: []string{"rbind"}})
		}, "binds /etc", true},
		{"block file system", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/h", Type: "ext4", Source: "/dev/sda1"})
		}, "ext4", true},
		{"overlay", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/h", Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/"}})
		}, "overlay", true},
		{"shared root", func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" }, "propagate", true},
		{"shared mount", func(s *specs.Spec) { s.Mounts[1].Options = append(s.Mounts[1].Options, "rshared") }, "propagate", true},
		{"capability", func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
		}, "CAP_SYS_ADMIN", false},
		{"ambient capability", func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_SYS_MODULE"} }, "CAP_SYS_MODULE", false},
		{"pid namespace of the host", func(s *specs.Spec) { dropNS(s, specs.PIDNamespace) }, "pid namespace", false},
		{"mount namespace of the host", func(s *specs.Spec) { dropNS(s, specs.MountNamespace) }, "mount namespace", false},
		{"ipc namespace of the host", func(s *specs.Spec) { dropNS(s, specs.IPCNamespace) }, "ipc namespace", false},
		{"joins a pid namespace", func(s *specs.Spec) { joinNS(s, specs.PIDNamespace, "/proc/1/ns/pid") }, "joins", true},
		{"joins a mount namespace", func(s *specs.Spec) { joinNS(s, specs.MountNamespace, "/proc/1/ns/mnt") }, "joins", true},
		{"two pid namespaces", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"})
		}, "joins", true},
		{"user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, "user namespace", true},
		{"uid mappings", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "user namespace", true},
		{"cgroup at the top", func(s *specs.Spec) { s.Linux.CgroupsPath = "/" }, "cgroup path", true},
		{"cgroup of the host", func(s *specs.Spec) { s.Linux.CgroupsPath = "/system.slice" }, "cgroup path", true},
		{"cgroup above", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b/c" }, "cgroup path", true},
		{"device", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}} }, "/dev/sda", false},
		{"all devices", allow(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}), "devices", false},
		{"block devices", allow(specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: major(8), Minor: major(0), Access: "rw"}), "devices", false},
		{"all minors of memory", allow(specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: major(1), Access: "rw"}), "devices", false},
		{"raw disks", allow(specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: major(21), Minor: major(0), Access: "rw"}), "devices", false},
		{"fuse", allow(specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: major(10), Minor: major(229), Access: "rwm"}), "devices", false},
		{"/proc/sys not protected", func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/bus"} }, "protected", false},
		{"nothing hidden", func(s *specs.Spec) { s.Linux.MaskedPaths = nil }, "hidden", false},
		{"second proc", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/p", Type: "proc", Source: "proc"})
		}, "proc mounted", false},
		{"writable sysfs", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/s", Type: "sysfs", Source: "sysfs"})
		}, "writable", false},
		{"writable cgroups", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/c", Type: "cgroup2", Source: "cgroup"})
		}, "writable", false},
		{"seccomp listener", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/run/x.sock"} }, "socket", false},
		{"protected from the OOM killer", func(s *specs.Spec) { s.Process.OOMScoreAdj = &adj }, "memory killer", false},
		{"real-time scheduling", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO} }, "scheduling", false},
		{"real-time I/O", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT} }, "scheduling", false},
		{"AppArmor profile that is not here", func(s *specs.Spec) { s.Process.ApparmorProfile = "made-up" }, "made-up", true},
		{"resource director", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, "resource director", true},
		{"network interfaces of the host", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }, "", false},
		{"no Linux", func(s *specs.Spec) { s.Linux = nil }, "Linux", true},
		{"no process", func(s *specs.Spec) { s.Process = nil }, "Linux", true},
		{"no root", func(s *specs.Spec) { s.Root = nil }, "Linux", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ctrSpec(t)
			c.change(s)
			_, err := restore.Policy{}.Check(inNoNetwork(t, s), "/c")
			wantRefused(t, err, c.words)
			if _, err := (restore.Policy{AllowPrivileged: true}).Check(inNoNetwork(t, s), "/c"); (err != nil) != c.always {
				t.Errorf("with privileged containers allowed: %v", err)
			}
		})
	}
}

func dropNS(s *specs.Spec, kind specs.LinuxNamespaceType) {
	var kept []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != kind {
			kept = append(kept, ns)
		}
	}
	s.Linux.Namespaces = kept
}

func joinNS(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == kind {
			s.Linux.Namespaces[i].Path = path
		}
	}
}

func allow(d specs.LinuxDeviceCgroup) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, d) }
}

// The specification's network namespace is that of the description, which the engine has checked.
func TestPolicyNetwork(t *testing.T) {
	const path = "/run/netns/web"
	for _, c := range []struct {
		name string
		net  engine.Network
		spec func(s *specs.Spec)
		want string // path in the end; "refused"
	}{
		{"own", engine.Network{Mode: engine.NetworkNone}, func(*specs.Spec) {}, ""},
		{"host", engine.Network{Mode: engine.NetworkHost}, func(s *specs.Spec) { dropNS(s, specs.NetworkNamespace) }, "none"},
		{"by path", engine.Network{Mode: engine.NetworkCNI, NetNS: path}, func(s *specs.Spec) { joinNS(s, specs.NetworkNamespace, "/run/netns/there") }, path},
		{"none, and a path", engine.Network{Mode: engine.NetworkNone, NetNS: "/proc/1/ns/net"}, func(s *specs.Spec) { joinNS(s, specs.NetworkNamespace, "x") }, "refused"},
		{"none, and a path in the specification", engine.Network{Mode: engine.NetworkNone}, func(s *specs.Spec) { joinNS(s, specs.NetworkNamespace, "/proc/1/ns/net") }, "refused"},
		{"none, and no namespace", engine.Network{Mode: engine.NetworkNone}, func(s *specs.Spec) { dropNS(s, specs.NetworkNamespace) }, "refused"},
		{"host, and a path", engine.Network{Mode: engine.NetworkHost, NetNS: path}, func(s *specs.Spec) { dropNS(s, specs.NetworkNamespace) }, "refused"},
		{"host, and a namespace", engine.Network{Mode: engine.NetworkHost}, func(*specs.Spec) {}, "refused"},
		{"by path, which it is to lose", engine.Network{Mode: engine.NetworkCNI, NetNS: path, Unnamed: true}, func(*specs.Spec) {}, path},
		{"unnamed, and a path in the specification", engine.Network{Mode: engine.NetworkCNI, NetNS: path, Unnamed: true}, func(s *specs.Spec) { joinNS(s, specs.NetworkNamespace, path) }, "refused"},
		{"CNI, and no namespace", engine.Network{Mode: engine.NetworkCNI, NetNS: path}, func(s *specs.Spec) { dropNS(s, specs.NetworkNamespace) }, "refused"},
		{"CNI, and an own one", engine.Network{Mode: engine.NetworkCNI, NetNS: path}, func(*specs.Spec) {}, "refused"},
		{"CNI, and two", engine.Network{Mode: engine.NetworkCNI, NetNS: path}, func(s *specs.Spec) {
			joinNS(s, specs.NetworkNamespace, path)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"})
		}, "refused"},
		{"no mode", engine.Network{}, func(*specs.Spec) {}, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ctrSpec(t)
			c.spec(s)
			container := &engine.Container{ID: "web", Spec: encode(t, s), Network: c.net}
			out, err := restore.Policy{}.Check(container, "/c")
			if c.want == "refused" {
				wantRefused(t, err, "network")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := netnsOf(t, out); got != c.want {
				t.Errorf("network namespace is %q, want %q", got, c.want)
			}
			if got := netnsOf(t, container.Spec); c.net.Unnamed && got != "" {
				t.Errorf("network namespace of the record is %q, want none", got)
			}
		})
	}
}

func netnsOf(t *testing.T, spec json.RawMessage) string {
	t.Helper()
	for _, ns := range decodeSpec(t, spec).Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return "none"
}

func TestPolicyCgroup(t *testing.T) {
	for path, want := range map[string]string{
		"":                            "",
		"/default/redis":              "/default/web",
		"/a/b/redis":                  "/a/b/web",
		"machine.slice:nerdctl:redis": "machine.slice:nerdctl:web",
	} {
		s := ctrSpec(t)
		s.Linux.CgroupsPath = path
		out, err := restore.Policy{}.Check(inNoNetwork(t, s), "/c")
		if err != nil {
			t.Errorf("%q: %v", path, err)
		} else if got := decodeSpec(t, out).Linux.CgroupsPath; got != want {
			t.Errorf("%q becomes %q, want %q", path, got, want)
		}
	}
}

func TestPolicyBinds(t *testing.T) {
	dir := t.TempDir()
	allowed, other := filepath.Join(dir, "allowed"), filepath.Join(dir, "other")
	for _, d := range []string{allowed, other, filepath.Join(allowed, "sub"), filepath.Join(other, "secret"), allowed + "-not"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"out": other, "in": filepath.Join(allowed, "sub"), "up": ".."} {
		if err := os.Symlink(to, filepath.Join(allowed, from)); err != nil {
			t.Fatal(err)
		}
	}
	for source, ok := range map[string]bool{
		allowed:                   true,
		allowed + "/sub":          true,
		allowed + "/in":           true,
		allowed + "/./sub/../sub": true,
		allowed + "/out":          false,
		allowed + "/out/secret":   false,
		allowed + "/up":           false,
		allowed + "/../other":     false,
		allowed + "/missing":      false,
		allowed + "-not":          false,
		other:                     false,
		"/":                       false,
		"":                        false,
		"allowed":                 false,
	} {
		s := ctrSpec(t)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: source, Options: []string{"rbind", "rw"}})
		_, err := restore.Policy{AllowMounts: []string{allowed + "/"}}.Check(inNoNetwork(t, s), "/c")
		if (err == nil) != ok {
			t.Errorf("bind of %q: %v", source, err)
		}
	}
}

// Where the output goes is a file, or a program, of this host.
func TestPolicyStdio(t *testing.T) {
	dir := t.TempDir()
	logs, other := filepath.Join(dir, "logs"), filepath.Join(dir, "other")
	for _, d := range []string{logs, other} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, filepath.Join(logs, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "not-there"), filepath.Join(logs, "dangling")); err != nil {
		t.Fatal(err)
	}
	for uri, keep := range map[string]bool{
		"file://" + logs + "/dangling":         false,
		"":                                     true,
		"/run/containerd/fifo/1/web-stdout":    true,
		"file://" + logs + "/web.log":          true,
		"file://" + logs + "/new/web.log":      true,
		"file://" + logs + "/link/web.log":     false,
		"file://" + logs + "/link/new/web.log": false,
		"file://" + logs + "/../other/web.log": false,
		"file://" + logs + "/x/../../other/y":  false,
		"file://" + other + "/web.log":         false,
		"file:///etc/cron.d/web":               false,
		"file:etc/x":                           false,
		"binary:///bin/sh?-c=id":               false,
		"BINARY:///bin/sh?-c=id":               false,
		"binary:///bin/logger?a=b":             true,
		"binary:///bin/../bin/logger":          false,
		"binary:///bin/logger/x":               false,
		"npipe://x":                            false,
		"://":                                  false,
	} {
		c := inNoNetwork(t, ctrSpec(t))
		c.Stdio = engine.Stdio{Stdin: "/run/fifo", Stdout: uri, Stderr: uri}
		if _, err := (restore.Policy{AllowLogs: []string{logs}, AllowLoggers: []string{"/bin/logger"}}).Check(c, "/c"); err != nil {
			t.Errorf("%q: %v", uri, err)
			continue
		}
		for _, got := range []string{c.Stdio.Stdout, c.Stdio.Stderr} {
			if keep && got != uri {
				t.Errorf("%q became %q", uri, got)
			}
			if !keep && (strings.Contains(got, ":") || strings.Contains(got, "/")) {
				t.Errorf("%q became %q, which is a place that the peer chose", uri, got)
			}
		}
	}
}

func TestPolicyLabels(t *testing.T) {
	c := inNoNetwork(t, ctrSpec(t))
	c.Labels = map[string]string{"app": "x", "nerdctl/log-uri": "binary:///usr/bin/evil"}
	if _, err := (restore.Policy{}).Check(c, "/c"); err != nil {
		t.Fatal(err)
	}
	if len(c.Labels) != 1 || c.Labels["app"] != "x" {
		t.Errorf("labels are %v", c.Labels)
	}
}
