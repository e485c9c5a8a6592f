package criu

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// TCPMode says what becomes of established connections.
type TCPMode string

// The TCP modes; they are the values of --tcp.
const (
	TCPEstablished TCPMode = "established"
	TCPClose       TCPMode = "close"
)

// GhostLimit is the size in bytes up to which deleted files that are still open travel inside the image set.
const GhostLimit = 256 << 20

// Config is a CRIU configuration file: one option a line, long names without dashes, values after a blank
// (criu/config.c). In RPC mode, which runc uses, it overrides what the RPC request says.
type Config struct {
	TCP          TCPMode
	ActionScript string // absolute path
	Base         []byte // the host's own configuration, whose options are kept unless they are ours to set

	// LazyPages makes a restore leave memory that may come later to whoever listens at lazy-pages.socket in its work
	// directory, and a dump leave it in the tasks.
	LazyPages bool
	// WorkDir is where CRIU works and logs, an absolute path without quotes; "" leaves it to the runtime.
	WorkDir string
	// External are values of CRIU's option of that name: mounts whose content is not its business.
	External []string
	// NoCgroups leaves the tasks of a restore in the control group in which it is run, whatever the image set says of theirs.
	NoCgroups bool

	noServer bool   // of a dump with LazyPages: see lazy.go
	parent   string // of a dump with a claimed parent, see claim.go: its directory as seen from the image set's
}

// ours are the options that the host's configuration cannot set for a migration: hooks and locking are part of the
// hand-over, and a log level above runc's makes dumps slow or fail.
var ours = map[string]bool{
	"action-script": true, "network-lock": true, "tcp-established": true, "tcp-close": true, "leave-running": true,
	"leave-stopped": true, "lazy-pages": true, "images-dir": true, "work-dir": true, "log-level": true, "verbosity": true,
	"log-file": true, "file-locks": true, "link-remap": true, "ghost-limit": true, "page-server": true, "shell-job": true,
	"prev-images-dir": true, "track-mem": true, "auto-dedup": true, "stream": true, "tree": true, "pidfile": true,
	"ps-socket": true, "address": true, "port": true, "status-fd": true,
}

// Write stores the configuration readable by root only.
func (c Config) Write(path string) error {
	if strings.ContainsAny(c.WorkDir, "\"\\\n") {
		return fmt.Errorf("write CRIU configuration: work directory %q: quotes, backslashes and newlines are not allowed", c.WorkDir)
	}
	var b bytes.Buffer
	sc := bufio.NewScanner(bytes.NewReader(c.Base))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		words := strings.FieldsFunc(line, isBlank)
		if len(words) == 0 || strings.HasPrefix(line, "#") || ours[strings.TrimLeft(words[0], "-")] {
			continue
		}
		b.WriteString(line + "\n")
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read the host's CRIU configuration: %w", err)
	}
	if c.TCP == TCPClose {
		b.WriteString("tcp-close\n")
	} else {
		b.WriteString("tcp-established\n")
	}
	// the network is locked by us before CRIU starts and stays so until the hand-over is over
	b.WriteString("network-lock skip\nfile-locks\nlink-remap\n")
	b.WriteString("ghost-limit " + strconv.Itoa(GhostLimit) + "\n")
	b.WriteString("action-script \"" + c.ActionScript + "\"\n")
	if c.LazyPages {
		b.WriteString("lazy-pages\n")
	}
	if c.parent != "" {
		b.WriteString("track-mem\nprev-images-dir \"" + c.parent + "\"\n")
	}
	if c.noServer {
		b.WriteString("ps-socket " + strconv.Itoa(noSocket) + "\n")
	}
	for _, x := range c.External {
		b.WriteString("external " + x + "\n")
	}
	if c.NoCgroups {
		b.WriteString("manage-cgroups ignore\n")
	}
	if c.WorkDir != "" {
		b.WriteString("work-dir \"" + c.WorkDir + "\"\n")
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write CRIU configuration: %w", err)
	}
	return nil
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' || r == '=' }
