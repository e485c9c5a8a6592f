package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"

	"github.com/urfave/cli/v2"

	"migrate/internal/canary"
	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/migrate"
)

const checkHelp = `Says what stands in the way of a migration, without moving or stopping anything.

Without a container it says whether this host can send and receive containers at
all, and how to get what is lacking. With CONTAINER it looks at that container's
processes, descriptors, sockets and mounts; with DEST it also asks the
destination, which is named as for migrate send. What blocks would fail; what
degrades moves and loses something; a note is good to know.

The exit code is 0 when nothing blocks, 3 when something here does, 4 when
something at the destination does, 9 when memory or disk is short.

EXAMPLES:
   migrate check                       this host
   migrate check redis                 a container
   migrate check redis b --canary      and whether b takes it; dump and restore a tiny container on both hosts
   migrate check redis ssh://root@b --json`

// canaryCommand is the hidden command under which this program is the canary.
const canaryCommand = "canary"

func checkCommand(env environment) *cli.Command {
	flags := []cli.Flag{
		&cli.BoolFlag{Name: "canary", Usage: "dump and restore a tiny container, here and at DEST"},
	}
	for _, f := range sendFlags() {
		if slices.Contains([]string{"name", "tcp", "network", "exec-sessions", "fingerprint", "token", "ssh-arg", "remote-command", "json", "quiet", "verbose", "ignore"}, f.Names()[0]) {
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name: "check", Usage: "say what stands in the way of a migration", ArgsUsage: "[CONTAINER] [DEST]", Description: checkHelp,
		Flags: slices.Concat(engineFlags(), flags, memoryFlags(), storageFlags(), dirFlags()),
		Action: func(c *cli.Context) error {
			o, err := parseCheck(c)
			if err == nil {
				err = needRoot(env)
			}
			if err != nil {
				return err
			}
			defer collectLate()()
			return check(c.Context, o, c.Bool("canary"), env)
		},
	}
}

// collectLate has garbage collected only once there is a lot of it, until the function that it returns is called: a check ends before long, and
// all that it reads of a thousand processes is a few megabytes.
func collectLate() (end func()) {
	const lot = 128 << 20
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(lot)
	return func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) }
}

// parseCheck reads the same flags as send does, as far as there are arguments for them.
func parseCheck(c *cli.Context) (o sendOptions, err error) {
	if err := wantArgs(c, "[CONTAINER]", "[DEST]"); err != nil {
		return o, err
	}
	if o, err = parseCommon(c); err != nil {
		return o, err
	}
	o.streams, o.timeout = 1, migrate.DefaultTimeout
	if c.NArg() < 2 {
		return o, o.checkIgnore()
	}
	return o, o.check(c)
}

// check looks, and prints what it found. What blocks is in the exit code, and is no error of the command.
func check(ctx context.Context, o sendOptions, withCanary bool, env environment) error {
	log := slog.New(slog.NewTextHandler(env.err, &slog.HandlerOptions{Level: level(o.quiet, o.verbose, slog.LevelWarn)}))
	rep, err := o.look(ctx, withCanary, log)
	if rep == nil {
		rep = &migrate.CheckReport{Version: migrate.CheckVersion, Container: o.container, Destination: o.dest.text, Namespace: o.spec.Namespace}
	}
	if err != nil {
		rep.Error = fail.As(err, fail.Internal, "check the container")
	}
	if o.json {
		if rep.Findings == nil {
			rep.Findings = []preflight.Finding{}
		}
		if perr := encodeJSON(env.out, rep); perr != nil {
			return fail.New(fail.Internal, "print the report", perr)
		}
	} else if err == nil && !o.quiet {
		showCheck(env.out, rep, o.ignore)
	}
	if err != nil {
		return err
	}
	if block := preflight.Blocking(rep.Findings, o.ignore); len(block) > 0 {
		return blocked(o.container, block)
	}
	return nil
}

// blocked is the error of a check that found what blocks. Everything about it was printed already.
func blocked(container string, block []preflight.Finding) error {
	f := migrate.Refusal(container, block)
	f.State = preflight.StillRunning
	if container == "" {
		f.What, f.State = "this host can neither send nor receive as it is", ""
	}
	f.Why, f.Remedy = fmt.Sprintf("%d findings block", len(block)), ""
	if len(block) == 1 {
		f.Why = "1 finding blocks"
	}
	return f
}

// look asks the agent.
func (o sendOptions) look(ctx context.Context, withCanary bool, log *slog.Logger) (*migrate.CheckReport, error) {
	eng, _, err := o.spec.find(ctx, log, o.container)
	if err != nil {
		return nil, err
	}
	defer eng.Close()
	var rep *migrate.CheckReport
	if o.container == "" {
		rep, err = migrate.CheckHost(ctx, eng)
	} else {
		opt := migrate.Options{Container: o.container, Name: o.name, Destination: o.dest.text, TCP: o.tcp, Memory: o.memory, Storage: o.storage, Networks: o.networks, ExecSessions: o.sessions, Ignore: o.ignore, Log: log, LogDir: o.logDir, RunDir: o.runDir}
		if o.dest.text != "" {
			if opt.Dial, err = o.dialer(log); err != nil {
				return nil, err
			}
		}
		rep, err = migrate.Check(ctx, eng, opt, withCanary)
	}
	if err != nil || !withCanary {
		return rep, err
	}
	if cerr := canary.Run(ctx, canary.Options{Dir: o.runDir, Self: []string{selfExe, canaryCommand}}); cerr != nil {
		f := preflight.New("canary", preflight.Source, preflight.Thing{}, cerr.Error())
		if o.container != "" {
			f.State = preflight.StillRunning
		}
		rep.Add(o.ignore, f)
	}
	return rep, nil
}

// showCheck prints findings for people, the worst first, and a verdict.
func showCheck(out io.Writer, rep *migrate.CheckReport, ignore []string) {
	count := map[preflight.Severity]int{}
	for _, f := range rep.Findings {
		count[f.Severity]++
		fmt.Fprint(out, f.Text())
	}
	what := "this host can send and receive"
	if rep.Container != "" {
		what = fmt.Sprintf("container %q can be moved", rep.Container)
	}
	if rep.Destination != "" {
		what += " to " + rep.Destination
	}
	if rep.Blocked {
		fmt.Fprintf(out, "blocked: %d findings block, %d degrade, %d notes\n", len(preflight.Blocking(rep.Findings, ignore)), count[preflight.Degrades], count[preflight.Note])
		return
	}
	fmt.Fprintf(out, "fine: %s; %d findings degrade, %d notes\n", what, count[preflight.Degrades], count[preflight.Note])
}

// runCanary is the canary: it says nothing, and holds still.
func runCanary() int {
	_ = os.Stdin.Close()
	return canary.Hold()
}
