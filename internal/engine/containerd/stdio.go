package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cio"
	"golang.org/x/sys/unix"

	"migrate/internal/drain"
	"migrate/internal/engine"
)

// fifoDir holds the FIFOs of containers whose client stayed behind.
const fifoDir = "/run/migrate/stdio"

// streams says where a restored task's standard streams go.
//
// File and binary URIs are kept, being the shim's own business. FIFOs were read by a client at the source; the container gets
// FIFOs again, for another client to attach to, and a process that reads them into a log file while there is none (package
// drain). Nobody writes to its input, so that a container reading it waits as it did, where /dev/null would tell it that its
// user is gone. A container without any stream stays without.
func (e *Engine) streams(id string, s engine.Stdio) cio.Config {
	stream := func(what, name string) string {
		u, err := url.Parse(what)
		switch {
		case what == "":
			return ""
		case err == nil && (u.Scheme == "file" || u.Scheme == "binary"):
			return what
		case err == nil && u.Scheme == "" && len(e.opts.Drain) > 0:
			return e.fifo(id, name)
		}
		return fileURI(e.logPath(id))
	}
	out := cio.Config{Terminal: s.Terminal, Stdout: stream(s.Stdout, "stdout")}
	if s.Stdin != "" {
		out.Stdin = e.fifo(id, "stdin")
	}
	if s.Terminal {
		if out.Stdout == "" { // the shim wants to copy a console to somewhere
			out.Stdout = fileURI(e.logPath(id))
		}
		out.Stdout = terminalLog(out.Stdout)
		return out
	}
	out.Stderr = stream(s.Stderr, "stderr")
	return out
}

func (e *Engine) logPath(id string) string {
	return filepath.Join(e.opts.LogDir, e.opts.Namespace+"-"+id+".log")
}

func (e *Engine) fifo(id, name string) string {
	return filepath.Join(fifoDir, e.opts.Namespace+"-"+id+"-"+name)
}

func fileURI(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// terminalLog turns a file URI into what the shim can copy a console to. It takes FIFOs, which block the container
// once they are full, and binaries: one that appends its descriptor 3 to the file, and closes 5 to say that it is ready
// (containerd, cmd/containerd-shim-runc-v2/runc/platform.go, CopyConsole).
func terminalLog(stream string) string {
	u, err := url.Parse(stream)
	if err != nil || u.Scheme != "file" {
		return stream
	}
	quoted := "'" + strings.ReplaceAll(u.Path, "'", `'\''`) + "'"
	script := "exec 5>&-; exec cat <&3 >>" + quoted
	return (&url.URL{Scheme: "binary", Path: "/bin/sh", RawQuery: url.Values{"-c": {script}}.Encode()}).String()
}

// makeStreams makes what the shim expects to find. stop ends what reads the container's output, for when no container comes
// of it; otherwise that ends with the container.
func (e *Engine) makeStreams(ctx context.Context, id string, c cio.Config) (stop func(), err error) {
	for _, stream := range []string{fileURI(e.logPath(id)), c.Stdout, c.Stderr} {
		u, err := url.Parse(stream)
		if err != nil || u.Scheme != "file" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
			return nil, fmt.Errorf("make directory of the container's log: %w", err)
		}
	}
	job := drain.Job{Log: e.logPath(id)}
	for _, stream := range []string{c.Stdin, c.Stdout, c.Stderr} {
		if filepath.Dir(stream) != fifoDir {
			continue
		}
		if err := makeFIFO(stream); err != nil {
			return nil, err
		}
		if stream == c.Stdin {
			job.Remove = append(job.Remove, stream)
		} else {
			job.FIFOs = append(job.FIFOs, stream)
		}
	}
	if len(job.FIFOs) == 0 {
		return func() {}, nil
	}
	return drain.Start(ctx, e.opts.Drain, job)
}

func makeFIFO(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of the container's streams: %w", err)
	}
	// one that is there belonged to a container that is gone, and may still have its reader
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove an earlier stream: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("make the container's stream %s: %w", path, err)
	}
	return nil
}

// removeStreams takes the container's FIFOs away, if it had some of ours. Logs stay.
func (e *Engine) removeStreams(id string) error {
	var errs []error
	for _, name := range []string{"stdin", "stdout", "stderr"} {
		if err := os.Remove(e.fifo(id, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove a stream of %s: %w", e.what(id), err))
		}
	}
	return errors.Join(errs...)
}

// handed gives a task streams that exist, without a copy loop in this process.
type handed struct{ config cio.Config }

var _ cio.IO = handed{}

func (h handed) Config() cio.Config { return h.config }
func (handed) Cancel()              {}
func (handed) Wait()                {}
func (handed) Close() error         { return nil }

// OutputLog implements engine.Engine: where output goes is the client's business, who finds what the source's host has there.
func (e *Engine) OutputLog(context.Context, *engine.Container) (string, error) { return "", nil }
