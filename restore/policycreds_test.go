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

// TestFilterOfAllThreads has threads without a filter of their own: CRIU notes one that all of a process's threads have with the
// first of them only, and by a flag that the kernel puts it on all.
func TestFilterOfAllThreads(t *testing.T) {
	const spec = `{"process":{"capabilities":{}},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`
	filter, number, all, one := core.SeccompMode_filter, uint32(0), uint32(1), uint32(0)
	for name, c := range map[string]struct {
		flags *uint32
		mode  *core.SeccompMode // of the first thread
		ok    bool
	}{
		"for all threads":         {&all, &filter, true},
		"for one thread":          {&one, &filter, false},
		"first thread without it": {&all, nil, false},
	} {
		dir := t.TempDir()
		pid := uint32(1)
		for file, content := range map[string][]byte{
			"core-1.img":  coreImage(&core.CoreEntry{ThreadCore: &core.ThreadCoreEntry{SeccompMode: c.mode, SeccompFilter: &number, Creds: &creds.CredsEntry{}}}),
			"core-2.img":  coreImage(&core.CoreEntry{ThreadCore: &core.ThreadCoreEntry{Creds: &creds.CredsEntry{}}}),
			"pstree.img":  image(0x50273030, &pstree.PstreeEntry{Pid: &pid, Threads: []uint32{1, 2}}),
			"seccomp.img": image(0x64413049, &seccomp.SeccompEntry{SeccompFilters: []*seccomp.SeccompFilter{{Filter: []byte{0}, Flags: c.flags}}}),
		} {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := (restore.Policy{}).CheckImages(dir, json.RawMessage(spec)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
