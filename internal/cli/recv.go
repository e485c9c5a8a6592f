package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"

	"github.com/urfave/cli/v2"

	"migrate/internal/engine"
	"migrate/internal/engine/containerd"
	"migrate/internal/fail"
	"migrate/layers"
	"migrate/restore"
	"migrate/transfer"
)

const recvHelp = `Takes in containers that other hosts send. It listens for TLS connections from
sources that are authorized (see migrate enroll and migrate peers), or serves one
migration on standard input and output, which is what ssh:// destinations use.

Whoever may send here can run code on this host. What a container may bring is
limited: no capabilities beyond an engine's usual ones, no host devices, no host
namespaces but the network's, and no bind mounts but those below --allow-mount.

SIGTERM and SIGINT stop it: migrations that are not past their hand-over are
cancelled, the others are finished.

EXAMPLES:
   migrate recv
   migrate recv --listen 10.0.0.2:7600 --allow-mount /srv/data
   migrate recv --stdio`

type recvOptions struct {
	listen   string
	stdio    bool
	max      int
	spec     engineSpec
	policy   restore.Policy
	stateDir string
	log      *slog.Logger
}

func recvCommand(env environment) *cli.Command {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "listen", Value: fmt.Sprintf(":%d", defaultPort), Usage: "`HOST:PORT` to listen on"},
		&cli.BoolFlag{Name: "stdio", Usage: "serve one migration on standard input and output"},
		&cli.StringFlag{Name: "engine", Value: auto, Usage: "`ENGINE` to take containers in with: auto, which is the one that they come from, containerd or docker"},
		addressFlag(), dockerSocketFlag(),
		&cli.StringSliceFlag{Name: "allow-mount", Usage: "`DIR` of this host from which containers may bind, may be repeated", TakesFile: true},
		&cli.StringSliceFlag{Name: "allow-log", Usage: "`DIR` in which a container's output file may be, may be repeated (default: /var/log)", TakesFile: true},
		&cli.StringSliceFlag{Name: "allow-logger", Usage: "`PROGRAM` of this host that may take a container's output (binary:// log URIs), may be repeated", TakesFile: true},
		&cli.BoolFlag{Name: "allow-privileged", Usage: "take privileged containers too; whoever may send is then root here"},
		&cli.IntFlag{Name: "max-migrations", Value: 16, Usage: "`N` migrations at once"},
		&cli.StringFlag{Name: "max-files", Value: "1TiB", Usage: "`SIZE` of a container's changed files"},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of the log on standard error: text or json"},
		&cli.BoolFlag{Name: "verbose", Usage: "log more"},
	}
	return &cli.Command{
		Name: "recv", Usage: "take in containers from other hosts", ArgsUsage: " ", Description: recvHelp,
		Flags: append(flags, dirFlags()...),
		Action: func(c *cli.Context) error {
			o, err := parseRecv(c, env.err)
			if err == nil {
				err = needRoot(env)
			}
			if err != nil {
				return err
			}
			return recv(c.Context, o, env)
		},
	}
}

func parseRecv(c *cli.Context, stderr io.Writer) (o recvOptions, err error) {
	if err := wantArgs(c); err != nil {
		return o, err
	}
	o = recvOptions{
		listen: c.String("listen"), stdio: c.Bool("stdio"), max: c.Int("max-migrations"), spec: specOf(c), stateDir: c.String("state-dir"),
		policy: restore.Policy{AllowPrivileged: c.Bool("allow-privileged"), AllowMounts: c.StringSlice("allow-mount"), AllowLoggers: c.StringSlice("allow-logger")},
	}
	if c.IsSet("allow-log") {
		o.policy.AllowLogs = c.StringSlice("allow-log")
	}
	if err := o.spec.check(); err != nil {
		return o, err
	}
	switch {
	case o.stdio && c.IsSet("listen"):
		return o, usage("--stdio and --listen exclude each other", "")
	case o.max < 1:
		return o, usage(fmt.Sprintf("--max-migrations %d is not positive", o.max), "")
	}
	for _, path := range slices.Concat(o.policy.AllowMounts, o.policy.AllowLogs, o.policy.AllowLoggers) {
		if !filepath.IsAbs(path) {
			return o, usage(fmt.Sprintf("%q is no absolute path", path), "--allow-mount, --allow-log and --allow-logger take absolute paths")
		}
	}
	bytes, err := parseSize(c.String("max-files"))
	if err != nil {
		return o, err
	}
	o.policy.Layers = layers.Limits{MaxBytes: bytes, AllowDevices: o.policy.AllowPrivileged}
	o.log, err = newLogger(stderr, c.String("log-format"), level(false, c.Bool("verbose"), slog.LevelInfo))
	return o, err
}

// recv serves until it is stopped, or one session over standard input and output.
func recv(ctx context.Context, o recvOptions, env environment) error {
	outcomes, err := restore.OpenOutcomes(filepath.Join(o.stateDir, "outcomes"))
	if err != nil {
		return fail.New(fail.Internal, "start the destination agent", err)
	}
	ctx, stop := signal.NotifyContext(ctx, interrupts...)
	defer stop()
	slots := make(chan struct{}, o.max)
	opt := restore.Options{
		Policy: o.policy, Outcomes: outcomes, Incoming: filepath.Join(o.stateDir, "incoming"), RunDir: o.spec.RunDir, LogDir: o.spec.LogDir, Log: o.log,
		Files: filesDir(o.stateDir), Left: leftDir(o.stateDir),
		Pager: []string{selfExe, pagerCommand}, Filler: []string{selfExe, fillerCommand}, Canary: []string{selfExe, canaryCommand},
		OpenEngine: func(ctx context.Context, name, namespace string) (engine.Engine, error) {
			return openSlot(ctx, slots, o, name, namespace)
		},
	}
	if err := restore.Sweep(ctx, opt); err != nil {
		o.log.Warn("clean up after earlier migrations", "err", err)
	}
	if o.stdio {
		return recvStdio(ctx, o, opt, env)
	}
	go o.spec.reclaim(ctx, o.log)
	opt.Reunions = restore.NewReunions()
	return recvListen(ctx, o, opt, env)
}

// recvStdio serves one session. Nothing but the protocol may go to standard output, so nothing else gets hold of it.
func recvStdio(ctx context.Context, o recvOptions, opt restore.Options, env environment) error {
	out := env.out
	if out == os.Stdout {
		os.Stdout = os.Stderr
	}
	sess, err := transfer.Stdio(ctx, env.in, out, transfer.Destination, transfer.Options{Log: o.log})
	if errors.Is(err, transfer.ErrVersion) {
		return fail.New(fail.Version, "open the session on standard input and output", err).
			With("", "install the same version of migrate on both hosts")
	}
	if err != nil {
		return fail.New(fail.Connection, "open the session on standard input and output", err).
			With("", "this mode is meant to be started by migrate send over ssh")
	}
	return serve(ctx, sess, opt)
}

func recvListen(ctx context.Context, o recvOptions, opt restore.Options, env environment) error {
	id, err := transfer.LoadOrCreateIdentity(o.stateDir)
	if err != nil {
		return fail.New(fail.Auth, "load this host's key", err).With(o.stateDir, "")
	}
	auth, err := transfer.NewAuthorizer(o.stateDir)
	if err != nil {
		return fail.New(fail.Auth, "load the authorized peers", err).With(o.stateDir, "")
	}
	// it outlives ctx, see acceptLast
	l, err := transfer.Listen(context.WithoutCancel(ctx), o.listen, id, auth, transfer.Options{MaxSessions: maxSessions(o.max), Log: o.log})
	if err != nil {
		return fail.New(fail.Connection, "listen for sources", err).With(o.listen, "choose another address with --listen")
	}
	defer l.Close()
	fmt.Fprintf(env.out, "listening on %s\nfingerprint %s\n", l.Addr(), id.Fingerprint())
	o.log.Info("listening", "address", l.Addr().String(), "fingerprint", id.Fingerprint(), "version", versionText())
	return acceptAll(ctx, l, opt)
}

// maxSessions leaves room for sessions beyond the migrations: a source whose link broke asks on a new one what became
// of its container, and must be answered also when there are as many migrations as there may be.
func maxSessions(migrations int) int { return 2*migrations + 16 }

// acceptAll serves sessions until ctx ends, and returns when the last of them is over.
func acceptAll(ctx context.Context, l *transfer.Listener, opt restore.Options) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		sess, err := l.Accept(ctx)
		if ctx.Err() != nil {
			if sess != nil {
				sess.Abort(context.Cause(ctx))
			}
			opt.Log.Info("stopping; migrations past their hand-over are finished first")
			acceptLast(l, opt, &wg)
			return nil
		}
		if err != nil {
			return fail.New(fail.Connection, "accept sessions", err)
		}
		wg.Go(func() { _ = serve(ctx, sess, opt) }) // serve has logged it, and the source was told
	}
}

// acceptLast returns when the last migration is over. Until then a source whose link breaks while a container's memory is still with it
// must be able to come back.
func acceptLast(l *transfer.Listener, opt restore.Options, migrations *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(context.Background())
	var answers sync.WaitGroup
	answers.Go(func() {
		for {
			sess, err := l.Accept(ctx)
			if err != nil {
				return
			}
			answers.Go(func() {
				if err := restore.Answer(ctx, sess, opt); err != nil {
					opt.Log.Info("answer a source while stopping", "peer", sess.Peer().Name, "err", err)
				}
			})
		}
	})
	migrations.Wait()
	cancel()
	answers.Wait()
}

// serve takes in what one session brings.
func serve(ctx context.Context, sess *transfer.Session, opt restore.Options) error {
	peer := sess.Peer()
	log := opt.Log.With("peer", peer.Name)
	res, err := restore.Recv(ctx, sess, opt)
	switch {
	case err != nil:
		var f *fail.Fault
		if errors.As(err, &f) {
			log.Error("migration failed", "code", f.Code, "what", f.What, "where", f.Where, "why", f.Why, "log", f.Log, "state", f.State)
		} else {
			log.Error("migration failed", "err", err)
		}
		return err
	case res == nil:
		log.Info("answered a source's question", "fingerprint", peer.Fingerprint)
	default:
		log.Info("container runs here", "migration", res.ID, "container", res.Container, "namespace", res.Namespace,
			"pid", res.Pid, "fingerprint", peer.Fingerprint)
	}
	return nil
}

// of is how to reach the engine that a container comes from.
func (s engineSpec) of(name, namespace string) (engineSpec, error) {
	if name == "" {
		name = containerd.Name
	}
	if s.Kind != auto && s.Kind != name {
		return s, &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination",
			Why: fmt.Sprintf("it is one of %s, and this agent takes in those of %s only", name, s.Kind), Remedy: "start the destination agent with --engine auto"}
	}
	s.Kind, s.Namespace = name, namespace
	return s.withNamespace(), nil
}

// slotEngine is an engine that takes one of the places for migrations until it is closed.
type slotEngine struct {
	engine.Engine
	release func()
}

// Close frees the place too.
func (e *slotEngine) Close() error {
	e.release()
	return e.Engine.Close()
}

// openSlot connects to the engine for one migration, if there is a place for one. Questions about earlier migrations
// need no engine and so no place.
func openSlot(ctx context.Context, slots chan struct{}, o recvOptions, name, namespace string) (engine.Engine, error) {
	spec, err := o.spec.of(name, namespace)
	if err != nil {
		return nil, err
	}
	select {
	case slots <- struct{}{}:
	default:
		return nil, &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination",
			Why: fmt.Sprintf("%d migrations are under way, which is all that is allowed", cap(slots)), Remedy: "try again later, or raise --max-migrations there"}
	}
	release := sync.OnceFunc(func() { <-slots })
	e, err := spec.open(ctx, o.log)
	if err != nil {
		release()
		return nil, err
	}
	return &slotEngine{e, release}, nil
}
