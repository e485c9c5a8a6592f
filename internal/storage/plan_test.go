package storage

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// contained is a process in a mount namespace of its own, with a tmpfs at dir/tmp that holds a mount of its own, and dir/src bound at
// dir/dst.
func contained(t *testing.T) (pid int, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mount namespaces need root")
	}
	dir = t.TempDir()
	for _, d := range []string{"tmp", "src", "dst"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "src/f"), "bound")
	cmd := exec.Command("sh", "-ec", `cd "$1"
		mount -t tmpfs -o size=1m,mode=1777 tmpfs tmp
		mkdir tmp/below tmp/sub; echo inside >tmp/file; mount -t tmpfs -o ro tmpfs tmp/below
		mount --bind src dst
		echo ready; exec cat`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	b := make([]byte, 6)
	if _, err := out.Read(b); err != nil || string(b) != "ready\n" {
		t.Fatalf("the process says %q: %v", b, err)
	}
	return cmd.Process.Pid, dir
}

func TestViewShowsOneMount(t *testing.T) {
	pid, dir := contained(t)
	_, st, err := typeOf(rootOf(pid) + filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := View(pid, filepath.Join(dir, "src"), st.Dev); err == nil {
		t.Error("another file system was taken for it")
	}
	v, err := View(pid, filepath.Join(dir, "tmp"), st.Dev)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if b, err := os.ReadFile(PathOf(v) + "/file"); err != nil || string(b) != "inside\n" {
		t.Errorf("file in it: %q, %v", b, err)
	}
	var root, below unix.Stat_t
	if err := unix.Stat(PathOf(v), &root); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(PathOf(v)+"/below", &below); err != nil || root.Dev != below.Dev {
		t.Errorf("what is mounted below shows: %v, devices %d and %d", err, root.Dev, below.Dev)
	}
	if _, err := View(pid, filepath.Join(dir, "none"), st.Dev); err == nil {
		t.Error("a path that is not there was opened")
	}
}

func specOf(t *testing.T, mounts ...specs.Mount) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(specs.Spec{Mounts: mounts, Linux: &specs.Linux{MaskedPaths: []string{"/proc/kcore", "/sys/firmware"}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPlanOfAProcess(t *testing.T) {
	pid, dir := contained(t)
	dst, src := filepath.Join(dir, "dst"), filepath.Join(dir, "src")
	spec := specOf(t, specs.Mount{Type: "bind", Source: src, Destination: dst, Options: []string{"rbind"}})
	p, err := Make(Request{Pid: pid, Spec: spec, Copies: []string{src}, Binds: map[string]string{src: "/there"}})
	if err != nil {
		t.Fatal(err)
	}
	b := p.Trees[0]
	if b.How != Copied || b.Type != Dir || b.Path != "/there" || b.Source != src || b.Root == "" || b.Root == "/" {
		t.Errorf("the bind is %+v", b)
	}
	if !strings.Contains(string(p.Spec), `"source":"/there"`) {
		t.Errorf("the specification is %s", p.Spec)
	}
	found := false
	for _, tr := range p.Trees[1:] {
		if tr.Mount == filepath.Join(dir, "tmp") {
			found = true
			if !hasOption(strings.Join(tr.Tmpfs.Options, ","), "size=1024k") || tr.Tmpfs.ReadOnly || len(tr.Tmpfs.Places) != 1 {
				t.Errorf("the tmpfs is %+v", tr.Tmpfs)
			}
		}
		if err := tr.Check(); err != nil {
			t.Error(err)
		}
	}
	if !found {
		t.Errorf("no tmpfs among %+v", p.Trees)
	}
	if below, err := Below(pid, []Tree{{Real: dst}}, filepath.Join(dir, "tmp")); err != nil || len(below) != 1 || below[0] != filepath.Join(dir, "tmp/below") {
		t.Errorf("below the tmpfs are %v, %v", below, err)
	}
	// through a link, as images have it from /var/run to /run
	if err := os.Symlink("dst", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	linked := specOf(t, specs.Mount{Type: "bind", Source: src, Destination: filepath.Join(dir, "link")})
	if p, err := Make(Request{Pid: pid, Spec: linked}); err != nil || p.Trees[0].Real != dst || p.Trees[0].Mount != filepath.Join(dir, "link") || p.Trees[0].Root != b.Root {
		t.Errorf("through a link: %+v, %v", p, err)
	}
	// unlike the process, nobody else has it
	if users := OtherUsers(pid, b.Mounted, b.Root); len(users) != 0 {
		t.Errorf("others are said to use it: %v", users)
	}
	p, err = Make(Request{Pid: pid, Spec: spec, Copies: []string{"/else"}, Binds: map[string]string{"/what": "/ever"}})
	if err != nil || strings.Join(p.Unused, " ") != "/else /what" {
		t.Errorf("unused are %v, %v", p.Unused, err)
	}
	if p, err = Make(Request{Pid: os.Getpid(), Spec: specOf(t)}); err != nil || len(p.Trees) != 0 {
		t.Errorf("of the host's own mounts are planned: %v, %v", p, err)
	}
}

func TestHowBindsTravel(t *testing.T) {
	const volume = "/var/lib/nerdctl/1935db59/volumes/default/db/_data"
	labels := map[string]string{mountsLabel: `[{"Type":"volume","Name":"noted","Source":"/data/vol"},{"Type":"bind","Source":"/data/bind"}]`}
	for name, c := range map[string]struct {
		mount, source string
		keep          bool
		binds         map[string]string
		copies        []string
		how           How
		named, path   string
	}{
		"plain":                 {mount: "/usr", source: "/srv", how: Present, path: "/srv"},
		"remapped":              {mount: "/usr", source: "/srv", binds: map[string]string{"/srv": "/x"}, how: Present, path: "/x"},
		"copied":                {mount: "/usr", source: "/srv", copies: []string{"/srv"}, how: Copied, path: "/srv"},
		"volume by path":        {mount: "/usr", source: volume, how: Copied, named: "db", path: volume},
		"volume by label":       {mount: "/usr", source: "/data/vol", how: Copied, named: "noted", path: "/data/vol"},
		"volume to be used":     {mount: "/usr", source: volume, binds: map[string]string{volume: volume}, how: Present, named: "db", path: volume},
		"no volume by label":    {mount: "/usr", source: "/data/bind", how: Present, path: "/data/bind"},
		"the host's hosts":      {mount: "/etc/hosts", source: "/etc/hosts", how: Present, path: "/etc/hosts"},
		"an engine's hosts":     {mount: "/etc/hosts", source: "/e/hosts", how: Carried, path: "/e/hosts"},
		"an engine's resolvers": {mount: "/etc/resolv.conf", source: "/e/r", how: Remade, path: "/e/r"},
		"resolvers kept":        {mount: "/etc/resolv.conf", source: "/etc/resolv.conf", keep: true, how: Carried, path: "/etc/resolv.conf"},
		"hosts of the user":     {mount: "/etc/hosts", source: "/e/hosts", copies: []string{"/e/hosts"}, how: Copied, path: "/e/hosts"},
	} {
		m := specs.Mount{Type: "bind", Source: c.source, Destination: c.mount}
		tr, err := Request{Pid: os.Getpid(), Labels: labels, Binds: c.binds, Copies: c.copies, KeepDNS: c.keep}.bind(&m, nil)
		if err != nil && os.IsNotExist(err) {
			t.Skipf("SKIPPED: this machine has no %s", c.mount)
		}
		if err != nil || tr.How != c.how || tr.Name != c.named || tr.Path != c.path {
			t.Errorf("%s: %s %q at %s, %v", name, tr.How, tr.Name, tr.Path, err)
		}
	}
	m := specs.Mount{Type: "bind", Source: "/dev/null", Destination: "/dev/null"}
	if _, err := (Request{Pid: os.Getpid(), Copies: []string{"/dev/null"}}).bind(&m, nil); err == nil {
		t.Error("a device was copied")
	}
	for path, want := range map[string]bool{volume: true, strings.Replace(volume, "default", "other", 1): false, volume + "/x": false, "/srv": false} {
		if IsVolumePath(path, "default") != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

// What a container of containerd has mounted, as the kernel says.
const containerMounts = `100 50 0:60 / / rw - overlay overlay rw,upperdir=/u
101 100 0:62 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
102 101 0:64 / /dev/shm rw - tmpfs shm rw,size=65536k,inode64
103 100 0:65 / /run rw - tmpfs tmpfs ro,mode=755
104 100 0:62 /null /proc/kcore rw - tmpfs tmpfs rw,size=65536k,mode=755,inode64
105 100 0:66 / /sys/firmware ro - tmpfs tmpfs ro,inode64
106 100 0:66 / /proc/acpi ro - tmpfs tmpfs ro,inode64
107 100 0:30 /app /secret rw - tmpfs tmpfs rw,size=100k
108 100 0:31 / /with\040blank rw - tmpfs tmpfs rw,size=100k
109 100 0:32 /part /partial rw - tmpfs tmpfs rw
111 100 0:34 / /over rw - tmpfs tmpfs rw
112 100 0:35 / /twice rw - tmpfs tmpfs rw
113 112 0:36 / /twice rw - tmpfs tmpfs rw,size=5k
110 100 0:33 / /big rw - tmpfs tmpfs rw,huge=always,mpol=bind:0,size=1g,nr_inodes=10k,uid=5
`

func TestMemoryFileSystems(t *testing.T) {
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(containerMounts), nil)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(specOf(t, specs.Mount{Type: "bind", Source: "/run/app", Destination: "/secret"}), &s); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	bound := []Tree{{Real: "/secret"}}
	for _, tr := range tmpfs(mounts, bound, &s, func(path string) uint64 {
		at := mountedAt(mounts, path)
		if path == "/over" {
			at = mountedAt(mounts, "/") // something else lies over it
		}
		return devOf(at)
	}) { // what is mounted twice at one place cannot be told apart by it
		if err := tr.Check(); err != nil {
			t.Error(err)
		}
		text := strings.Join(tr.Tmpfs.Options, ",")
		if tr.Tmpfs.ReadOnly {
			text += " ro"
		}
		got[tr.Mount] = text + " " + strings.Join(tr.Tmpfs.DumpExternal(), " ")
	}
	for mount, want := range map[string]string{
		"/dev":          "size=65536k,mode=755,inode64 mnt[/dev]:migrate-0-0", // what hides kcore is not ours
		"/dev/shm":      "size=65536k,inode64 mnt[/dev/shm]:migrate-1-0",
		"/run":          "mode=755 ro mnt[/run]:migrate-2-0",
		"/sys/firmware": "inode64 ro mnt[/sys/firmware]:migrate-3-0 mnt[/proc/acpi]:migrate-3-1",
		"/big":          "huge=always,size=1g,nr_inodes=10k,uid=5 mnt[/big]:migrate-4-0",
	} {
		if got[mount] != want {
			t.Errorf("%s: %q, want %q", mount, got[mount], want)
		}
		delete(got, mount)
	}
	if len(got) != 0 {
		t.Errorf("planned, too: %v", got)
	}
	x := (&Tmpfs{Places: []At{{Mount: "/a", Root: "/", Key: "k"}, {Mount: "/b", Root: "/sub", Key: "l"}}}).RestoreExternal("/stage/0")
	if strings.Join(x, " ") != "mnt[k]:/stage/0 mnt[l]:/stage/0/sub" {
		t.Errorf("restored from %v", x)
	}
}

func TestPeersVolumesAreChecked(t *testing.T) {
	good := Tmpfs{Options: []string{"size=1m"}, Places: []At{{Mount: "/a", Root: "/", Key: "k"}}}
	bad := func(change func(*Tmpfs)) *Tmpfs {
		c := Tmpfs{Options: good.Options, Places: []At{good.Places[0]}}
		change(&c)
		return &c
	}
	for name, v := range map[string]Volume{
		"no path":             {Mount: "/a", How: Present},
		"relative":            {Mount: "/a", How: Present, Path: "srv"},
		"not clean":           {Mount: "/a/../b", How: Present, Path: "/srv"},
		"unknown way":         {Mount: "/a", How: "teleported", Path: "/srv"},
		"shared by its word":  {Mount: "/a", How: Shared, Type: Dir, Path: "/srv"},
		"a device's content":  {Mount: "/a", How: Copied, Type: Device, Path: "/srv"},
		"file elsewhere":      {Mount: "/a", How: Copied, Type: File, Path: "/srv/f", File: "../f"},
		"file of no name":     {Mount: "/a", How: Carried, Type: File, Path: "/srv/f", File: ".."},
		"carried directory":   {Mount: "/a", How: Carried, Type: Dir, Path: "/srv"},
		"negative size":       {Mount: "/a", How: Copied, Type: Dir, Path: "/srv", Bytes: -1},
		"two kinds":           {Mount: "/a", How: Present, Path: "/srv", Tmpfs: &good},
		"tmpfs of nothing":    {Mount: "/a", How: Memory},
		"tmpfs nowhere":       {Mount: "/a", How: Memory, Tmpfs: &Tmpfs{}},
		"option with a comma": {Mount: "/a", How: Memory, Tmpfs: bad(func(c *Tmpfs) { c.Options = []string{"size=1m,uid=0"} })},
		"foreign option":      {Mount: "/a", How: Memory, Tmpfs: bad(func(c *Tmpfs) { c.Options = []string{"mpol=bind:0"} })},
		"root outside":        {Mount: "/a", How: Memory, Tmpfs: bad(func(c *Tmpfs) { c.Places[0].Root = "/../../etc" })},
		"line break":          {Mount: "/a", How: Memory, Tmpfs: bad(func(c *Tmpfs) { c.Places[0].Key = "k\naction-script /evil" })},
		"key with a bracket":  {Mount: "/a", How: Memory, Tmpfs: bad(func(c *Tmpfs) { c.Places[0].Key = "k]:/etc" })},
	} {
		if err := v.Check(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, v := range []Volume{
		{Mount: "/a", How: Memory, Tmpfs: &good}, {Mount: "/a", How: Present, Path: "/srv"}, {Mount: "/a", How: Copied, Type: File, Path: "/srv/f", File: "g"},
	} {
		if err := v.Check(); err != nil {
			t.Error(err)
		}
	}
}
