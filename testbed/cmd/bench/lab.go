package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// A lab is the hosts with everything that the tools need.
type lab struct {
	options
	rig  *rig.Rig
	a, b *testbed.Host // containers start on a
	c    *testbed.Host // for clients; nil unless they are measured
	used []tool
	seed uint64 // of the last container
}

// setUp raises the hosts and prepares the tools.
func setUp(ctx context.Context, o options) (*lab, error) {
	l := &lab{options: o}
	r, err := rig.Raise(ctx, rig.Options{Name: o.name, Hosts: l.hosts(), Link: o.link, Images: l.images(), Packages: l.packages(), Binary: o.binary})
	if err != nil {
		return nil, err
	}
	l.rig, l.a, l.b, l.c = r, r.Bed.Host("a"), r.Bed.Host("b"), r.Bed.Host("c")
	if err := l.prepare(ctx); err != nil {
		return nil, errors.Join(err, l.close(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (l *lab) prepare(ctx context.Context) error {
	for _, name := range l.tools {
		t := makeTool[name](l)
		l.used = append(l.used, t)
		if err := t.prepare(ctx); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
	}
	return nil
}

// packages are Debian packages that only some tools need: the hosts' root is another one with them, and takes its time
// to be made, once.
func (l *lab) packages() []string {
	if slices.Contains(l.tools, toolPodman) {
		return []string{"podman"}
	}
	return nil
}

func (l *lab) images() []string {
	names := []string{testbed.ImageTools}
	if slices.Contains(l.measures, measureLoad) {
		names = append(names, testbed.ImageRedis)
	}
	if slices.Contains(l.measures, measurePostgres) {
		names = append(names, testbed.ImageDatabases)
	}
	return names
}

// close takes everything down.
func (l *lab) close(ctx context.Context) error {
	for _, t := range l.used {
		t.stop()
	}
	return l.rig.Close(ctx)
}

func run(ctx context.Context, h *testbed.Host, argv ...string) (string, error) {
	return rig.Run(ctx, h, argv...)
}

// script runs a shell script in a host; bash, because it tells the time without a process.
func script(ctx context.Context, h *testbed.Host, text string, args ...string) (string, error) {
	return run(ctx, h, append([]string{"bash", "-euc", text, "script"}, args...)...)
}

// eventually waits until is says so.
func eventually(ctx context.Context, what string, is func() bool) error {
	return rig.Eventually(ctx, what, func() (bool, error) { return is(), nil })
}
