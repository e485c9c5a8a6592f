package restore_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	pb "google.golang.org/protobuf/proto"

	"migrate/restore"
)

func TestImagesMustNotHaveMoreThanTheSpecification(t *testing.T) {
	const plain = `{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_KILL"]}},"linux":{}}`
	const filtered = `{"process":{"capabilities":{"bounding":["CAP_CHOWN"]}},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`
	filter := core.SeccompMode_filter
	thread := func(caps uint32, high uint32, mode *core.SeccompMode) []byte {
		return coreImage(&core.CoreEntry{ThreadCore: &core.ThreadCoreEntry{
			SeccompMode: mode, Creds: &creds.CredsEntry{CapBnd: []uint32{caps, high}},
		}})
	}
	for name, c := range map[string]struct {
		spec  string
		image []byte
		why   string // in the refusal; "" when it is let in
		all   bool
	}{
		"what the specification gives": {plain, thread(1|1<<5, 0, nil), "", false},
		"less":                         {plain, thread(0, 0, nil), "", false},
		"CAP_SYS_ADMIN":                {plain, thread(1<<21, 0, nil), "CAP_SYS_ADMIN", false},
		"a high one":                   {plain, thread(0, 1<<7, nil), "CAP_BPF", false},
		"an unknown one":               {plain, thread(0, 1<<30, nil), "capability 62", false},
		"privileged is allowed":        {plain, thread(1<<21, 0, nil), "", true},
		"filter kept":                  {filtered, thread(1, 0, &filter), "", false},
		"filter gone":                  {filtered, thread(1, 0, nil), "seccomp", false},
		"no core image":                {plain, []byte("xxxxxxxxxxxx"), "not a core image", false},
		"cut off":                      {plain, thread(1, 0, nil)[:14], "a record of", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "core-1.img"), c.image, 0o600); err != nil {
				t.Fatal(err)
			}
			err := restore.Policy{AllowPrivileged: c.all}.CheckImages(dir, json.RawMessage(c.spec))
			if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("got %v, want %q", err, c.why)
			}
		})
	}
	if err := (restore.Policy{}).CheckImages(t.TempDir(), json.RawMessage(plain)); err == nil {
		t.Error("an image set without processes was let in")
	}
}

// TestThreadsShareTheirFilter: CRIU notes a filter that all threads of a process have at the first of them.
func TestThreadsShareTheirFilter(t *testing.T) {
	const spec = `{"process":{},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`
	const tsync = 1
	filter := core.SeccompMode_filter
	for _, c := range []struct {
		what    string
		flags   uint32
		threads []uint32 // of process 1
		index   uint32
		in      bool
	}{
		{"brought to all", tsync, []uint32{1, 7}, 0, true},
		{"not brought to others", 0, []uint32{1, 7}, 0, false},
		{"of another process", tsync, []uint32{1}, 0, false},
		{"no such filter", tsync, []uint32{1, 7}, 9, false},
	} {
		dir := t.TempDir()
		write := func(name string, magic uint32, m pb.Message) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), image(magic, m), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		thread := func(mode *core.SeccompMode) *core.CoreEntry {
			return &core.CoreEntry{ThreadCore: &core.ThreadCoreEntry{SeccompMode: mode, SeccompFilter: &c.index, Creds: &creds.CredsEntry{}}}
		}
		write("core-1.img", coreMagic, thread(&filter))
		write("core-7.img", coreMagic, thread(nil))
		write("pstree.img", 0x50273030, &pstree.PstreeEntry{Pid: pb.Uint32(1), Threads: c.threads})
		write("seccomp.img", 0x64413049, &seccomp.SeccompEntry{SeccompFilters: []*seccomp.SeccompFilter{{Filter: []byte("x"), Flags: &c.flags}}})
		err := restore.Policy{}.CheckImages(dir, json.RawMessage(spec))
		if c.in && err != nil || !c.in && (err == nil || !strings.Contains(err.Error(), "seccomp")) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
