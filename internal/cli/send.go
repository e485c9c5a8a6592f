package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/internal/criu"
	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/migrate"
	"migrate/transfer"
)

const sendHelp = `Moves a running container to DEST and deletes it here. The container keeps its
memory, files, addresses and established TCP connections. Until the hand-over
any failure, and Ctrl-C, leave it running here as if nothing had happened.

DEST is HOST[:PORT] of a ` + "`migrate recv`" + ` (port 7600 unless given), whose key has to
be known: by an enrolment token the first time, or by its fingerprint. Or it is
ssh://USER@HOST[:PORT], which starts the destination agent over ssh.

EXAMPLES:
   migrate send redis b.example.net --token mgt1-…     first time
   migrate send redis b.example.net                    from then on
   migrate send redis b.example.net --fingerprint SHA256:…
   migrate send redis ssh://root@b.example.net
   migrate send redis b.example.net --name cache --keep-source
   migrate send redis b.example.net --json --bandwidth 800mbit`

// sendOptions is what the command line says.
type sendOptions struct {
	container   string
	dest        destination
	spec        engineSpec
	name        string
	keepSource  bool
	codec       transfer.CodecChoice
	bandwidth   int64
	streams     int
	tcp         criu.TCPMode
	timeout     time.Duration
	memory      migrate.MemoryOptions
	storage     migrate.StorageOptions
	networks    map[string]string
	sessions    string // what becomes of exec sessions
	fingerprint string
	token       string
	sshArgs     []string
	remote      []string
	stateDir    string
	runDir      string
	logDir      string
	ignore      []string // codes of findings

	json, quiet, verbose bool
}

// sendFlags are those that are not of engine, memory and directories.
func sendFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "`ID` of the container at the destination, if it is to be another one"},
		&cli.BoolFlag{Name: "keep-source", Usage: "keep the container here, stopped; never start it while the other one lives"},
		&cli.StringFlag{Name: "compress", Value: "auto", Usage: "`CODEC` of what is sent: auto, none, zstd or s2"},
		&cli.StringFlag{Name: "bandwidth", Usage: "`RATE` not to be exceeded, such as 100MiB or 800mbit (default: none)"},
		&cli.IntFlag{Name: "streams", Value: 4, Usage: "`N` connections side by side, 1 to 16; over ssh there is one"},
		&cli.StringFlag{Name: "tcp", Value: string(criu.TCPEstablished), Usage: "`WHAT` becomes of established connections: established (they go on) or close"},
		&cli.StringSliceFlag{Name: "network", Usage: "CNI network of the destination instead of the container's own: `[OLD=]NAME`, may be repeated"},
		&cli.StringFlag{Name: "exec-sessions", Value: migrate.SessionsRefuse, Usage: "`WHAT` becomes of exec sessions in the container: refuse (to move it) or end"},
		&cli.DurationFlag{Name: "timeout", Value: migrate.DefaultTimeout, Usage: "longest `TIME` the container may stand still before it goes on here"},
		&cli.StringFlag{Name: "fingerprint", Usage: "`SHA256:…` of the destination's key"},
		&cli.StringFlag{Name: "token", Usage: "enrolment `TOKEN` made by migrate enroll at the destination", EnvVars: []string{"MIGRATE_TOKEN"}},
		&cli.StringSliceFlag{Name: "ssh-arg", Usage: "`ARG` for ssh, may be repeated"},
		&cli.StringFlag{Name: "remote-command", Value: "migrate recv --stdio", Usage: "`COMMAND` to start at the destination over ssh"},
		&cli.BoolFlag{Name: "json", Usage: "print the report as one JSON object, and no progress"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing but errors"},
		&cli.BoolFlag{Name: "verbose", Usage: "log what is done to standard error"},
		&cli.StringSliceFlag{Name: "ignore", Usage: "`CODE` of a finding that is not to stand in the way, may be repeated; see migrate check"},
	}
}

func sendCommand(env environment) *cli.Command {
	flags := slices.Concat(engineFlags(), sendFlags())
	return &cli.Command{
		Name: "send", Usage: "move a container to another host", ArgsUsage: "CONTAINER DEST", Description: sendHelp,
		Flags: slices.Concat(flags, memoryFlags(), storageFlags(), dirFlags()),
		Action: func(c *cli.Context) error {
			o, err := parseSend(c)
			if err == nil {
				err = needRoot(env)
			}
			if err != nil {
				return reportEarly(c, env.out, err)
			}
			return send(c.Context, o, env)
		},
	}
}

// reportEarly keeps the promise of --json when the command line itself is wrong.
func reportEarly(c *cli.Context, out io.Writer, err error) error {
	if c.Bool("json") {
		o := sendOptions{container: c.Args().Get(0), dest: destination{text: c.Args().Get(1)}, spec: specOf(c)}
		_ = printJSON(out, o.stayed(err))
	}
	return err
}

// stayed is the report of a migration that did not begin.
func (o sendOptions) stayed(err error) *report.Report {
	return &report.Report{
		Version: report.Version, Container: o.container, Namespace: o.spec.Namespace, Destination: o.dest.text, Result: report.Stayed,
		Started: time.Now(), Mode: o.memory.Mode, TCP: string(o.tcp), Error: fail.As(err, fail.Internal, "send the container"),
	}
}

// parseSend checks everything that can be checked without asking anybody.
func parseSend(c *cli.Context) (o sendOptions, err error) {
	if err := wantArgs(c, "CONTAINER", "DEST"); err != nil {
		return o, err
	}
	if o, err = parseCommon(c); err != nil {
		return o, err
	}
	o.keepSource, o.streams, o.timeout = c.Bool("keep-source"), c.Int("streams"), c.Duration("timeout")
	if o.codec, err = transfer.ParseCodec(c.String("compress")); err != nil {
		return o, usage(fmt.Sprintf("--compress %q is unknown", c.String("compress")), "choose auto, none, zstd or s2")
	}
	if text := c.String("bandwidth"); text != "" {
		if o.bandwidth, err = parseBandwidth(text); err != nil {
			return o, err
		}
	}
	return o, o.check(c)
}

// parseCommon reads what send and check have in common.
func parseCommon(c *cli.Context) (o sendOptions, err error) {
	o = sendOptions{
		container: c.Args().Get(0), spec: specOf(c), name: c.String("name"), tcp: criu.TCPMode(c.String("tcp")),
		fingerprint: c.String("fingerprint"), token: c.String("token"), ignore: c.StringSlice("ignore"),
		sshArgs: c.StringSlice("ssh-arg"), remote: strings.Fields(c.String("remote-command")),
		stateDir: c.String("state-dir"), runDir: c.String("run-dir"), logDir: c.String("log-dir"),
		sessions: c.String("exec-sessions"), json: c.Bool("json"), quiet: c.Bool("quiet"), verbose: c.Bool("verbose"),
	}
	if err := o.spec.check(); err != nil {
		return o, err
	}
	if c.NArg() > 1 {
		if o.dest, err = parseDest(c.Args().Get(1)); err != nil {
			return o, err
		}
	}
	if o.memory, err = parseMemory(c); err != nil {
		return o, err
	}
	if o.storage, err = parseStorage(c); err != nil {
		return o, err
	}
	if !slices.Contains([]string{migrate.SessionsRefuse, migrate.SessionsEnd}, o.sessions) {
		return o, usage(fmt.Sprintf("--exec-sessions %q is unknown", o.sessions), "choose refuse or end")
	}
	o.networks, err = parseNetworks(c)
	return o, err
}

// checkIgnore refuses codes that no finding has: a mistyped one would be found out only when it is needed.
func (o sendOptions) checkIgnore() error {
	for _, code := range o.ignore {
		if _, ok := preflight.Lookup(code); !ok {
			return usage(fmt.Sprintf("--ignore %q: no finding has that code", code), "migrate check shows the codes of what it finds")
		}
	}
	return nil
}

func (o sendOptions) check(c *cli.Context) error {
	switch {
	case o.streams < 1 || o.streams > transfer.MaxLanes:
		return usage(fmt.Sprintf("--streams %d is out of range", o.streams), fmt.Sprintf("choose 1 to %d", transfer.MaxLanes))
	case !slices.Contains([]criu.TCPMode{criu.TCPEstablished, criu.TCPClose}, o.tcp):
		return usage(fmt.Sprintf("--tcp %q is unknown", o.tcp), "choose established or close")
	case o.timeout <= 0:
		return usage(fmt.Sprintf("--timeout %v is not positive", o.timeout), "")
	case o.dest.ssh() && (o.fingerprint != "" || o.token != ""):
		return usage("--fingerprint and --token are not for ssh://", "ssh itself verifies the destination's host key")
	case o.dest.ssh() && len(o.remote) == 0:
		return usage("--remote-command is empty", "")
	case o.dest.ssh() && proto.Stays(o.memory.Mode):
		return usage(fmt.Sprintf("--mode %s is not for ssh://: should the link break, there is nobody at the destination to reconnect to", o.memory.Mode),
			"run `migrate recv` there and send to its address, or choose another mode")
	case !o.dest.ssh() && (c.IsSet("ssh-arg") || c.IsSet("remote-command")):
		return usage("--ssh-arg and --remote-command are for ssh:// only", destRemedy)
	}
	if o.fingerprint != "" {
		if _, err := transfer.ParseFingerprint(o.fingerprint); err != nil {
			return usage(err.Error(), "migrate fingerprint prints it at the destination")
		}
	}
	return o.checkIgnore()
}

// send runs a migration and shows it.
func send(ctx context.Context, o sendOptions, env environment) error {
	ui := newProgress(env.err, terminalWidth(env.err))
	log := slog.New(slog.NewTextHandler(ui, &slog.HandlerOptions{Level: level(o.quiet, o.verbose, slog.LevelWarn)}))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &canceller{cancel: cancel, say: ui.say}
	defer c.watch()()
	rep, err := o.migrate(ctx, c, ui, log)
	ui.stop(err == nil)
	return o.show(rep, err, env.out)
}

// migrate connects to the engine and hands over to the source agent.
func (o sendOptions) migrate(ctx context.Context, c *canceller, ui *progress, log *slog.Logger) (*report.Report, error) {
	eng, spec, err := o.spec.find(ctx, log, o.container)
	if err != nil {
		return o.stayed(err), err
	}
	defer eng.Close()
	o.spec = spec
	dial, err := o.dialer(log)
	if err != nil {
		return o.stayed(err), err
	}
	if n, err := criu.CleanStages(o.runDir); err != nil {
		log.Warn("clean up after earlier migrations", "err", err)
	} else if n > 0 {
		log.Info("cleaned up after earlier migrations", "stages", n)
	}
	return migrate.Send(ctx, eng, migrate.Options{
		Container: o.container, Namespace: o.spec.Namespace, Name: o.name, Destination: o.dest.text, KeepSource: o.keepSource, TCP: o.tcp, Codec: o.codec,
		Memory: o.memory, Storage: o.storage, Networks: o.networks, ExecSessions: o.sessions,
		Timeout: o.timeout, Guard: []string{selfExe, guardCommand}, Throttler: []string{selfExe, throttleCommand}, EngineSpec: o.spec.String(), RunDir: o.runDir, LogDir: o.logDir,
		Observe: o.observer(c, ui), Log: log, Dial: dial, Ignore: o.ignore,
	})
}

func (o sendOptions) observer(c *canceller, ui *progress) report.Observer {
	return func(ev report.Event) {
		c.observe(ev)
		if !o.json && !o.quiet || ev.Note != "" && !o.quiet {
			ui.observe(ev)
		}
	}
}

// show prints the result. An error that the report could not be printed does not hide the migration's own.
func (o sendOptions) show(rep *report.Report, err error, out io.Writer) error {
	switch {
	case o.json:
		if perr := printJSON(out, rep); err == nil && perr != nil {
			return fail.New(fail.Internal, "print the report; the container moved", perr)
		}
	case !o.quiet && rep.Result == report.Moved:
		fmt.Fprint(out, summary(rep))
	}
	return err
}
