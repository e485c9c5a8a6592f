package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"migrate/internal/engine"
	"migrate/internal/engine/containerd"
	"migrate/internal/fail"
)

// Where things are kept unless flags say otherwise.
const (
	defaultStateDir = "/var/lib/migrate" // key, peers, tokens, outcomes: survives reboots
	defaultRunDir   = "/run/migrate"     // stages and locks: lost at a reboot, like what they belong to
	defaultLogDir   = "/var/log/migrate" // CRIU's logs of failed migrations
)

// engineSpec says how to reach an engine. A guard gets it as JSON, so that it can reach the engine after its agent died.
type engineSpec struct {
	Kind      string `json:"kind"`
	Address   string `json:"address"`
	Namespace string `json:"namespace"`
	RunDir    string `json:"run_dir,omitempty"`
	LogDir    string `json:"log_dir,omitempty"`
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
	if s.Kind != containerd.Name {
		return nil, fmt.Errorf("engine %q is unknown", s.Kind)
	}
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

func namespaceFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Value: containerd.DefaultNamespace, Usage: "containerd `NAMESPACE` of the container", EnvVars: []string{"CONTAINERD_NAMESPACE"}}
}

// specOf makes the engine's specification from a command's flags.
func specOf(c *cli.Context) engineSpec {
	return engineSpec{
		Kind: containerd.Name, Address: c.String("address"), Namespace: c.String("namespace"),
		RunDir: c.String("run-dir"), LogDir: c.String("log-dir"),
	}
}
