package preflight

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// plain is a container with one process that has nothing unusual.
func plain() *Container {
	return &Container{
		Init: 100, Cgroup: 2, GhostLimit: 1 << 20, Resource: true, LazyLimit: 1 << 40, Passed: []string{"pipe:[7]"}, Binds: []string{"/srv"},
		Mounts: map[uint64]*Mount{
			1: {ID: 1, Point: "/", Type: "overlay", Dev: Dev{0, 40}},
			2: {ID: 2, Point: "/proc", Type: "proc", Dev: Dev{0, 41}},
			3: {ID: 3, Point: "/srv", Type: "ext4", Dev: Dev{8, 1}},
			4: {ID: 4, Point: "/dev", Type: "tmpfs", Dev: Dev{0, 42}},
		},
		Sockets: map[uint64]*Socket{},
		Spec:    Spec{Own: []string{"pid", "mount", "ipc", "uts", "network"}, Joined: map[string]string{"network": "/run/netns/x"}},
		Procs: []*Process{{
			Pid: 100, VPid: 1, PPid: 1, Comm: "init", State: 'S', Threads: 1, Namespaces: namespaces(0),
			FDs: []Descriptor{
				{FD: 0, Link: "/dev/null", Mount: 4, Mode: unix.S_IFCHR, Dev: Dev{1, 3}},
				{FD: 1, Link: "pipe:[7]", Flags: unix.O_WRONLY},
				{FD: 3, Link: "/data/file", Mount: 1, Mode: unix.S_IFREG, Links: 1},
				{FD: 4, Link: "anon_inode:[eventpoll]"},
				{FD: 5, Link: "/dev/pts/0", Mount: 4, Mode: unix.S_IFCHR, Dev: Dev{136, 0}},
			},
		}},
	}
}

func namespaces(add uint64) map[string]uint64 {
	m := map[string]uint64{}
	for i, kind := range []string{"pid", "mnt", "net", "ipc", "uts", "user", "cgroup", "time"} {
		m[kind] = uint64(1000+i) + add
	}
	return m
}

// child is a second process of the container.
func child(c *Container) *Process {
	p := &Process{Pid: 101, VPid: 2, PPid: 100, Comm: "worker", State: 'S', Threads: 1, Namespaces: namespaces(0)}
	c.Procs = append(c.Procs, p)
	return p
}

// has gives the first process one more descriptor, with the number 9.
func has(c *Container, d Descriptor) { d.FD = 9; c.Procs[0].FDs = append(c.Procs[0].FDs, d) }

// hasSocket gives it a socket.
func hasSocket(c *Container, s Socket) {
	s.Inode = 55
	c.Sockets[55] = &s
	has(c, Descriptor{Link: "socket:[55]"})
}

func inet(proto int, s Socket) func(*Container) {
	s.Family, s.Protocol = unix.AF_INET, proto
	if s.Type == 0 {
		s.Type = unix.SOCK_STREAM
	}
	return func(c *Container) { hasSocket(c, s) }
}

func descriptor(d Descriptor) func(*Container) { return func(c *Container) { has(c, d) } }

func mapping(path string) func(*Container) {
	return func(c *Container) { c.Procs[0].Maps = []Mapping{{Start: 0x7f00, Path: path}} }
}

// situations are what a container may be in: what is found then, and on what. "" stands for nothing.
var situations = map[string]struct {
	set   func(*Container)
	code  string
	thing string // part of the text
}{
	"plain":                {func(*Container) {}, "", ""},
	"MPTCP":                {inet(unix.IPPROTO_MPTCP, Socket{State: tcpListen}), "socket-mptcp", "descriptor 9, MPTCP socket 55"},
	"SCTP":                 {inet(unix.IPPROTO_SCTP, Socket{}), "socket-protocol", "SCTP"},
	"raw SCTP":             {inet(unix.IPPROTO_SCTP, Socket{Type: unix.SOCK_RAW}), "", ""},
	"established TCP":      {inet(unix.IPPROTO_TCP, Socket{State: tcpEstablished, ReadQ: 5, WriteQ: 7}), "", ""},
	"waiting connections":  {inet(unix.IPPROTO_TCP, Socket{State: tcpListen, ReadQ: 2}), "tcp-waiting", "TCP socket 55"},
	"listening":            {inet(unix.IPPROTO_TCP, Socket{State: tcpListen, WriteQ: 128}), "", ""},
	"UDP":                  {inet(unix.IPPROTO_UDP, Socket{Type: unix.SOCK_DGRAM, ReadQ: 10}), "", ""},
	"corked UDP":           {inet(unix.IPPROTO_UDP, Socket{Type: unix.SOCK_DGRAM, Corked: true}), "udp-corked", "UDP socket"},
	"ping":                 {inet(unix.IPPROTO_ICMP, Socket{Type: unix.SOCK_DGRAM}), "", ""},
	"packet":               {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_PACKET}) }, "", ""},
	"vsock":                {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_VSOCK}) }, "socket-family", "vsock socket 55"},
	"unknown family":       {func(c *Container) { hasSocket(c, Socket{Family: 77}) }, "socket-family", "family 77"},
	"netlink":              {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_NETLINK, Groups: 1, Port: 3}) }, "", ""},
	"netlink, unread":      {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_NETLINK, ReadQ: 1}) }, "netlink-waiting", ""},
	"netlink, wide groups": {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_NETLINK, WideGroups: true}) }, "netlink-groups", ""},
	"netlink without port": {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_NETLINK, Groups: 1}) }, "netlink-groups", ""},
	"unix, peer outside":   {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_UNIX, Peer: 77, State: tcpEstablished}) }, "unix-outside", "unix socket 55"},
	"unix, unaccepted outside": {func(c *Container) {
		hasSocket(c, Socket{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, State: tcpEstablished})
	}, "unix-outside", "unix socket 55"},
	"unix, other end closed": {func(c *Container) {
		hasSocket(c, Socket{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, State: tcpEstablished, Shut: true})
	}, "", ""},
	"unix, not connected":   {func(c *Container) { hasSocket(c, Socket{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, State: 7}) }, "", ""},
	"unix, peer inside":     {unixPair, "", ""},
	"unix, peer unaccepted": {unixBacklog(0, 56), "", ""},
	"unix, early data":      {unixBacklog(3, 56), "unix-waiting", "unix socket 55"},
	"unix, closed early":    {unixBacklog(0, 0), "unix-waiting", ""},
	"io_uring":              {descriptor(Descriptor{Link: "anon_inode:[io_uring]"}), "io-uring", "process 100 (init), pid 1 in the container, descriptor 9"},
	"io_uring mapped":       {mapping("anon_inode:[io_uring]"), "io-uring", ""},
	"userfaultfd":           {descriptor(Descriptor{Link: "anon_inode:[userfaultfd]"}), "kernel-object", "[userfaultfd]"},
	"KVM":                   {descriptor(Descriptor{Link: "anon_inode:kvm-vm"}), "kernel-object", "kvm"},
	"seccomp listener":      {descriptor(Descriptor{Link: "anon_inode:seccomp notify"}), "kernel-object", ""},
	"BPF program":           {descriptor(Descriptor{Link: "anon_inode:bpf-prog"}), "kernel-object", ""},
	"BPF hash":              {descriptor(Descriptor{Link: "anon_inode:bpf-map", BPFType: 1}), "", ""},
	"BPF ring":              {descriptor(Descriptor{Link: "anon_inode:bpf-map", BPFType: 27}), "bpf-map", ""},
	"eventfd":               {descriptor(Descriptor{Link: "anon_inode:[eventfd]"}), "", ""},
	"pidfd inside":          {descriptor(Descriptor{Link: "anon_inode:[pidfd]", Target: 100}), "", ""},
	"pidfd of an ended one": {descriptor(Descriptor{Link: "anon_inode:[pidfd]", Target: -1}), "", ""},
	"pidfd outside":         {descriptor(Descriptor{Link: "pidfd:[88]", Target: 5}), "pidfd-outside", ""},
	"pidfd of a thread":     {descriptor(Descriptor{Link: "anon_inode:[pidfd]", Target: 100, Flags: unix.O_EXCL}), "pidfd-thread", ""},
	"inotify on overlay":    {descriptor(Descriptor{Link: "anon_inode:inotify", Watches: []Watch{{Dev{0, 40}}}}), "fsnotify", ""},
	"inotify on proc":       {descriptor(Descriptor{Link: "anon_inode:inotify", Watches: []Watch{{Dev{0, 41}}}}), "fsnotify", ""},
	"inotify on tmpfs":      {descriptor(Descriptor{Link: "anon_inode:inotify", Watches: []Watch{{Dev{0, 42}}}}), "", ""},
	"fanotify on a bind":    {descriptor(Descriptor{Link: "anon_inode:[fanotify]", Watches: []Watch{{Dev{8, 1}}}}), "", ""},
	"GPU":                   {descriptor(Descriptor{Link: "/dev/nvidia0", Mount: 4, Mode: unix.S_IFCHR, Dev: Dev{195, 0}}), "device", "/dev/nvidia0"},
	"fuse":                  {descriptor(Descriptor{Link: "/dev/fuse", Mount: 4, Mode: unix.S_IFCHR, Dev: Dev{10, 229}}), "device", ""},
	"tun":                   {descriptor(Descriptor{Link: "/dev/net/tun", Mount: 4, Mode: unix.S_IFCHR, Dev: Dev{10, 200}}), "", ""},
	"block device":          {descriptor(Descriptor{Link: "/dev/sda", Mount: 4, Mode: unix.S_IFBLK, Dev: Dev{8, 0}}), "device", ""},
	"device mapped":         {mapping("/dev/nvidiactl"), "device", "/dev/nvidiactl"},
	"terminal outside":      {descriptor(Descriptor{Link: "/dev/pts/3", Mount: 99, Mode: unix.S_IFCHR, Dev: Dev{136, 3}}), "terminal-outside", ""},
	"host file as output":   {descriptor(Descriptor{Link: "/var/log/out", Mount: 99, Mode: unix.S_IFREG, Links: 1}), "file-outside", "/var/log/out"},
	"null of the host":      {descriptor(Descriptor{Link: "/dev/null", Mount: 99, Mode: unix.S_IFCHR, Dev: Dev{1, 3}}), "file-outside", ""},
	"memfd":                 {descriptor(Descriptor{Link: "/memfd:x (deleted)", Mount: 99, Mode: unix.S_IFREG}), "", ""},
	"secret memory":         {descriptor(Descriptor{Link: "/secretmem (deleted)", Mount: 99, Mode: unix.S_IFREG}), "secret-memory", ""},
	"secret memory mapped":  {mapping("/secretmem (deleted)"), "secret-memory", ""},
	"ghost, small":          {descriptor(Descriptor{Link: "/data/x (deleted)", Mount: 1, Mode: unix.S_IFREG, Blocks: 2048}), "", ""},
	"ghost, large":          {descriptor(Descriptor{Link: "/data/x (deleted)", Mount: 1, Mode: unix.S_IFREG, Blocks: 2049}), "file-deleted-large", "/data/x"},
	"large with a name":     {descriptor(Descriptor{Link: "/data/x", Mount: 1, Mode: unix.S_IFREG, Blocks: 1 << 20, Links: 1}), "", ""},
	"hidden": {func(c *Container) {
		c.Mounts[3].Hidden = true
		has(c, Descriptor{Link: "/srv/x", Mount: 3, Mode: unix.S_IFREG, Links: 1})
	}, "file-hidden", "/srv/x"},
	"directory of a process": {descriptor(Descriptor{Link: "/proc/9", Mount: 2, Mode: unix.S_IFDIR, Links: 9}), "file-proc", ""},
	"file of a process":      {descriptor(Descriptor{Link: "/proc/9/stat", Mount: 2, Mode: unix.S_IFREG, Links: 1}), "", ""},
	"pipe in packets":        {descriptor(Descriptor{Link: "pipe:[8]", Flags: unix.O_RDWR | unix.O_DIRECT}), "pipe-packet", ""},
	"pipe to outside":        {descriptor(Descriptor{Link: "pipe:[8]", Flags: unix.O_WRONLY}), "pipe-outside", "pipe:[8]"},
	"pipe nobody has":        {descriptor(Descriptor{Link: "pipe:[8]", Flags: unix.O_WRONLY, Hangup: true}), "", ""},
	"pipe within": {func(c *Container) {
		has(c, Descriptor{Link: "pipe:[8]", Flags: unix.O_WRONLY})
		child(c).FDs = []Descriptor{{Link: "pipe:[8]", Flags: unix.O_RDONLY}}
	}, "", ""},
	"write lease": {func(c *Container) {
		has(c, Descriptor{Link: "/data/x", Mount: 1, Inode: 77, Links: 1})
		c.Leases = map[int][]uint64{100: {77}}
	}, "lease", "descriptor 9, /data/x"},
	"lock of a mapped file": {func(c *Container) { c.Procs[0].Locked = []string{"/data/x-shm"} }, "lock-mapped", "/data/x-shm"},
	"another's lease":       {func(c *Container) { c.Leases = map[int][]uint64{5: {77}} }, "", ""},
	"probes":                {mapping("[uprobes]"), "uprobe", ""},
	"strange mapping":       {mapping("anon_inode:[perf_event]"), "mapping", ""},
	"child":                 {func(c *Container) { child(c) }, "", ""},
	"exec session":          {func(c *Container) { child(c).PPid = 77 }, "exec-session", "process 101 (worker)"},
	"traced":                {func(c *Container) { child(c).Tracer = 100 }, "traced", ""},
	"vfork":                 {func(c *Container) { child(c).Shares = 100 }, "vfork", "process 101"},
	"uninterruptible":       {func(c *Container) { child(c).State = 'D' }, "uninterruptible", ""},
	"stopped, cgroup v1":    {func(c *Container) { child(c).State = 'T'; c.Cgroup = 1 }, "stopped", ""},
	"stopped, cgroup v2":    {func(c *Container) { child(c).State = 'T' }, "", ""},
	"zombie":                {func(c *Container) { child(c).State = 'Z' }, "", ""},
	"zombie leader":         {func(c *Container) { child(c).State = 'Z'; child(c); c.Procs[1].Threads = 3 }, "zombie-threads", ""},
	"nested pid":            {func(c *Container) { child(c).Namespaces["pid"] = 5 }, "nested-namespace", ""},
	"nested user":           {func(c *Container) { child(c).Namespaces["user"] = 5 }, "nested-namespace", ""},
	"ended meanwhile":       {func(c *Container) { child(c).Namespaces = map[string]uint64{"pid": 1000} }, "", ""},
	"nested mount":          {func(c *Container) { child(c).Namespaces["mnt"] = 5 }, "", ""},
	"joined pid":            {func(c *Container) { c.Spec.Joined["pid"] = "/proc/5/ns/pid" }, "shared-namespace", "/proc/5/ns/pid"},
	"host's ipc":            {func(c *Container) { c.Spec.Own = []string{"pid", "mount", "uts"} }, "shared-namespace", ""},
	"user namespace":        {func(c *Container) { c.Spec.UserMapping = true }, "user-namespace", ""},
	"notifying filter":      {func(c *Container) { c.Spec.Notify = true }, "seccomp-notify", ""},
	"fuse mounted":          {func(c *Container) { c.Mounts[9] = &Mount{ID: 9, Point: "/mnt", Type: "fuse.sshfs"} }, "mount-type", "/mnt"},
	"below a bind":          {func(c *Container) { c.Mounts[9] = &Mount{ID: 9, Point: "/srv/nfs", Type: "nfs4"} }, "", ""},
	"much memory":           {func(c *Container) { c.Memory, c.LazyLimit = 2<<30, 1<<30 }, "open-files", ""},
	"other users":           {func(c *Container) { c.Resource = false; child(c).UID = 999 }, "cap-sys-resource", "process 101"},
	"own user":              {func(c *Container) { c.Resource = false; child(c) }, "", ""},
}

func unixPair(c *Container) {
	hasSocket(c, Socket{Family: unix.AF_UNIX, Peer: 56, State: tcpEstablished})
	c.Sockets[56] = &Socket{Inode: 56, Family: unix.AF_UNIX, Peer: 55, State: tcpEstablished}
	child(c).FDs = []Descriptor{{FD: 3, Link: "socket:[56]"}}
}

// unixBacklog has a connection of the container to itself that was not accepted: socket 55, with so much sent on it. waiting is what the
// listening socket says of who waits.
func unixBacklog(sent uint32, waiting uint64) func(*Container) {
	if waiting != 0 {
		waiting = 55
	}
	return func(c *Container) {
		if waiting != 0 {
			hasSocket(c, Socket{Family: unix.AF_UNIX, State: tcpEstablished, WriteQ: sent})
		}
		c.Sockets[57] = &Socket{Inode: 57, Family: unix.AF_UNIX, State: tcpListen, Waiting: []uint64{waiting}}
		child(c).FDs = []Descriptor{{FD: 3, Link: "socket:[57]"}}
	}
}

func TestJudge(t *testing.T) {
	for name, s := range situations {
		t.Run(name, func(t *testing.T) {
			c := plain()
			s.set(c)
			fs := Judge(c)
			if s.code == "" {
				if len(fs) > 0 {
					t.Fatalf("found %s", fs[0].Text())
				}
				return
			}
			if len(fs) != 1 || fs[0].Code != s.code {
				t.Fatalf("want one %s, found %v", s.code, fs)
			}
			text := fs[0].Text()
			for _, want := range []string{s.thing, fs[0].Reason, fs[0].Remedy, StillRunning} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
		})
	}
}

// A thousand of a kind are told once, with how many more there are.
func TestManyOfAKind(t *testing.T) {
	c := plain()
	for i := range 1000 {
		p := child(c)
		p.Pid, p.FDs = 200+i, []Descriptor{{FD: 3, Link: "anon_inode:[io_uring]"}}
	}
	fs := Judge(c)
	if len(fs) != maxListed || fs[maxListed-1].More != 1000-maxListed {
		t.Errorf("%d findings, the last one says %d more", len(fs), fs[len(fs)-1].More)
	}
}

func TestWorstFirst(t *testing.T) {
	c := plain()
	has(c, Descriptor{Link: "pipe:[8]", Flags: unix.O_WRONLY})
	has(c, Descriptor{Link: "anon_inode:[io_uring]"})
	fs := Judge(c)
	if len(fs) != 2 || fs[0].Severity != Blocks || fs[1].Severity != Degrades {
		t.Fatalf("found %v", fs)
	}
	if n := len(Blocking(fs, nil)); n != 1 {
		t.Errorf("%d block, want 1", n)
	}
	if n := len(Blocking(fs, []string{"io-uring"})); n != 0 {
		t.Errorf("%d block although the code is to be ignored", n)
	}
}

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		switch {
		case seen[k.Code]:
			t.Errorf("%s is there twice", k.Code)
		case !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(k.Code):
			t.Errorf("%q is no code", k.Code)
		case !slices.Contains(severities, k.Severity) || k.Reason == "" || k.Remedy == "":
			t.Errorf("%s is not complete", k.Code)
		}
		seen[k.Code] = true
	}
}

// docs/CHECKS.md lists every code.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "CHECKS.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		if row := fmt.Sprintf("| `%s` | %s |", k.Code, k.Severity); !strings.Contains(string(doc), row) {
			t.Errorf("docs/CHECKS.md has no row %q", row)
		}
	}
}

// What CRIU 4.2 says, as it says it.
func TestExplain(t *testing.T) {
	for line, code := range map[string]string{
		"inet: Unsupported proto 262 for socket 10d65ad":                       "socket-mptcp",
		"inet: Unsupported proto 132 for socket 64cc":                          "socket-protocol",
		"sockets: BUG! Unknown socket collected (family 40)":                   "socket-family",
		"netlink: The socket has data to read":                                 "netlink-waiting",
		"inet: In-flight connection (l) for 10dd77b":                           "tcp-waiting",
		"inet: Can't dump corked dgram socket 10df262":                         "udp-corked",
		"unix: Non-empty write queue on an in-flight socket 0x10e1421":         "unix-waiting",
		"unix: External socket is used. Consider using --ext-unix-sk option.":  "unix-outside",
		"unix: Unix socket 1234 without peer 99":                               "unix-outside",
		"Can't retrieve FDs from socket":                                       "io-uring",
		"Unknown shit 600 (anon_inode:[io_uring])":                             "io-uring",
		"Can't dump file 3 of that type [600] (anon anon_inode:[userfaultfd])": "kernel-object",
		"Can't dump file 3 of that type [20666] (chr 195:0)":                   "device",
		"pidfd: PIDFD_THREAD flag is currently not supported":                  "pidfd-thread",
		"Can't lookup mount=15 for fd=3 path=/secretmem (deleted)":             "secret-memory",
		"Can't lookup mount=348 for fd=1 path=/var/log/x":                      "file-outside",
		"fsnotify: 	Can't dump that handle":                                    "fsnotify",
		"The packetized mode for pipes is not supported yet":                   "pipe-packet",
		"Can't dump ghost file /data/ghost of 300000256 size, increase limit":  "file-deleted-large",
		"mnt: Can't mount at ./etc/resolv.conf: No such file or directory":     "mount-missing",
		"File data/x has bad size 252 (expect 253)":                            "file-changed",
		"inet: Can't bind inet socket (id 5): Cannot assign requested address": "tcp-address",
		"inet: Connected TCP socket, consider using --tcp-established option.": "tcp-lost",
		"Can't get rlimit 0: Operation not permitted":                          "cap-sys-resource",
		"Can't get 1:16 opt: Operation not supported":                          "criu-old",
		"Can't dump nested pid namespace for 77":                               "nested-namespace",
		"can't write lsm profile -2":                                           "security-profile",
		"Can't open file proc/9/ on restore: No such file or directory":        "file-proc",
		"write: No space left on device":                                       "memory",
		"A session leader of 77(12) is outside of its pid namespace":           "exec-session",
		"Unseizable non-zombie 77 found, state S, err -1/1":                    "traced",
		"Unseizable non-zombie 77 found, state D, err -1/4":                    "uninterruptible",
		"Can't make VM id for 77":                                              "vfork",
		"page-pipe: Can't make pipe for page-pipe: Too many open files":        "open-files",
		"something nobody has heard of":                                        "",
	} {
		k, ok := Explain(line)
		if ok != (code != "") || k.Code != code {
			t.Errorf("%q: %q, want %q", line, k.Code, code)
		}
	}
}

func host() *Host {
	return &Host{Kernel: "6.18.0", Arch: "amd64", CRIU: "4.2.1", Runc: "1.3.6", Capable: true, Root: true, Cgroup: 2, Tracking: true,
		Controllers: []string{"memory", "cpu"}, CPU: []string{"avx2", "sse2"}}
}

func codes(fs []Finding) (all []string) {
	for _, f := range fs {
		all = append(all, f.Code)
	}
	slices.Sort(all)
	return all
}

func TestJudgeHost(t *testing.T) {
	for name, s := range map[string]struct {
		set  func(*Host)
		want string
	}{
		"fine":                    {func(*Host) {}, ""},
		"no CRIU":                 {func(h *Host) { h.CRIU = "" }, "criu-missing"},
		"no runc":                 {func(h *Host) { h.Runc = "" }, "runc-missing"},
		"old runc":                {func(h *Host) { h.Runc = "1.0.3" }, "runc-old"},
		"very old CRIU":           {func(h *Host) { h.CRIU, h.Kernel = "3.15", "5.10.0" }, "criu-old"},
		"old CRIU, old kernel":    {func(h *Host) { h.CRIU, h.Kernel = "3.17.1", "6.1.0-13-amd64" }, ""},
		"old CRIU, new kernel":    {func(h *Host) { h.CRIU, h.Kernel = "4.1", "6.16.3" }, "criu-old"},
		"new CRIU, new kernel":    {func(h *Host) { h.Kernel = "7.0" }, ""},
		"not root":                {func(h *Host) { h.Root = false }, "not-root"},
		"without the capability":  {func(h *Host) { h.Capable = false }, "cap-sys-resource"},
		"without write tracking":  {func(h *Host) { h.Tracking = false }, "write-tracking"},
		"criu check is not happy": {func(h *Host) { h.CRIUCheck = "x" }, "criu-check"},
	} {
		t.Run(name, func(t *testing.T) {
			h := host()
			s.set(h)
			if got := strings.Join(codes(JudgeHost(h, Source)), " "); got != s.want {
				t.Errorf("found %q, want %q", got, s.want)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	for name, s := range map[string]struct {
		set    func(src, dst *Host)
		limits []string
		want   string
	}{
		"alike":              {func(_, _ *Host) {}, []string{"memory"}, ""},
		"more at the source": {func(src, _ *Host) { src.CPU = append(src.CPU, "avx512f") }, nil, "cpu-features"},
		"more there":         {func(_, dst *Host) { dst.CPU = append(dst.CPU, "avx512f") }, nil, ""},
		"architecture":       {func(_, dst *Host) { dst.Arch, dst.CPU = "arm64", nil }, nil, "arch"},
		"older kernel":       {func(_, dst *Host) { dst.Kernel = "6.12.0" }, nil, "kernel-older"},
		"older tools":        {func(_, dst *Host) { dst.CRIU, dst.Runc = "4.1", "1.2" }, nil, "tool-older tool-older"},
		"cgroup version":     {func(_, dst *Host) { dst.Cgroup = 1 }, nil, "cgroup-version"},
		"controller":         {func(_, _ *Host) {}, []string{"memory", "pids"}, "cgroup-controller"},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := host(), host()
			s.set(src, dst)
			if got := strings.Join(codes(Compare(src, dst, s.limits, "")), " "); got != s.want {
				t.Errorf("found %q, want %q", got, s.want)
			}
		})
	}
	src, dst := host(), host()
	if got := codes(Compare(src, dst, nil, "/sys/fs/cgroup")); len(got) > 0 {
		t.Errorf("found %q of a container with control groups mounted, on hosts that are alike", got)
	}
	dst.Cgroup = 1
	if got := codes(Compare(src, dst, nil, "/sys/fs/cgroup")); !slices.Contains(got, "cgroup-mount") {
		t.Errorf("found %q of a container with control groups mounted, want cgroup-mount", got)
	}
}

// TestAddressesThatStayBehind: with another network at the destination what is bound to an address cannot come along.
func TestAddressesThatStayBehind(t *testing.T) {
	old, kept := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.1.0.2")
	for _, test := range []struct {
		what  string
		s     Socket
		close bool
		want  string
	}{
		{"listening everywhere", Socket{Type: unix.SOCK_STREAM, State: tcpListen, Local: netip.IPv4Unspecified()}, false, ""},
		{"listening there", Socket{Type: unix.SOCK_STREAM, State: tcpListen, Local: old}, true, "address-bound"},
		{"listening elsewhere", Socket{Type: unix.SOCK_STREAM, State: tcpListen, Local: kept}, false, ""},
		{"connected", Socket{Type: unix.SOCK_STREAM, State: tcpEstablished, Local: old}, false, "tcp-network"},
		{"connected, to be closed", Socket{Type: unix.SOCK_STREAM, State: tcpEstablished, Local: old}, true, ""},
		{"bound, not connected", Socket{Type: unix.SOCK_STREAM, State: tcpClosed, Local: old}, true, "address-bound"},
		{"UDP", Socket{Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP, Local: old}, true, "address-bound"},
		{"UDP everywhere", Socket{Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP, Local: netip.IPv6Unspecified()}, false, ""},
		{"loopback", Socket{Type: unix.SOCK_STREAM, State: tcpEstablished, Local: netip.MustParseAddr("127.0.0.1")}, false, ""},
		{"of the link", Socket{Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP, Local: netip.MustParseAddr("fe80::1")}, false, "address-bound"},
	} {
		c := plain()
		c.Leaving, c.CloseTCP = []netip.Addr{old}, test.close
		test.s.Family = unix.AF_INET
		hasSocket(c, test.s)
		var got string
		if fs := Judge(c); len(fs) > 0 {
			got = fs[0].Code
		}
		if got != test.want {
			t.Errorf("%s: found %q, want %q", test.what, got, test.want)
		}
		if c.Leaving = nil; len(Judge(c)) > 0 {
			t.Errorf("%s: found %v where no address stays behind", test.what, Judge(c))
		}
	}
}
