// Package fake is an engine without containers, for tests of what agents do with one.
//
// A World holds the hosts of a test. Each Engine is one host: containers, blobs, images, snapshots and namespaces are
// entries in maps, and every call can be made to fail:
//
//	world := fake.NewWorld()
//	src, dst := world.Host("src"), world.Host("dst")
//	src.AddContainer(fake.Container("web"), engine.StatusRunning)
//	dst.Fault = func(op string, n int) error { if op == fake.OpRegister { return errors.New("oops") }; return nil }
//	…
//	if err := world.Check(); err != nil { t.Fatal(err) } // a container ran twice at some moment
//
// The World writes down who ran what and when, in one order over all hosts.
package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"migrate/internal/engine"
)

// Name is the engine's name in descriptions.
const Name = "fake"

// The operations that Fault is asked about. Undos are called "undo " and the operation's name.
const (
	OpInfo          = "info"
	OpInspect       = "inspect"
	OpOpenBlob      = "open-blob"
	OpLock          = "lock"
	OpShield        = "shield"
	OpUnshield      = "unshield"
	OpDoubt         = "doubt"
	OpReclaim       = "reclaim"
	OpPause         = "pause"
	OpResume        = "resume"
	OpRetire        = "retire"
	OpCheckFree     = "check-free"
	OpMissingBlobs  = "missing-blobs"
	OpHold          = "hold"
	OpDiscard       = "discard"
	OpRelease       = "release"
	OpIngestBlob    = "ingest-blob"
	OpPrepareImage  = "prepare-image"
	OpForsake       = "forsake"
	OpPrepareRootfs = "prepare-rootfs"
	OpSetupNetwork  = "setup-network"
	OpRegister      = "register"
	OpPrepareTask   = "prepare-task"
	OpStartTask     = "start-task"
	OpAdopt         = "adopt"
)

// Engine is one host.
type Engine struct {
	// Fault is asked before the n-th call (from 1) of an operation; its error is the call's. It must be set before
	// the engine is used.
	Fault func(op string, n int) error
	// HoldRestore stands for a hook that holds the restore: StartTask calls it before the processes run, and its error
	// makes the restore fail.
	HoldRestore func(ctx context.Context, id string) error

	name  string
	world *World

	mu         sync.Mutex
	calls      map[string]int
	containers map[string]*container
	blobs      map[string][]byte
	images     map[string]string // name to digest
	snapshots  map[string]bool
	namespaces map[string]bool
	addresses  map[string]string // network and address to container
	leases     map[string]bool
	locks      map[string]bool
	dirs       map[string]string // upper directories, by snapshot key
	nextPid    int
}

// container is one with its task.
type container struct {
	desc   engine.Container
	task   bool
	status engine.Status
	pid    int
}

var (
	_ engine.Engine   = (*Engine)(nil)
	_ engine.Shielder = (*Engine)(nil)
)

func newEngine(w *World, name string) *Engine {
	return &Engine{
		name: name, world: w, nextPid: 1000,
		calls: map[string]int{}, containers: map[string]*container{}, blobs: map[string][]byte{},
		images: map[string]string{}, snapshots: map[string]bool{}, namespaces: map[string]bool{},
		addresses: map[string]string{}, leases: map[string]bool{}, locks: map[string]bool{}, dirs: map[string]string{},
	}
}

// enter begins an operation: it counts it, and returns the error that the test wants it to have.
func (e *Engine) enter(ctx context.Context, op, id string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	e.mu.Lock()
	e.calls[op]++
	n := e.calls[op]
	e.mu.Unlock()
	var err error
	if e.Fault != nil {
		err = e.Fault(op, n)
	}
	e.world.note(Event{Host: e.name, Op: op, ID: id, Err: err})
	if err != nil {
		return fmt.Errorf("%s of %q on %s: %w", op, id, e.name, err)
	}
	return nil
}

// undo makes the undo of an operation: idempotent, and able to fail.
func (e *Engine) undo(op, id string, f func()) engine.Undo {
	var once sync.Once
	return func(ctx context.Context) error {
		if err := e.enter(ctx, "undo "+op, id); err != nil {
			return err
		}
		once.Do(func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			f()
		})
		return nil
	}
}

// Forget drops what dies with the agent's process: its locks.
func (e *Engine) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.locks)
}

// Left lists everything this host has, sorted, for comparing before with after.
func (e *Engine) Left() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var left []string
	add := func(kind string, keys []string) {
		for _, key := range keys {
			left = append(left, kind+" "+key)
		}
	}
	add("container", slices.Collect(maps.Keys(e.containers)))
	add("blob", slices.Collect(maps.Keys(e.blobs)))
	add("image", slices.Collect(maps.Keys(e.images)))
	add("snapshot", slices.Collect(maps.Keys(e.snapshots)))
	add("namespace", slices.Collect(maps.Keys(e.namespaces)))
	add("address", slices.Collect(maps.Keys(e.addresses)))
	add("lease", slices.Collect(maps.Keys(e.leases)))
	slices.Sort(left)
	return left
}

// Close implements engine.Engine.
func (e *Engine) Close() error { return nil }
