// Package containerd is the migration engine for containerd and runc.
//
// New connects to a daemon; the Engine then does what package engine asks of one. Containers are those of one containerd
// namespace, made by nerdctl, ctr or any other client, and run by io.containerd.runc.v2, or our shim, on a snapshotter that keeps the
// RW layer in an overlay upper directory.
//
// Where things lie:
//
//	containerd.go  options, connection, time limits
//	names.go       what a peer's names must look like before they reach a path
//	info.go        versions of daemon, runc, CRIU and kernel
//	inspect.go     a container as a portable description; status.go, snapshot.go, image.go and network.go help
//	handles.go     what a dump needs; runc.go and cgroup.go help
//	pause.go lock.go retire.go unnamed.go              the rest of the source
//	check.go ingest.go prepare.go netns.go register.go task.go runtime.go stdio.go adopt.go   the destination, in its order
//
// A call that asks containerd anything has a time limit of its own. The two that take as long as the content they move
// are bounded by the caller's context: IngestBlob and StartTask.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"migrate/internal/cni"
	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
)

// Name is the engine's name in descriptions and reports.
const Name = "containerd"

// Defaults of Options.
const (
	DefaultAddress   = "/run/containerd/containerd.sock"
	DefaultNamespace = "default"
	defaultStateDir  = "/run/containerd"
	defaultLogDir    = "/var/log/migrate"
	defaultLockDir   = "/run/migrate/lock"
)

// Time limits.
const (
	connectLimit = 5 * time.Second
	callLimit    = 30 * time.Second
	unpackLimit  = 30 * time.Minute
	createLimit  = 2 * time.Minute
	killLimit    = 20 * time.Second
)

// Options says where the daemon and the tools beside it are. Empty fields take the defaults.
type Options struct {
	Address   string
	Namespace string
	Runc      string // binary, looked up in PATH
	CRIU      string // binary, looked up in PATH
	StateDir  string // containerd's state, holds the bundles
	LogDir    string // takes the output of containers whose client stayed behind at the source
	LockDir   string

	// Drain is the command that reads a container's output while nobody is attached to it (package drain), to which a job is
	// added. Without it, the output of containers whose client stayed behind goes straight to a file, and nobody can attach.
	Drain []string

	CNIConfDir  string
	CNIBinDirs  []string
	CNICacheDir string

	// TagImages lets a peer's image name be given to the image it sent when the name is free here. Without it an
	// image gets a name that holds its digest, so that nobody who later asks for the name gets the peer's content.
	TagImages bool

	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	fill := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	fill(&o.Address, DefaultAddress)
	fill(&o.Namespace, DefaultNamespace)
	fill(&o.Runc, "runc")
	fill(&o.CRIU, "criu")
	fill(&o.StateDir, defaultStateDir)
	fill(&o.LogDir, defaultLogDir)
	fill(&o.LockDir, defaultLockDir)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Engine is one containerd namespace on this host.
type Engine struct {
	opts   Options
	client *client.Client
	images *imagestore.Store
	cni    *cni.Host
	log    *slog.Logger

	baseline func() (*cni.Baseline, error) // made once, when first asked for
	netns    heldNamespaces
	shims    shims
}

var _ engine.Engine = (*Engine)(nil)

// New connects to the daemon. The error says what is not there and what to do about it.
func New(ctx context.Context, opts Options) (*Engine, error) {
	opts.setDefaults()
	if err := validName("containerd namespace", opts.Namespace); err != nil {
		return nil, err
	}
	if err := checkSocket(opts.Address); err != nil {
		return nil, err
	}
	c, err := client.New(opts.Address, client.WithTimeout(connectLimit), client.WithDefaultNamespace(opts.Namespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", opts.Address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if _, err := c.Version(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("containerd does not answer at %s: %w: is it running (systemctl status containerd)?",
			opts.Address, err)
	}
	return &Engine{
		opts: opts, client: c, images: imagestore.New(c), log: opts.Logger,
		cni: cni.New(cni.Config{
			ConfDir: opts.CNIConfDir, BinDirs: opts.CNIBinDirs, CacheDir: opts.CNICacheDir, Logger: opts.Logger,
		}),
		baseline: sync.OnceValues(cni.NewBaseline),
	}, nil
}

func checkSocket(address string) error {
	info, err := os.Stat(address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no containerd socket at %s: start containerd, or name its socket", address)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("containerd socket %s may not be read: run as root", address)
	case err != nil:
		return fmt.Errorf("look at containerd socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket: name containerd's", address)
	}
	return nil
}

// Close ends the connection.
func (e *Engine) Close() error {
	e.netns.close()
	return e.client.Close()
}

// call bounds one call and puts it into the engine's containerd namespace.
func (e *Engine) call(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(ctx, e.opts.Namespace), limit)
}

// unlimited is for calls that the caller's context alone bounds.
func (e *Engine) unlimited(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.opts.Namespace)
}

// what names a container in an error.
func (e *Engine) what(id string) string {
	return fmt.Sprintf("container %q in namespace %q", id, e.opts.Namespace)
}

func (e *Engine) bundleDir(id string) string {
	return filepath.Join(e.opts.StateDir, "io.containerd.runtime.v2.task", e.opts.Namespace, id)
}
