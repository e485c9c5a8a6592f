package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// defaultMirror is what the tools use by themselves.
const defaultMirror = "http://deb.debian.org/debian"

// isolate runs the tool in namespaces of its own, so that its mounts and its
// processes end with it, and it with this program, however that is killed.
var isolate = []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"}

// debian fills tree with a Debian of the wanted packages.
func (s Spec) debian(ctx context.Context, tree string) error {
	tool, err := s.bootstrapCommand(tree)
	if err != nil {
		return err
	}
	argv := append(append([]string{}, isolate...), tool...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	// In a session of its own it gets no signal from the terminal: whether to stop
	// is for ctx to say.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s of Debian %s: %w: %s (is the package mirror reachable? MIGRATE_TESTBED_MIRROR names another one)",
			tool[0], s.Suite, err, complaint(output.String()))
	}
	return nil
}

// bootstrapCommand chooses the tool. mmdebstrap is several times faster.
func (s Spec) bootstrapCommand(tree string) ([]string, error) {
	include := "--include=" + strings.Join(s.Packages, ",")
	if _, err := exec.LookPath("mmdebstrap"); err == nil {
		argv := []string{"mmdebstrap", "--variant=minbase", "--mode=root", include,
			// The clock of a machine in a laboratory may be far off.
			`--aptopt=Acquire::Check-Valid-Until "false"`,
			`--aptopt=Acquire::Check-Date "false"`,
			`--aptopt=APT::Install-Recommends "false"`,
			// Some packages' scripts make links among manual pages, which are left out, and want the directory.
			`--essential-hook=mkdir -p "$1/usr/share/man/man1"`,
			"--dpkgopt=path-exclude=/usr/share/man/*",
			"--dpkgopt=path-exclude=/usr/share/locale/*",
			"--dpkgopt=path-exclude=/usr/share/doc/*",
			s.Suite, tree}
		if len(s.Newer) > 0 {
			// Its packages are not to be preferred but for those that are asked for, which bring what they depend on.
			argv = slices.Insert(argv, len(argv)-2, fmt.Sprintf("--aptopt=APT::Default-Release %q", s.Suite),
				fmt.Sprintf(`--customize-hook=chroot "$1" apt-get install --yes --target-release %s %s`, s.NewerSuite, strings.Join(s.Newer, " ")))
		}
		return append(argv, s.sources()...), nil
	}
	if len(s.Newer) > 0 {
		return nil, fmt.Errorf("mmdebstrap is not installed, and nothing else takes packages of Debian %s into %s: run scripts/deps.sh", s.NewerSuite, s.Suite)
	}
	if _, err := exec.LookPath("debootstrap"); err == nil {
		// The script of unstable builds every release; a machine that is older than
		// the suite has none for it. An empty mirror is the default one.
		return []string{"debootstrap", "--variant=minbase", include, s.Suite, tree, s.Mirror, "sid"}, nil
	}
	return nil, errors.New("neither mmdebstrap nor debootstrap is installed: run scripts/deps.sh")
}

// sources are the tool's package sources, none for its default.
func (s Spec) sources() []string {
	if len(s.Newer) == 0 && s.Mirror == "" {
		return nil
	}
	if len(s.Newer) == 0 {
		return []string{s.Mirror}
	}
	mirror := s.Mirror
	if mirror == "" {
		mirror = defaultMirror
	}
	var list []string
	for _, suite := range []string{s.Suite, s.NewerSuite} {
		list = append(list, fmt.Sprintf("deb %s %s main", mirror, suite))
	}
	return list
}

// complaint picks from a tool's output the lines that tell why it failed.
func complaint(output string) string {
	const wanted = 3
	var errs, all []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		all = append(all, line)
		if strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "Err:") {
			errs = append(errs, line)
		}
	}
	if len(errs) == 0 {
		errs = all[max(0, len(all)-wanted):]
	}
	return strings.Join(errs[:min(wanted, len(errs))], "; ")
}
