package scenarios

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"migrate/testbed"
)

// The wrapper before CRIU on every host: a file in /run/faults that is named like a word of the caller's command line is
// run as a script first. The caller is runc, whose last word is the container's id, or migrate, which asks for the version. Docker's containers
// are also known by their names.
const (
	faultDir = "/run/faults"
	hitDir   = "/run/faults-hit"
	wrapper  = `#!/bin/sh
caller=$(tr '\0' '\n' </proc/$PPID/cmdline)
config=/var/lib/docker/containers/$(echo "$caller" | tail -n 1)/config.v2.json
[ -e "$config" ] && caller="$caller
$(sed 's|.*"Name":"/\([^"]*\)".*|\1|' "$config")"
for fault in ` + faultDir + `/*; do
	[ -e "$fault" ] || continue
	name=${fault##*/}
	case "
$caller
" in
	*"
$name
"*) . "$fault" ;;
	esac
done
exec /usr/local/sbin/criu.testbed "$@"
`
)

func wrapCRIU(h *testbed.Host) error {
	for _, dir := range []string{faultDir, hitDir} {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			return err
		}
	}
	at := h.Path("/usr/local/sbin/criu")
	if err := os.Rename(at, h.Path("/usr/local/sbin/criu.testbed")); err != nil {
		return fmt.Errorf("wrap criu: %w", err)
	}
	return os.WriteFile(at, []byte(wrapper), 0o755)
}

// When CRIU is met.
const (
	atDump    = `case "$1 $caller" in "swrk "*checkpoint*) ;; *) false ;; esac`
	atRestore = `case "$1 $caller" in "swrk "*restore*) ;; *) false ;; esac`
	atVersion = `[ "$1" = --version ]`
)

// fault has CRIU's caller meet a script, under a condition, until the test ends. The function it returns tells whether
// that has happened.
func fault(t *testing.T, h *testbed.Host, word, when, script string) (hit func() bool) {
	t.Helper()
	mark := filepath.Join(hitDir, word)
	text := fmt.Sprintf("if %s; then : >'%s'\n%s\nfi\n", when, mark, script)
	if err := os.WriteFile(h.Path(filepath.Join(faultDir, word)), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, file := range []string{filepath.Join(faultDir, word), mark, mark + ".stayed"} {
			if err := os.Remove(h.Path(file)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	return func() bool {
		_, err := os.Stat(h.Path(mark))
		return err == nil
	}
}

// removeFault ends a fault before the test does.
func removeFault(t *testing.T, word string) {
	t.Helper()
	hosts := bed.Hosts()
	docks.Range(func(h, _ any) bool { hosts = append(slices.Clip(hosts), h.(*testbed.Host)); return true })
	for _, h := range hosts {
		if err := os.Remove(h.Path(filepath.Join(faultDir, word))); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}
