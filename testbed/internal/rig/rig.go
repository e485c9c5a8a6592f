package rig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"migrate/testbed"
)

// Options say what hosts have.
type Options struct {
	Name     string   // of the testbed; a running one of that name is replaced
	Hosts    []string // default: a and b
	Link     string   // rate, as testbed.Options has it
	Images   []string
	Packages []string
	Docker   testbed.Docker // default: none
	Binary   string         // built migrate; empty: it is compiled
}

// A Rig is hosts with our program and the test program installed.
type Rig struct {
	Bed      *testbed.Testbed
	Work     string // temporary directory of the machine
	Workload string // file of the test program, which runs on the machine as well
}

// Raise compiles the programs and raises the hosts. If that fails nothing of it is left.
func Raise(ctx context.Context, o Options) (*Rig, error) {
	work, err := os.MkdirTemp("", "migrate-"+o.Name+"-")
	if err != nil {
		return nil, err
	}
	r := &Rig{Work: work}
	if err := r.raise(ctx, o); err != nil {
		return nil, errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	return r, nil
}

func (r *Rig) raise(ctx context.Context, o Options) (err error) {
	if o.Binary == "" {
		if o.Binary, err = r.build(ctx, "migrate"); err != nil {
			return err
		}
	}
	if r.Workload, err = r.build(ctx, "migrate/testbed/cmd/workload"); err != nil {
		return err
	}
	hosts := o.Hosts
	if hosts == nil {
		hosts = []string{"a", "b"}
	}
	r.Bed, err = testbed.Up(ctx, testbed.Options{
		Name: o.Name, Hosts: hosts, Link: o.Link, Images: o.Images, Packages: o.Packages, Docker: o.Docker, Workload: r.Workload,
		Binaries: map[string]string{"migrate": o.Binary, "workload": r.Workload},
		Replace:  true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("bring the testbed up: %w", err)
	}
	return nil
}

// build compiles a program of this module, statically, since the hosts have another Debian than the machine.
func (r *Rig) build(ctx context.Context, pkg string) (string, error) {
	path := filepath.Join(r.Work, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile %s (run this inside the project): %w: %s", pkg, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}

// Close takes everything down.
func (r *Rig) Close(ctx context.Context) error {
	var err error
	if r.Bed != nil {
		err = r.Bed.Down(ctx)
	}
	return errors.Join(err, os.RemoveAll(r.Work))
}
