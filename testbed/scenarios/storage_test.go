package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/report"
	"migrate/layers/layertest"
	"migrate/testbed"
)

// sharedDir is one directory of the machine that all hosts see, as they would see a network file system.
const sharedDir = "/shared"

// bind is ctr's flag for a bind mount.
func bind(source, dest, mode string) []string {
	return []string{"--mount", fmt.Sprintf("type=bind,src=%s,dst=%s,options=rbind:%s", source, dest, mode)}
}

// mountedServer is the end of the script of containers that are there for what they mount.
const mountedServer = "\nexec workload server --listen= --memory-mib 1"

// mounted starts a container without a network whose first process prints numbers, after a script.
func mounted(t *testing.T, h *testbed.Host, id, script string, flags ...string) *subject {
	t.Helper()
	s := runContainer(t, h, testbed.ContainerSpec{
		ID: id, Image: "testbed/tools:latest", Flags: flags,
		Args: []string{"sh", "-euc", script + mountedServer},
	})
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, h, id)) > 1 })
	return s
}

// hostDir makes a directory on a host, and removes it from all hosts of its kind at the test's end.
func hostDir(t *testing.T, h *testbed.Host, path string) string {
	t.Helper()
	t.Cleanup(func() {
		for _, h := range beside(h) {
			_, _ = try(h, "rm", "-rf", path)
		}
	})
	if err := os.MkdirAll(h.Path(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeAt(t *testing.T, h *testbed.Host, path, text string) {
	t.Helper()
	if err := os.WriteFile(h.Path(path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readAt(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// how says what became of what the container has at a path.
func how(rep *report.Report, mount string) string {
	for _, s := range rep.Storage {
		if s.Mount == mount {
			return s.How
		}
	}
	return ""
}

// appending is a script that appends numbers to a file in the background, for assertAppending to check. It starts no programs: a shell that
// is frozen while it waits for a child to become one cannot be dumped.
func appending(path string) string {
	return fmt.Sprintf(`bash -c 'sleep infinity | while :; do echo $((++i)); read -r -t 0.01 || true; done >>%s' &`, path)
}

// assertAppending checks that the numbers go on at the destination without one that is missing.
func assertAppending(t *testing.T, file string) {
	t.Helper()
	count := func() int {
		n := 0
		for l := range strings.Lines(readAt(t, file)) {
			if !strings.HasSuffix(l, "\n") {
				break
			}
			if n++; l != fmt.Sprintf("%d\n", n) {
				t.Fatalf("line %d of %s is %q", n, file, l)
			}
		}
		return n
	}
	before := count()
	eventually(t, soon, "numbers are appended", func() bool { return count() > before })
}

// TestCopyBind moves a container with the content of a directory and of a file that it binds, and back.
func TestCopyBind(t *testing.T) {
	t.Parallel()
	const id = "copy-bind"
	dir := hostDir(t, hostA, "/srv/"+id)
	data, conf := dir+"/data", dir+"/conf"
	for _, d := range []string{"", "/still", "/other"} {
		if err := os.Mkdir(hostA.Path(data+d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := layertest.Populate(hostA.Path(data+"/still"), 300, 5); err != nil {
		t.Fatal(err)
	}
	writeAt(t, hostA, conf, "configured\n")
	writeAt(t, hostA, dir+"/beside", "not the container's\n")
	if err := unix.Chown(hostA.Path(data), 12, 34); err != nil {
		t.Fatal(err)
	}
	s := mounted(t, hostA, id, "exec 7<>/data/open 8</etc/app.conf; echo kept open >&7\n"+appending("/data/appended"),
		slices.Concat(bind(data, "/data", "rw"), bind(conf, "/etc/app.conf", "ro"))...)
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA, "--allow-mount", "/srv"), hostB: startAgent(t, hostB, "--allow-mount", "/srv")}
	want, err := layertest.Snapshot(hostA.Path(data + "/still"))
	if err != nil {
		t.Fatal(err)
	}
	move := func(from, to *testbed.Host) *migration {
		// what a host sent away is remembered where its agent looks for it
		return send(t, from, id, agents[to], "--json", "--copy-bind", data, "--copy-bind", conf, "--state-dir", agents[from].dir+"/state")
	}
	from := hostA
	for hop := range 3 {
		to := hostB
		if from == hostB {
			to = hostA
		}
		rep := move(from, to).moved(t)
		if how(rep, "/data") != "copied" || how(rep, "/etc/app.conf") != "copied" || rep.Volumes.Raw == 0 {
			t.Errorf("hop %d: the report says %+v", hop, rep.Storage)
		}
		s.assertMoved(t, from, to)
		assertAppending(t, to.Path(data+"/appended"))
		got, err := layertest.Snapshot(to.Path(data + "/still"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := layertest.Diff(want, got); len(diff) > 0 {
			t.Errorf("hop %d: %d differences:\n%s", hop, len(diff), strings.Join(diff[:min(len(diff), 10)], "\n"))
		}
		var st unix.Stat_t
		if err := unix.Stat(to.Path(data), &st); err != nil || st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o750 {
			t.Errorf("hop %d: the directory has owner %d:%d and mode %o, %v", hop, st.Uid, st.Gid, st.Mode, err)
		}
		for path, text := range map[string]string{"/data/open": "kept open\n", "/etc/app.conf": "configured\n"} {
			if got := readAt(t, rootOf(t, to, id)+path); got != text {
				t.Errorf("hop %d: %s is %q", hop, path, got)
			}
		}
		left, _ := filepath.Glob(to.Path(dir + "/.*"))
		if len(left) > 0 || hop == 0 && exists(to.Path(dir+"/beside")) {
			t.Errorf("hop %d: beside the volumes are %v", hop, left)
		}
		assertNothingUnderWay(t, to, agents[to].dir)
		if t.Failed() {
			t.FailNow()
		}
		from = to
	}
	// what was left at a has been changed since: it is not the container's to overwrite any more
	writeAt(t, hostA, data+"/other/note", "somebody else's\n")
	text := send(t, hostB, id, agents[hostA], "--copy-bind", data, "--copy-bind", conf).failed(t, 4, "something else is there", data, "--bind", "never stopped")
	if strings.Contains(text, "probe") {
		t.Errorf("the error tells of how it was found out:\n%s", text)
	}
	s.assertStayed(t, hostB, hostA)
	if got := readAt(t, hostA.Path(data+"/other/note")); got != "somebody else's\n" {
		t.Errorf("what was in the way is %q", got)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestBind moves containers whose bind mounts the destination has, does not have, or has otherwise.
func TestBind(t *testing.T) {
	t.Parallel()
	const id = "bind"
	dir := hostDir(t, hostA, "/srv/"+id)
	data := dir + "/data"
	hostDir(t, hostA, data)
	writeAt(t, hostA, data+"/where", "a\n")
	s := mounted(t, hostA, id, "cd /data", bind(data, "/data", "rw")...)
	to, strict := startAgent(t, hostB, "--allow-mount", "/srv"), startAgent(t, hostB)
	for _, c := range []struct {
		what  string
		at    *agent
		setUp string // at the destination
		flags []string
		code  int
		words []string
	}{
		{"missing", to, "", nil, 4, []string{data, "/data", "not there", "--copy-bind"}},
		{"of another kind", to, "touch " + data, nil, 4, []string{data, "directory at the source", "file here"}},
		{"not allowed", strict, "", nil, 4, []string{data, "--allow-mount"}},
		{"copy not allowed", strict, "", []string{"--copy-bind", data}, 4, []string{data, "--allow-mount"}},
		{"remapped to what is missing", to, "", []string{"--bind", data + ":/srv/bind/none"}, 4, []string{"/srv/bind/none", "not there"}},
		{"misspelt", to, "", []string{"--bind", "/srv/bond:/srv/x"}, 2, []string{"/srv/bond", "does not bind", data}},
		{"misspelt copy", to, "", []string{"--copy-bind", "/srv/bond"}, 2, []string{"/srv/bond", data}},
	} {
		t.Run(c.what, func(t *testing.T) {
			shell(t, hostB, `rm -rf /srv/bind; mkdir /srv/bind; `+c.setUp)
			text := send(t, hostA, id, c.at, c.flags...).failed(t, c.code, c.words...)
			if !strings.Contains(text, "never stopped") {
				t.Errorf("the container was stopped:\n%s", text)
			}
		})
	}
	s.assertStayed(t, hostA, hostB)
	t.Run("remapped", func(t *testing.T) {
		shell(t, hostB, `mkdir -p /srv/bind/elsewhere; echo b >/srv/bind/elsewhere/where`)
		rep := send(t, hostA, id, to, "--json", "--bind", data+":/srv/bind/elsewhere").moved(t)
		if how(rep, "/data") != "present" || rep.Volumes.Raw > 1<<20 {
			t.Errorf("the report says %+v", rep.Storage)
		}
		s.assertMoved(t, hostA, hostB)
		if got := readAt(t, rootOf(t, hostB, id)+"/data/where"); got != "b\n" {
			t.Errorf("the container sees the directory of %q", got)
		}
		if spec := run(t, hostB, "ctr", "containers", "info", "--spec", id); !strings.Contains(spec, "/srv/bind/elsewhere") {
			t.Errorf("the record does not name the path:\n%s", spec)
		}
		if got := readAt(t, hostA.Path(data+"/where")); got != "a\n" {
			t.Errorf("at the source is %q", got)
		}
	})
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestSharedStorage copies nothing that both hosts have.
func TestSharedStorage(t *testing.T) {
	t.Parallel()
	const id = "shared-storage"
	dir := hostDir(t, hostA, sharedDir+"/"+id)
	writeAt(t, hostA, dir+"/ballast", strings.Repeat("x", 1<<20))
	s := mounted(t, hostA, id, appending("/data/appended"), bind(dir, "/data", "rw")...)
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA, "--allow-mount", sharedDir), hostB: startAgent(t, hostB, "--allow-mount", sharedDir)}
	from := hostA
	for hop := range 2 {
		to := hostB
		if from == hostB {
			to = hostA
		}
		rep := send(t, from, id, agents[to], "--json", "--copy-bind", dir).moved(t)
		if how(rep, "/data") != "shared" || rep.Volumes.Raw > 1<<19 {
			t.Errorf("hop %d: %d bytes, %+v", hop, rep.Volumes.Raw, rep.Storage)
		}
		s.assertMoved(t, from, to)
		assertAppending(t, hostA.Path(dir+"/appended"))
		if left, _ := filepath.Glob(hostA.Path(dir + "/.*")); len(left) > 0 {
			t.Errorf("hop %d: left are %v", hop, left)
		}
		from = to
	}
}

// TestNamedVolume moves a volume of nerdctl's with its container, but not one that another container has.
func TestNamedVolume(t *testing.T) {
	t.Parallel()
	const id, other = "volume", "volume-other"
	root := "/var/lib/nerdctl/0a1b2c3d/volumes/default/" + id
	hostDir(t, hostA, root)
	volume := hostDir(t, hostA, root+"/_data")
	s := mounted(t, hostA, id, appending("/data/appended"), bind(volume, "/data", "rw")...)
	mounted(t, hostA, other, ":", bind(volume, "/mine", "ro")...)
	to := startAgent(t, hostB) // it allows no mounts: a volume that is new shows nothing of the host
	send(t, hostA, id, to).failed(t, 4, volume, "another container", "/mine", "--copy-bind", "never stopped")
	s.assertStayed(t, hostA, hostB)
	purgeAt(t, hostA, other)
	m := send(t, hostA, id, to, "--json")
	if rep := m.moved(t); how(rep, "/data") != "copied" || !slices.ContainsFunc(rep.Storage, func(s report.Storage) bool { return s.Name == id }) {
		t.Errorf("the report says %+v", rep.Storage)
	}
	s.assertMoved(t, hostA, hostB)
	assertAppending(t, hostB.Path(volume+"/appended"))
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestVolumeTakenBack has the restore fail, and the destination's agent die: nothing of a volume is left there, and what
// the container has is whole.
func TestVolumeTakenBack(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	for _, what := range []string{"restore", "agent"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			id := "taken-back-" + what
			dir := hostDir(t, r.a, "/srv/"+id)
			writeAt(t, r.a, dir+"/ballast", strings.Repeat("0123456789abcdef", 1<<18)) // 4 MiB
			s := r.mounted(t, id, appending("/data/appended"), binding{dir, "/data", "rw"}, binding{dir + "/ballast", "/file", "ro"})
			to := startAgent(t, r.b, "--allow-mount", "/srv")
			hostDir(t, r.b, "/srv/"+id+"-file")
			flags := []string{"--copy-bind", dir, "--copy-bind", dir + "/ballast", "--bind", dir + "/ballast:/srv/" + id + "-file/f"}
			if what == "restore" {
				hit := fault(t, r.b, id, atRestore, `exit 1`)
				send(t, r.a, id, to, flags...).failed(t, 8, "runs on at the source")
				if !hit() {
					t.Error("CRIU was not made to fail")
				}
			} else {
				m := send(t, r.a, id, to, append(flags, "--bandwidth", "1MiB", "--compress", "none")...)
				eventually(t, soon, "content arrives", func() bool { return exists(r.b.Path(dir + "/ballast")) })
				to.signal(t, syscall.SIGKILL)
				m.failed(t, 6, "runs on at the source")
				to.wait(t, soon)
				to.start(t)
			}
			s.assertStayed(t, r.a, r.b)
			assertAppending(t, r.a.Path(dir+"/appended"))
			if !within(soon, func() bool { return !exists(r.b.Path(dir)) }) {
				t.Errorf("%s is left at the destination", dir)
			}
			if left, _ := filepath.Glob(r.b.Path("/srv/" + id + "-file/*")); len(left) > 0 {
				t.Errorf("left are %v", left)
			}
			assertNothingUnderWay(t, r.b, to.dir)
		})
	}
}

// tmpfsMounts are the container's, as the kernel shows them, without numbers that differ.
func tmpfsMounts(t *testing.T, h *testbed.Host, id string) []string {
	t.Helper()
	var list []string
	for _, l := range lines(readAt(t, h.Path(fmt.Sprintf("/proc/%d/mountinfo", initPid(t, h, id))))) {
		f := strings.Fields(l)
		if i := slices.Index(f, "-"); i > 5 && f[i+1] == "tmpfs" && f[3] == "/" {
			list = append(list, strings.Join(append(f[3:6], f[i+1:]...), " "))
		}
	}
	slices.Sort(list)
	return list
}

// TestTmpfs moves content of memory file systems: files of all kinds, one that is written through memory, one that is open, one that is
// open and has no name any more.
func TestTmpfs(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"precopy", "stop"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			id := "tmpfs-" + mode
			script := `mkfifo /scratch/fifo; ln -s nowhere /scratch/link; mkdir -m 1731 /scratch/dir
head -c 20000000 /dev/urandom >/scratch/big; sha256sum /scratch/big >/scratch/dir/sum; truncate -s 100M /scratch/sparse
ln /scratch/big /scratch/name; chown 7:8 /scratch/big
exec 7<>/scratch/open; echo open >&7; exec 8<>/scratch/gone; echo gone >&8; rm /scratch/gone
echo in run >/run/file
workload mapfile --file /dev/shm/mapped-` + id + ` --mib 4 >/mapped 2>&1 &
` + appending("/scratch/appended")
			s := mounted(t, hostA, id, script, "--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=size=128m:mode=1755")
			from := hostA
			agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
			want := tmpfsMounts(t, hostA, id)
			for hop := range 2 {
				to := hostB
				if from == hostB {
					to = hostA
				}
				// the pid differs from that of the shell that made it; what it has open does not
				before, err := layertest.Snapshot(rootOf(t, from, id) + "/scratch/dir")
				if err != nil {
					t.Fatal(err)
				}
				rep := send(t, from, id, agents[to], "--json", "--mode", mode).moved(t)
				if how(rep, "/scratch") != "memory" || how(rep, "/dev/shm") != "memory" {
					t.Errorf("the report says %+v", rep.Storage)
				}
				s.assertMoved(t, from, to)
				root := rootOf(t, to, id)
				assertAppending(t, root+"/scratch/appended")
				after, err := layertest.Snapshot(root + "/scratch/dir")
				if err != nil || len(layertest.Diff(before, after)) > 0 {
					t.Errorf("hop %d: %v, %v", hop, layertest.Diff(before, after), err)
				}
				if got := tmpfsMounts(t, to, id); !slices.Equal(got, want) {
					t.Errorf("hop %d: memory file systems were\n%s\nand are\n%s", hop, strings.Join(want, "\n"), strings.Join(got, "\n"))
				}
				checkScratch(t, root, initPid(t, to, id), to)
				if got := readAt(t, root+"/mapped"); got != "" {
					t.Errorf("hop %d: the program that writes through memory says %s", hop, got)
				}
				if out, err := try(to, "pgrep", "-f", "mapfile.*mapped-"+id); err != nil {
					t.Errorf("hop %d: the program that writes through memory has ended: %v %s", hop, err, out)
				}
				assertNothingUnderWay(t, to, agents[to].dir)
				from = to
			}
			// it tells when it ends whether it ever read what it had not written
			run(t, from, "pkill", "-TERM", "-f", "mapfile.*mapped-"+id)
			result := rootOf(t, from, id) + "/mapped"
			if !within(soon, func() bool { return strings.Contains(readAt(t, result), `"bad":0`) }) {
				t.Errorf("the program that writes through memory says %s", readAt(t, result))
			}
		})
	}
}

// checkScratch looks at what the test's script made.
func checkScratch(t *testing.T, root string, pid int, h *testbed.Host) {
	t.Helper()
	for path, text := range map[string]string{"/scratch/open": "open\n", "/run/file": "in run\n"} {
		if got := readAt(t, root+path); got != text {
			t.Errorf("%s is %q", path, got)
		}
	}
	if got := readAt(t, h.Path(fmt.Sprintf("/proc/%d/fd/8", pid))); got != "gone\n" {
		t.Errorf("the file without a name is %q", got)
	}
	shell(t, h, `cd "/proc/$1/root/scratch" && sed 's# /scratch/# #' dir/sum | sha256sum -c --quiet && [ -p fifo ] && [ "$(readlink link)" = nowhere ] && [ big -ef name ] &&
		[ "$(stat -c %u:%g big)" = 7:8 ] && [ "$(stat -c %s:%b sparse)" = 104857600:0 ] && [ -c ../dev/null ] && echo x >../dev/null`, fmt.Sprint(pid))
}

// TestReadOnlyRoot moves a container that cannot write to its root file system.
func TestReadOnlyRoot(t *testing.T) {
	t.Parallel()
	const id = "read-only"
	s := mounted(t, hostA, id, "echo x >/run/x", "--read-only")
	to := startAgent(t, hostB)
	send(t, hostA, id, to, "--json").moved(t)
	s.assertMoved(t, hostA, hostB)
	assertOutputWhole(t, id, hostB)
	if out, err := try(hostB, "ctr", "tasks", "exec", "--exec-id", "r", id, "cat", "/run/x"); err != nil || strings.TrimSpace(out) != "x" {
		t.Errorf("what was written to /run is %q, %v", out, err)
	}
	if out, err := try(hostB, "ctr", "tasks", "exec", "--exec-id", "w", id, "sh", "-c", "echo x >/x"); err == nil || !strings.Contains(out, "ead-only") {
		t.Errorf("writing to the root file system says %q, %v", out, err)
	}
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestResolvConf: names and addresses go with the container, resolvers are its host's, unless they are to be kept.
func TestResolvConf(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		id := "resolv-remade"
		flags := []string{"--json"}
		if keep {
			id, flags = "resolv-kept", append(flags, "--keep-dns")
		}
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			dir := hostDir(t, hostA, "/run/scn-engine/"+id)
			files := map[string]string{"resolv.conf": "nameserver 192.0.2.1\n", "hosts": "127.0.0.1 localhost\n10.0.0.9 " + id + "\n", "hostname": id + "\n"}
			var mounts []string
			for name, text := range files {
				writeAt(t, hostA, dir+"/"+name, text)
				mounts = append(mounts, bind(dir+"/"+name, "/etc/"+name, "rw")...)
			}
			s := mounted(t, hostA, id, ":", mounts...)
			agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
			theirs := map[*testbed.Host]string{}
			for _, h := range []*testbed.Host{hostA, hostB} {
				theirs[h] = shell(t, h, `grep -sv "nameserver 127\." /etc/resolv.conf || true`)
			}
			from := hostA
			for hop := range 2 {
				to := hostB
				if from == hostB {
					to = hostA
				}
				rep := send(t, from, id, agents[to], append(flags, "--state-dir", agents[from].dir+"/state")...).moved(t)
				if want := map[bool]string{false: "remade", true: "carried"}[keep]; how(rep, "/etc/resolv.conf") != want || how(rep, "/etc/hosts") != "carried" {
					t.Errorf("hop %d: %+v", hop, rep.Storage)
				}
				s.assertMoved(t, from, to)
				root := rootOf(t, to, id)
				for name, want := range files {
					got := readAt(t, root+"/etc/"+name)
					if name == "resolv.conf" && !keep {
						want, got = strings.TrimSpace(theirs[to]), strings.TrimSpace(got)
					}
					if got != want {
						t.Errorf("hop %d: %s is %q, want %q", hop, name, got, want)
					}
				}
				if left, _ := filepath.Glob(from.Path(agents[from].dir + "/state/files/default/*")); len(left) > 0 {
					t.Errorf("hop %d: %s keeps %v", hop, from.Name, left)
				}
				from = to
			}
		})
	}
}

// TestNativeSnapshotter moves a container whose root file system is a directory.
func TestNativeSnapshotter(t *testing.T) {
	t.Parallel()
	const id = "native"
	t.Cleanup(func() {
		for _, h := range bed.Hosts() {
			_, _ = try(h, "sh", "-c", `ctr snapshots --snapshotter native rm "$1"`, "sh", id)
		}
	})
	s := mounted(t, hostA, id, "rm /etc/group; echo changed >/etc/issue\n"+appending("/appended"), "--snapshotter", "native")
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	from := hostA
	for range 2 {
		to := hostB
		if from == hostB {
			to = hostA
		}
		send(t, from, id, agents[to], "--json").moved(t)
		s.assertMoved(t, from, to)
		root := rootOf(t, to, id)
		assertAppending(t, root+"/appended")
		if exists(root+"/etc/group") || readAt(t, root+"/etc/issue") != "changed\n" || !exists(root+"/etc/passwd") {
			t.Error("the root file system is not as it was")
		}
		assertNothingUnderWay(t, to, agents[to].dir)
		from = to
	}
}
