// Package docker is the migration engine for Docker Engine.
//
// New connects to a daemon; the Engine then does what package engine asks of one. Containers are known by their names: the
// daemon at the destination gives them another id.
//
// The daemon's own checkpoints stop a container for long, lose what it changed in its files, and have its restart policy and
// its monitor act on it. So at the source the daemon only pauses the container; it is dumped beside the daemon, through the
// directory in which the daemon lets runc keep its state. At the destination the daemon does all: it creates the container, and
// starts it with a checkpoint that lies where it expects one.
//
// Where things lie:
//
//	docker.go   options, connection, time limits; dial.go waits for a daemon that is being started anew
//	info.go     versions, and what of the daemon makes restores possible
//	inspect.go  a container as a portable description; spec.go, network.go and options.go help
//	store.go    images and RW layers, which are the daemon's own (image.go) or in containerd (snapshots.go)
//	handles.go  what a dump needs
//	pause.go lock.go shield.go retire.go                    the rest of the source
//	way.go      how this daemon restores, and which networks that bars
//	check.go ingest.go load.go create.go safe.go task.go unpacked.go adopt.go discard.go   the destination
//	beside.go   what is done of a container while the daemon is away, or has forgotten it
//
// A call that asks the daemon anything has a time limit of its own, but for StartTask, which the caller bounds.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/client"

	"migrate/internal/engine"
)

// Name is the engine's name in descriptions and reports.
const Name = "docker"

// Namespace is that of Docker's containers in containerd, unless the daemon is told otherwise. Descriptions name it: Docker itself
// has none.
const Namespace = "moby"

// Defaults of Options.
const (
	DefaultSocket   = "/run/docker.sock"
	defaultLockDir  = "/run/migrate/lock"
	defaultSpool    = "/var/lib/migrate/docker"
	defaultShields  = "/var/lib/migrate/shielded"
	defaultExecRoot = "/run/docker"
	defaultRoot     = "/var/lib/docker"
	defaultPidFile  = "/run/docker.pid"

	defaultContainerd = "/run/containerd/containerd.sock"
)

// Time limits.
const (
	connectLimit = 5 * time.Second
	callLimit    = 30 * time.Second
	loadLimit    = 30 * time.Minute
	killLimit    = 60 * time.Second
)

// Options says where the daemon and the tools beside it are. Empty fields take the defaults.
type Options struct {
	Socket    string
	Namespace string // of the daemon's containers in containerd
	Runc      string // binary, looked up in PATH
	CRIU      string // binary, looked up in PATH
	ExecRoot  string // the daemon's, holds runc's state
	LockDir   string
	Spool     string // takes layers of images until the daemon loads them
	Shields   string // takes notes of restart policies that are turned off for a while, see Shield
	PidFile   string // the daemon's, written anew whenever it is started
	Unasked   bool   // New does not insist on a daemon that answers: what is asked of the Engine has to do without
	// Containerd is the socket of the containerd in which the daemon keeps images, if it does; default: found out.
	Containerd string
	Logger     *slog.Logger
}

func (o *Options) setDefaults() {
	fill := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	fill(&o.Socket, DefaultSocket)
	fill(&o.Namespace, Namespace)
	fill(&o.Runc, "runc")
	fill(&o.CRIU, "criu")
	fill(&o.ExecRoot, defaultExecRoot)
	fill(&o.LockDir, defaultLockDir)
	fill(&o.Spool, defaultSpool)
	fill(&o.Shields, defaultShields)
	fill(&o.PidFile, defaultPidFile)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Engine is the daemon on this host.
type Engine struct {
	opts Options
	api  *client.Client
	log  *slog.Logger
	root string // the daemon's data

	driver   string // of its storage
	store    store
	storeErr error // why containers cannot be moved with that driver
}

var _ engine.Engine = (*Engine)(nil)

// New connects to the daemon. The error says what is not there and what to do about it.
func New(ctx context.Context, opts Options) (*Engine, error) {
	opts.setDefaults()
	if err := checkSocket(opts.Socket); err != nil && !opts.Unasked {
		return nil, err
	}
	api, err := client.New(client.WithHost("unix://"+opts.Socket), client.WithDialContext(dialer{opts.Socket, waits}.dial))
	if err != nil {
		return nil, fmt.Errorf("connect to Docker at %s: %w", opts.Socket, err)
	}
	e := &Engine{opts: opts, api: api, log: opts.Logger, root: defaultRoot}
	ctx, cancel := context.WithTimeout(hurried(ctx), connectLimit)
	defer cancel()
	info, err := api.Info(ctx, client.InfoOptions{})
	switch {
	case err == nil:
		e.root, e.driver = info.Info.DockerRootDir, info.Info.Driver
		e.store, e.storeErr = e.openStore(ctx, info.Info)
	case !opts.Unasked:
		api.Close()
		return nil, fmt.Errorf("daemon of Docker does not answer at %s: %w: is it running (systemctl status docker)?", opts.Socket, err)
	}
	if err != nil { // what is asked of this Engine needs neither images nor files
		e.store, e.storeErr = &overlayStore{root: e.root, api: api}, fmt.Errorf("find out how Docker keeps images: %w", err)
	}
	return e, nil
}

func checkSocket(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no Docker socket at %s: start Docker, or name its socket", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the Docker socket %s may not be read: run as root", path)
	case err != nil:
		return fmt.Errorf("look at Docker's socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket: name Docker's", path)
	}
	return nil
}

// Close ends the connection.
func (e *Engine) Close() error { return errors.Join(e.store.close(), e.api.Close()) }

func (e *Engine) call(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, limit)
}

// what names a container in an error.
func what(name string) string { return fmt.Sprintf("Docker container %q", name) }

// runtimeRoot is where runc keeps the state of a container: where the daemon lets it (moby, daemon/runtime_unix.go), or where shims do
// that the daemon knows by no more than their name (containerd, cmd/containerd-shim-runc-v2/process, RuncRoot).
func (e *Engine) runtimeRoot(id string) string {
	byName := filepath.Join(shimRoot, e.opts.Namespace)
	if _, err := os.Stat(filepath.Join(byName, id)); err == nil && id != "" {
		return byName
	}
	return filepath.Join(e.opts.ExecRoot, "runtime-runc", e.opts.Namespace)
}

const shimRoot = "/run/containerd/runc"

// containerDir is where the daemon keeps a container's own files.
func (e *Engine) containerDir(id string) string { return filepath.Join(e.root, "containers", id) }
