package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/internal/engine"
	"migrate/internal/engine/containerd"
	"migrate/internal/engine/docker"
	"migrate/internal/fail"
)

// Where things are kept unless flags say otherwise.
const (
	defaultStateDir = "/var/lib/migrate" // key, peers, tokens, outcomes: survives reboots
	defaultRunDir   = "/run/migrate"     // stages and locks: lost at a reboot, like what they belong to
	defaultLogDir   = "/var/log/migrate" // CRIU's logs of failed migrations
)

// auto lets the engine be the one that has the container.
const auto = "auto"

// engineSpec says how to reach an engine. A guard gets it as JSON, so that it can reach the engine after its agent died.
type engineSpec struct {
	Kind      string `json:"kind"`
	Address   string `json:"address"`          // of containerd
	Socket    string `json:"socket,omitempty"` // of Docker
	Namespace string `json:"namespace"`
	RunDir    string `json:"run_dir,omitempty"`
	LogDir    string `json:"log_dir,omitempty"`
	StateDir  string `json:"state_dir,omitempty"`
	Unasked   bool   `json:"-"` // do with an engine that may not answer, where that is possible
}

// String is the form that parseEngineSpec reads.
func (s engineSpec) String() string {
	b, _ := json.Marshal(s) // strings always encode
	return string(b)
}

func parseEngineSpec(text string) (s engineSpec, err error) {
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("decode how to reach the engine: %w", err)
	}
	return s, nil
}

// open connects to the engine.
func (s engineSpec) open(ctx context.Context, log *slog.Logger) (engine.Engine, error) {
	switch s.Kind {
	case docker.Name:
		return s.openDocker(ctx, log)
	case containerd.Name:
		return s.openContainerd(ctx, log)
	}
	return nil, fmt.Errorf("engine %q is unknown", s.Kind)
}

func (s engineSpec) openDocker(ctx context.Context, log *slog.Logger) (engine.Engine, error) {
	o := docker.Options{Socket: s.Socket, Unasked: s.Unasked, Logger: log}
	if s.RunDir != "" {
		o.LockDir = filepath.Join(s.RunDir, "lock")
	}
	if s.StateDir != "" {
		o.Spool, o.Shields = filepath.Join(s.StateDir, "docker"), filepath.Join(s.StateDir, "shielded")
	}
	e, err := docker.New(ctx, o)
	if err != nil {
		return nil, fail.New(fail.Internal, "connect to the engine", err).With(s.Socket, "start Docker, or name its socket with --docker-socket")
	}
	return e, nil
}

func (s engineSpec) openContainerd(ctx context.Context, log *slog.Logger) (engine.Engine, error) {
	o := containerd.Options{Address: s.Address, Namespace: s.Namespace, LogDir: s.LogDir, Logger: log, Drain: []string{selfExe, drainCommand}}
	if s.RunDir != "" {
		o.LockDir = filepath.Join(s.RunDir, "lock")
	}
	e, err := containerd.New(ctx, o)
	if err != nil {
		return nil, fail.New(fail.Internal, "connect to the engine", err).With(s.Address, "start containerd, or name its socket with --address")
	}
	return e, nil
}

// The flags that several commands have.
func stateDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "state-dir", Value: defaultStateDir, Usage: "`DIR` of key, known and authorized peers, tokens and outcomes", TakesFile: true}
}

func dirFlags() []cli.Flag {
	return []cli.Flag{
		stateDirFlag(),
		&cli.StringFlag{Name: "run-dir", Value: defaultRunDir, Usage: "`DIR` for memory images (mounted as a memory file system) and locks", TakesFile: true},
		&cli.StringFlag{Name: "log-dir", Value: defaultLogDir, Usage: "`DIR` that keeps CRIU's logs of failed migrations", TakesFile: true},
	}
}

func addressFlag() cli.Flag {
	return &cli.StringFlag{Name: "address", Aliases: []string{"a"}, Value: containerd.DefaultAddress, Usage: "containerd's `SOCKET`", TakesFile: true, EnvVars: []string{"CONTAINERD_ADDRESS"}}
}

// engineFlags are those of commands about one container.
func engineFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "engine", Value: auto, Usage: "`ENGINE` that has the container: auto, containerd or docker"},
		namespaceFlag(), addressFlag(), dockerSocketFlag(),
	}
}

func dockerSocketFlag() cli.Flag {
	return &cli.StringFlag{Name: "docker-socket", Value: docker.DefaultSocket, Usage: "Docker's `SOCKET`", TakesFile: true}
}

func namespaceFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Value: containerd.DefaultNamespace, Usage: "containerd `NAMESPACE` of the container", EnvVars: []string{"CONTAINERD_NAMESPACE"}}
}

// specOf makes the engine's specification from a command's flags.
func specOf(c *cli.Context) engineSpec {
	s := engineSpec{
		Kind: c.String("engine"), Address: c.String("address"), Socket: c.String("docker-socket"), Namespace: c.String("namespace"),
		RunDir: c.String("run-dir"), LogDir: c.String("log-dir"), StateDir: c.String("state-dir"),
	}
	return s.withNamespace()
}

// withNamespace: Docker has no namespaces but its own.
func (s engineSpec) withNamespace() engineSpec {
	if s.Kind == docker.Name {
		s.Namespace = docker.Namespace
	}
	return s
}

func (s engineSpec) check() error {
	if slices.Contains([]string{auto, containerd.Name, docker.Name}, s.Kind) {
		return nil
	}
	return usage(fmt.Sprintf("--engine %q is unknown", s.Kind), "choose auto, containerd or docker")
}

// find connects to the engine that has the container, or to the only one that there is, and returns how it was reached. Without a container
// it is the first engine that there is.
func (s engineSpec) find(ctx context.Context, log *slog.Logger, container string) (engine.Engine, engineSpec, error) {
	if err := s.check(); err != nil {
		return nil, s, err
	}
	if s.Kind != auto {
		e, err := s.open(ctx, log)
		return e, s, err
	}
	var have []candidate
	defer func() {
		for _, c := range have {
			c.Close()
		}
	}()
	present := s.present(ctx, log)
	for _, c := range present {
		if container == "" || len(present) == 1 || c.Has(ctx, container) {
			have = append(have, c)
		} else {
			c.Close()
		}
	}
	switch {
	case len(have) == 0:
		s.Kind = s.first()
		e, err := s.open(ctx, log) // it says itself what is missing
		return e, s, err
	case len(have) == 1 || container == "":
		found := have[0]
		have = have[1:]
		return found.Engine, found.spec, nil
	}
	return nil, s, &fail.Fault{Code: fail.Usage, What: fmt.Sprintf("choose an engine for container %q", container), Where: "source",
		Why: "containerd has a container of that name, and Docker has one, too", Remedy: "say which with --engine containerd or --engine docker"}
}

// reclaim has the engines take containers back into their care that migrations have left out of it which died with this host's agents. An
// engine that is not there now may have some, too: it is asked until it answers, or ctx ends.
func (s engineSpec) reclaim(ctx context.Context, log *slog.Logger) {
	spec := s
	spec.Kind = docker.Name
	for s.Kind == auto || s.Kind == docker.Name {
		if left, err := filepath.Glob(filepath.Join(s.StateDir, "shielded", "*")); err != nil || len(left) == 0 {
			return
		}
		err := spec.withNamespace().reclaimOnce(ctx, log)
		if err == nil {
			return
		}
		log.Warn("give containers of earlier migrations their restart policies back", "err", err)
		select {
		case <-time.After(reclaimEvery):
		case <-ctx.Done():
			return
		}
	}
}

// reclaimEvery is how often an engine is asked that is not there.
const reclaimEvery = 15 * time.Second

func (s engineSpec) reclaimOnce(ctx context.Context, log *slog.Logger) error {
	e, err := s.open(ctx, log)
	if err != nil {
		return err
	}
	defer e.Close()
	if r, ok := e.(engine.Shielder); ok {
		return r.Reclaim(ctx)
	}
	return nil
}

// candidate is an engine that may have the container.
type candidate struct {
	engine.Engine
	spec engineSpec
}

// present connects to the engines that there are.
func (s engineSpec) present(ctx context.Context, log *slog.Logger) (list []candidate) {
	for _, kind := range []string{containerd.Name, docker.Name} {
		spec := s
		spec.Kind = kind
		spec = spec.withNamespace()
		if e, err := spec.open(ctx, log); err == nil {
			list = append(list, candidate{e, spec})
		} else {
			log.Debug("engine is not there", "engine", kind, "err", err)
		}
	}
	return list
}

// first is the engine to name in an error when none has the container: Docker where there is only that.
func (s engineSpec) first() string {
	if _, err := os.Stat(s.Address); err == nil {
		return containerd.Name
	}
	if _, err := os.Stat(s.Socket); err == nil {
		return docker.Name
	}
	return containerd.Name
}
