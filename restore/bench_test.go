package restore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	pb "google.golang.org/protobuf/proto"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/layers"
	"migrate/restore"
	"migrate/transfer"
)

// TestMain puts a criu into PATH that says nothing: the agent only makes it fill its cache.
func TestMain(m *testing.M) {
	tmp, err := os.MkdirTemp("", "restore-test-")
	if err == nil {
		err = os.WriteFile(filepath.Join(tmp, "criu"), []byte("#!/bin/sh\n"), 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("PATH", tmp+":"+os.Getenv("PATH"))
	os.Setenv("TMPDIR", tmp)
	code := m.Run()
	os.RemoveAll(tmp)
	os.Exit(code)
}

const (
	testID   = "0123456789abcdef0123456789abcdef"
	patience = 30 * time.Second
)

// bench is a destination agent on a fake engine, and the session of a source that a test plays by hand.
type bench struct {
	t        *testing.T
	ctx      context.Context
	src      *fake.Engine
	dst      *fake.Engine
	world    *fake.World
	run      string
	outcomes *restore.Outcomes
	c        engine.Container
	before   []string

	sess *transfer.Session
	done chan error
	sums []proto.StreamSum
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the destination mounts a stage, which needs root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	b := &bench{t: t, ctx: ctx, world: fake.NewWorld(), run: t.TempDir(), done: make(chan error, 1)}
	b.src, b.dst = b.world.Host("src"), b.world.Host("dst")
	b.c = fake.Container("web")
	b.c.Network = engine.Network{Mode: engine.NetworkNone}
	b.c.Spec = goodSpec(t)
	b.src.AddContainer(b.c, engine.StatusRunning)
	b.before = b.dst.Left()
	var err error
	if b.outcomes, err = restore.OpenOutcomes(filepath.Join(t.TempDir(), "o")); err != nil {
		t.Fatal(err)
	}
	return b
}

// start opens a session and leaves its other end to the agent.
func (b *bench) start() {
	b.t.Helper()
	in, toDst := pipe(b.t)
	fromDst, out := pipe(b.t)
	o := transfer.Options{Keepalive: 50 * time.Millisecond, CloseTimeout: time.Second}
	go func() {
		sess, err := transfer.Stdio(b.ctx, in, out, transfer.Destination, o)
		if err != nil {
			b.done <- err
			return
		}
		_, err = restore.Recv(b.ctx, sess, restore.Options{
			Outcomes: b.outcomes, RunDir: b.run, LogDir: filepath.Join(b.run, "log"),
			OpenEngine: func(context.Context, string, string) (engine.Engine, error) { return b.dst, nil },
		})
		b.done <- err
	}()
	var err error
	if b.sess, err = transfer.Stdio(b.ctx, fromDst, toDst, transfer.Source, o); err != nil {
		b.t.Fatal(err)
	}
}

func pipe(t *testing.T) (*os.File, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

func (b *bench) say(k proto.Kind, m any) {
	b.t.Helper()
	if err := proto.Send(b.ctx, b.sess, k, m); err != nil {
		b.t.Fatal(err)
	}
}

// hear waits for a message.
func (b *bench) hear(want proto.Kind) {
	b.t.Helper()
	k, p, err := b.sess.RecvControl(b.ctx)
	if err != nil || proto.Kind(k) != want {
		b.t.Fatalf("received %v %s, %v; want %v", proto.Kind(k), p, err, want)
	}
}

func (b *bench) offer(change func(*proto.OfferMsg)) {
	b.t.Helper()
	info, err := b.src.Info(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	o := proto.OfferMsg{ID: testID, Container: b.c, Source: info, Memory: 1 << 20, HoldLimit: patience, Mode: proto.ModeStop}
	if change != nil {
		change(&o)
	}
	b.say(proto.Offer, o)
}

// stream sends one and accounts for it if it is part of the seal.
func (b *bench) stream(kind uint16, meta any, write func(w *transfer.StreamWriter) error) {
	b.t.Helper()
	m, err := json.Marshal(meta)
	if err != nil {
		b.t.Fatal(err)
	}
	// a destination that has given up takes no more; the test sees why from what Recv returns
	w, err := b.sess.OpenStream(b.ctx, kind, m, transfer.StreamOptions{})
	if err != nil {
		b.t.Logf("stream of kind %d: %v", kind, err)
		return
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		b.t.Logf("stream of kind %d: %v", kind, err)
		return
	}
	b.sums = append(b.sums, proto.StreamSum{ID: w.ID(), Kind: kind, Bytes: w.Stats().Raw, Sum: w.Sum()})
}

func (b *bench) blobs() {
	b.t.Helper()
	for _, blob := range b.c.Image.Blobs {
		r, err := b.src.OpenBlob(b.ctx, blob)
		if err != nil {
			b.t.Fatal(err)
		}
		b.stream(proto.StreamBlob, blob, func(w *transfer.StreamWriter) error { _, err := io.Copy(w, r); return err })
	}
	b.sums = nil
}

func (b *bench) round(frozen bool) {
	b.t.Helper()
	dir := b.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.stream(proto.StreamRW, proto.RoundMeta{Frozen: frozen}, func(w *transfer.StreamWriter) error {
		_, _, err := layers.WriteDelta(b.ctx, w, dir, nil, layers.Options{})
		return err
	})
}

func (b *bench) pages(name string, off int64, data []byte) {
	b.t.Helper()
	b.stream(proto.StreamPages, proto.FileMeta{Name: name}, func(w *transfer.StreamWriter) error { return w.Place(data, off) })
}

// emptyCore is a core image that says nothing of a process.
var emptyCore = coreImage(&core.CoreEntry{})

// coreImage encodes a core image as CRIU does: two magic numbers, and the record after its length.
func coreImage(e *core.CoreEntry) []byte { return image(coreMagic, e) }

const coreMagic = 0x55053847

// image is one of CRIU's with one record.
func image(magic uint32, m pb.Message) []byte {
	body, err := pb.MarshalOptions{AllowPartial: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	b := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	b = binary.LittleEndian.AppendUint32(b, magic)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(body))), body...)
}

func (b *bench) files(names ...string) {
	b.t.Helper()
	dir := b.t.TempDir()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), emptyCore, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	b.stream(proto.StreamFiles, struct{}{}, func(w *transfer.StreamWriter) error {
		_, _, err := criu.WriteFiles(w, dir)
		return err
	})
}

// upTo plays a good source up to, and without, a step.
func (b *bench) upTo(step string) {
	b.t.Helper()
	var page = bytes.Repeat([]byte{7}, 8192)
	for _, s := range []struct {
		name string
		do   func()
	}{
		{"offer", func() { b.offer(nil); b.hear(proto.Prepared) }},
		{"blobs", b.blobs},
		{"sent", func() { b.say(proto.Sent, nil); b.hear(proto.Synced) }},
		{"frozen", func() { b.say(proto.Frozen, nil) }},
		{"round", func() { b.round(true) }},
		{"pages", func() { b.pages("pages-1.img", 0, page) }},
		{"files", func() { b.files("core-1.img") }},
		{"sealed", func() { b.seal(nil) }},
		{"go", func() { b.hear(proto.Ready); b.say(proto.Go, nil) }},
	} {
		if s.name == step {
			return
		}
		s.do()
	}
	b.t.Fatalf("no step %q", step)
}

func (b *bench) seal(change func(*proto.SealedMsg)) {
	b.t.Helper()
	msg := proto.SealedMsg{Files: []proto.FileSize{{Name: "pages-1.img", Size: 8192}}, Streams: len(b.sums), Root: proto.Root(b.sums)}
	if change != nil {
		change(&msg)
	}
	b.say(proto.Sealed, msg)
}

// refused waits for the agent's end, which is an error with these words, and looks whether anything is left.
func (b *bench) refused(words string) *fail.Fault {
	b.t.Helper()
	var err error
	select {
	case err = <-b.done:
	case <-time.After(patience):
		b.t.Fatal("the destination hangs")
	}
	var f *fail.Fault
	if !errors.As(err, &f) || !strings.Contains(f.Error(), words) {
		b.t.Errorf("the destination ended with %v, want %q", err, words)
	}
	b.clean()
	return f
}

func (b *bench) clean() {
	b.t.Helper()
	if left := b.dst.Left(); !slices.Equal(left, b.before) {
		b.t.Errorf("left at the destination: %v", left)
	}
	if runs := b.world.Runs("web"); !slices.Equal(runs, []string{"src"}) {
		b.t.Errorf("it runs on %v", runs)
	}
	entries, _ := os.ReadDir(b.run)
	for _, e := range entries {
		if e.Name() != "criu" && e.Name() != "log" {
			b.t.Errorf("left at the destination: %s", e.Name())
		}
	}
	if confs, _ := os.ReadDir(filepath.Join(b.run, "criu")); len(confs) > 0 {
		b.t.Errorf("left at the destination: %v", confs)
	}
	if m, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(m), b.run) {
		b.t.Error("a mount is left")
	}
}

// awaitFrozen returns when the destination has taken FROZEN: it then makes the network.
func (b *bench) awaitFrozen() {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, ev := range b.world.History() {
			if ev.Host == "dst" && ev.Op == fake.OpSetupNetwork {
				return
			}
		}
	}
	b.t.Fatal("the destination does not take FROZEN")
}
