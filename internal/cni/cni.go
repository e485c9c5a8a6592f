// Package cni gives containers the networks that CNI configurations on this host describe, with addresses chosen by
// the caller.
//
// An engine that moves a container asks Attached what the container's network namespace holds at the source, and Check,
// NewNamespace and Attach give it the same at the destination: the same networks by name, interfaces, addresses and MAC.
// Detach and RemoveNamespace take it back.
//
// Nothing is kept here between calls. What is attached where is read from libcni's result cache, which the plugins'
// callers (nerdctl, go-cni, this package) all write, and from the live namespace.
package cni

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
)

// Places that CNI's tools use unless told otherwise.
const (
	DefaultConfDir  = "/etc/cni/net.d"
	DefaultBinDir   = "/opt/cni/bin"
	debianBinDir    = "/usr/lib/cni"
	defaultCacheDir = "/var/lib/cni"
	defaultDataDir  = "/var/lib/cni/networks"
)

// pluginLimit bounds one plugin chain. The bridge plugin alone may wait 10 s for duplicate address detection.
const pluginLimit = 60 * time.Second

// Config says where this host keeps CNI's files. Empty fields take the usual places.
type Config struct {
	ConfDir  string // network configurations
	BinDirs  []string
	CacheDir string // libcni's, holds results/
	Logger   *slog.Logger
}

// Host is this host's CNI.
type Host struct {
	confDir  string
	binDirs  []string
	cacheDir string
	lib      *libcni.CNIConfig
	log      *slog.Logger
}

// New returns the host's CNI as cfg places it. It reads nothing yet.
func New(cfg Config) *Host {
	if cfg.ConfDir == "" {
		cfg.ConfDir = DefaultConfDir
	}
	if len(cfg.BinDirs) == 0 {
		cfg.BinDirs = []string{DefaultBinDir, debianBinDir}
	}
	if cfg.CacheDir == "" {
		cfg.CacheDir = defaultCacheDir
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Host{
		confDir:  cfg.ConfDir,
		binDirs:  cfg.BinDirs,
		cacheDir: cfg.CacheDir,
		lib:      libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, newExec(cfg.Logger)),
		log:      cfg.Logger,
	}
}

// newExec runs plugins with what they print on standard error sent to the log; libcni's own choice is this process's
// standard error, which belongs to the command line.
func newExec(log *slog.Logger) invoke.Exec {
	return &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: logWriter{log}}, PluginDecoder: version.PluginDecoder{}}
}

type logWriter struct{ log *slog.Logger }

var _ io.Writer = logWriter{}

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("cni plugin", "stderr", strings.TrimSpace(string(p)))
	return len(p), nil
}

func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, pluginLimit)
}
