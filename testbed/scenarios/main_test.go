package scenarios

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"migrate/testbed"
)

// bedName is of its own, beside testbeds that people have up.
var bedName = cmp.Or(os.Getenv("MIGRATE_SCENARIOS_NAME"), "mt-scenarios")

// The hosts: containers move between a and b, clients run on c, and d is at hand for tests that change a host.
var (
	bed                        *testbed.Testbed
	hostA, hostB, hostC, hostD *testbed.Host
	errNoRoot                  = errors.New("two-host tests need root")
	keepBed                    = flag.Bool("keep-bed", false, "leave the testbed up, to look at it")
	verboseBed                 = flag.Bool("verbose-bed", false, "log what the testbed does")
	programs                   map[string]string // on all hosts, by name
)

func TestMain(m *testing.M) {
	if code, ran := testbed.Child(); ran {
		os.Exit(code)
	}
	if code, ran := helper(); ran {
		os.Exit(code)
	}
	flag.Parse()
	// What has too little of the CPUs meets time limits; TestLinkCut needs one for each moment.
	if err := flag.Set("test.parallel", strconv.Itoa(len(moments))); err != nil {
		panic(err)
	}
	code, err := mainTest(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "scenarios:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// mainTest brings the testbed up, runs the tests and takes it down again, also when they fail.
func mainTest(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errNoRoot
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "migrate-scenarios-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if programs, err = buildPrograms(ctx, dir); err != nil {
		return 1, err
	}
	options := testbed.Options{
		Name: bedName, Hosts: []string{"a", "b", "c", "d"}, Images: []string{testbed.ImageRedis, testbed.ImageTools},
		Workload: programs["workload"], Binaries: programs, Replace: true,
		Binds: map[string]string{sharedDir: filepath.Join(dir, "shared")},
	}
	if err := os.Mkdir(filepath.Join(dir, "shared"), 0o755); err != nil {
		return 1, err
	}
	if *verboseBed {
		options.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if bed, err = testbed.Up(ctx, options); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, takeDown(ctx)) }()
	hostA, hostB, hostC, hostD = bed.Host("a"), bed.Host("b"), bed.Host("c"), bed.Host("d")
	for _, h := range bed.Hosts() {
		if err := wrapCRIU(h); err != nil {
			return 1, err
		}
	}
	code = m.Run()
	err = globalCheck(ctx)
	for _, d := range allDocks {
		err = errors.Join(err, d.down(ctx))
	}
	return code, err
}

func takeDown(ctx context.Context) error {
	if *keepBed {
		return nil
	}
	err := bed.Down(ctx)
	left, lerr := testbed.Leftovers(bedName)
	if len(left) > 0 {
		lerr = errors.Join(lerr, fmt.Errorf("left of the testbed: %s", strings.Join(left, ", ")))
	}
	return errors.Join(err, lerr)
}

// buildPrograms compiles what the hosts need. The program under test has the race detector where that can be built; it is
// linked dynamically then, against a C library that is older than the hosts'.
func buildPrograms(ctx context.Context, dir string) (map[string]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out := map[string]string{"migrate": os.Getenv("MIGRATE_BINARY"), "scenario-peer": self}
	out["workload"] = filepath.Join(dir, "workload")
	if err := goBuild(ctx, out["workload"], "migrate/testbed/cmd/workload", false); err != nil {
		return nil, err
	}
	if out["migrate"] != "" {
		return out, nil
	}
	out["migrate"] = filepath.Join(dir, "migrate")
	if goBuild(ctx, out["migrate"], "migrate", true) == nil {
		return out, nil
	}
	return out, goBuild(ctx, out["migrate"], "migrate", false)
}

func goBuild(ctx context.Context, path, pkg string, race bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	args, cgo := []string{"build", "-buildvcs=false", "-o", path}, "CGO_ENABLED=0"
	if race {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), cgo)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, said)
	}
	return nil
}

// globalCheck looks for what no single test can be blamed for while others run.
func globalCheck(ctx context.Context) error {
	var errs []error
	for _, h := range bed.Hosts() {
		for what, argv := range map[string][]string{
			"leases":               {"ctr", "leases", "ls", "-q"},
			"ingests":              {"sh", "-c", "ctr content active | tail -n +2"},
			"containers":           {"ctr", "containers", "ls", "-q"},
			"network namespaces":   {"sh", "-c", "ls /run/netns 2>/dev/null || true"},
			"mounts of stages":     {"sh", "-c", "grep -E ' /run/(migrate|scn)' /proc/mounts || true"},
			"processes of CRIU":    {"sh", "-c", "pgrep -a criu || true"},
			"address reservations": {"sh", "-c", "ls /var/lib/cni/networks/mt 2>/dev/null | grep -E '^[0-9a-f.:]+$' || true"},
		} {
			var text string
			var err error
			// what agents started that were killed last may take a moment to end
			within(20*time.Second, func() bool { text, err = lookFor(ctx, h, argv); return text == "" && err == nil })
			if err != nil {
				errs = append(errs, fmt.Errorf("host %s: look for %s: %w", h.Name, what, err))
			} else if text != "" {
				errs = append(errs, fmt.Errorf("host %s is left with %s:\n%s", h.Name, what, text))
			}
		}
	}
	return errors.Join(errs...)
}

func lookFor(ctx context.Context, h *testbed.Host, argv []string) (string, error) {
	out, err := h.Command(ctx, argv...).Output()
	return strings.TrimSpace(string(out)), err
}
