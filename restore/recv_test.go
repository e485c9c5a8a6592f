package restore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/restore"
	"migrate/transfer"
)

func TestOffersThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*proto.OfferMsg)
		words  string
	}{
		{"id that is a path", func(o *proto.OfferMsg) { o.ID = "../../../../etc/x" }, "migration id"},
		{"short id", func(o *proto.OfferMsg) { o.ID = "00" }, "migration id"},
		{"negative memory", func(o *proto.OfferMsg) { o.Memory = -1 }, "sizes"},
		{"negative files", func(o *proto.OfferMsg) { o.Files = -1 }, "sizes"},
		{"memory that is not there", func(o *proto.OfferMsg) { o.Memory = 1 << 48 }, "MiB are"},
		{"memory that overflows", func(o *proto.OfferMsg) { o.Memory = 1<<62 + 1 }, ""},
		{"the largest memory", func(o *proto.OfferMsg) { o.Memory = 1<<63 - 1 }, ""},
		{"more files than there can be", func(o *proto.OfferMsg) { o.Files = 1<<63 - 1 }, "sizes"},
		{"files that do not fit", func(o *proto.OfferMsg) { o.Files = 1 << 49 }, "disk"},
		{"other architecture", func(o *proto.OfferMsg) { o.Source.Arch = "s390x" }, "architecture"},
		{"too many blobs", func(o *proto.OfferMsg) { o.Container.Image.Blobs = make([]engine.Blob, proto.MaxBlobs+1) }, "blobs"},
		{"no specification", func(o *proto.OfferMsg) { o.Container.Spec = json.RawMessage("null") }, "specification"},
		{"privileged", func(o *proto.OfferMsg) {
			o.Container.Spec = json.RawMessage(strings.ReplaceAll(string(o.Container.Spec), "CAP_CHOWN", "CAP_SYS_ADMIN"))
		}, "CAP_SYS_ADMIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.offer(c.change)
			if c.name == "files that do not fit" { // known only once there is a place for them
				b.hear(proto.Prepared)
				b.blobs()
				b.say(proto.Sent, nil)
			}
			b.hear(proto.Abort)
			b.refused(c.words)
		})
	}
}

func TestStreamsOutOfTurn(t *testing.T) {
	const early = "out of turn"
	for _, c := range []struct {
		name  string
		step  string
		do    func(b *bench)
		words string
	}{
		{"a blob that was not asked for", "blobs", func(b *bench) {
			b.stream(proto.StreamBlob, engine.Blob{Digest: "sha256:00", Size: 1}, func(w *transfer.StreamWriter) error { _, err := w.Write([]byte("x")); return err })
		}, early},
		{"a blob of another size", "blobs", func(b *bench) {
			blob := b.c.Image.Blobs[0]
			blob.Size++
			b.stream(proto.StreamBlob, blob, func(w *transfer.StreamWriter) error { _, err := w.Write(make([]byte, blob.Size)); return err })
		}, early},
		{"a blob of another content", "blobs", func(b *bench) {
			blob := b.c.Image.Blobs[0]
			b.stream(proto.StreamBlob, blob, func(w *transfer.StreamWriter) error { _, err := w.Write(make([]byte, blob.Size)); return err })
		}, "content"},
		{"a blob that breaks off", "blobs", func(b *bench) {
			b.stream(proto.StreamBlob, b.c.Image.Blobs[0], func(w *transfer.StreamWriter) error { return nil })
		}, "bytes"},
		{"a round that is none", "frozen", func(b *bench) {
			b.stream(proto.StreamRW, proto.RoundMeta{Round: 1}, func(w *transfer.StreamWriter) error { _, err := w.Write([]byte("no layer stream")); return err })
		}, "RW layer"},
		{"a round before the root file system", "blobs", func(b *bench) { b.round(false) }, early},
		{"memory before the root file system", "blobs", func(b *bench) { b.pages("pages-1.img", 0, []byte("x")) }, early},
		{"image files before the root file system", "blobs", func(b *bench) { b.files("core-1.img") }, early},
		{"a round of the running container after FROZEN", "round", func(b *bench) {
			b.awaitFrozen() // control messages and streams may overtake each other
			b.round(false)
		}, early},
		{"a kind that is not known", "sent", func(b *bench) {
			b.stream(99, struct{}{}, func(w *transfer.StreamWriter) error { return nil })
		}, "kind 99"},
		{"a name that is a path", "pages", func(b *bench) { b.pages("../../x", 0, []byte("x")) }, "file name"},
		{"an absolute name", "pages", func(b *bench) { b.pages("/tmp/x", 0, []byte("x")) }, "file name"},
		{"no name", "pages", func(b *bench) { b.pages("", 0, []byte("x")) }, "file name"},
		{"memory without a place", "pages", func(b *bench) {
			b.stream(proto.StreamPages, proto.FileMeta{Name: "pages-1.img"}, func(w *transfer.StreamWriter) error { _, err := w.Write([]byte("x")); return err })
		}, "without a place"},
		{"memory at the end of the world", "pages", func(b *bench) { b.pages("pages-1.img", 1<<63-8192, make([]byte, 4096)) }, "without a place"},
		{"the same file as memory and as a file", "sealed", func(b *bench) { b.files("pages-2.img", "core-1.img") }, "exists"},
		{"metadata that is none", "pages", func(b *bench) {
			b.stream(proto.StreamPages, []int{1}, func(w *transfer.StreamWriter) error { return nil })
		}, "decode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.upTo(c.step)
			c.do(b)
			b.hear(proto.Abort)
			b.refused(c.words)
		})
	}
}

func TestSealThatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(b *bench)
		change func(*proto.SealedMsg)
		words  string
	}{
		{"another root", nil, func(m *proto.SealedMsg) { m.Root = make([]byte, 32) }, "sealed"},
		{"no root", nil, func(m *proto.SealedMsg) { m.Root = nil }, "sealed"},
		{"fewer streams", nil, func(m *proto.SealedMsg) { m.Streams-- }, "sealed"},
		{"a negative number of streams", nil, func(m *proto.SealedMsg) { m.Streams = -1 }, "sealed"},
		{"a file that did not come", nil, func(m *proto.SealedMsg) {
			m.Files = append(m.Files, proto.FileSize{Name: "pages-2.img", Size: 1})
		}, "memory files"},
		{"a file too few", nil, func(m *proto.SealedMsg) { m.Files = nil }, "memory files"},
		{"another file", nil, func(m *proto.SealedMsg) { m.Files[0].Name = "pages-2.img" }, "complete"},
		{"a longer file", nil, func(m *proto.SealedMsg) { m.Files[0].Size++ }, "complete"},
		{"a file with a hole", func(b *bench) { b.pages("pages-1.img", 16384, make([]byte, 4096)) },
			func(m *proto.SealedMsg) { m.Files[0].Size = 20480 }, "complete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.upTo("sealed")
			if c.before != nil {
				c.before(b)
			}
			b.seal(c.change)
			b.hear(proto.Abort)
			b.refused(c.words)
		})
	}
}

// Without a round of the frozen container there is no task to start.
func TestSealWithoutRound(t *testing.T) {
	b := newBench(t)
	b.start()
	b.upTo("round")
	b.pages("pages-1.img", 0, make([]byte, 8192))
	b.files("core-1.img")
	b.seal(nil)
	b.hear(proto.Abort)
	b.refused("round")
}

// A source that opens rounds beside each other, and then goes, holds nothing up.
func TestManyRoundsAtOnce(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen %v", frozen), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.upTo(map[bool]string{false: "frozen", true: "round"}[frozen])
			for range 6 {
				b.round(frozen)
			}
			b.sess.Abort(errors.New("the test goes"))
			b.refused("")
		})
	}
}

// The next round of a frozen container may be on its way while the task for the one before is being made.
func TestFrozenRoundsQueue(t *testing.T) {
	b := newBench(t)
	b.dst.Fault = func(op string, n int) error {
		if op == fake.OpPrepareTask {
			time.Sleep(200 * time.Millisecond)
		}
		return nil
	}
	held := make(chan struct{})
	b.dst.HoldRestore = func(context.Context, string) error { close(held); return errors.New("that is enough") }
	b.start()
	b.upTo("pages")
	b.stream(proto.StreamRW, proto.RoundMeta{Frozen: true}, func(w *transfer.StreamWriter) error { // nothing new
		dir := b.t.TempDir()
		return os.WriteFile(filepath.Join(dir, "g"), nil, 0o644)
	})
	b.pages("pages-1.img", 0, make([]byte, 8192))
	b.files("core-1.img")
	b.seal(nil)
	b.hear(proto.Abort)
	f := b.refused("")
	if strings.Contains(f.Error(), "out of turn") {
		t.Errorf("refused: %v", f)
	}
}

// Once the content was verified, nothing is taken that was not part of it.
func TestContentAfterTheSeal(t *testing.T) {
	late := map[string]func(b *bench){
		"memory": func(b *bench) { b.pages("pages-1.img", 0, []byte("other")) },
		"files":  func(b *bench) { b.files("creds.img") },
		"round":  func(b *bench) { b.round(true) },
	}
	for name, do := range late {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			verified := make(chan struct{})
			goOn := make(chan struct{})
			b.dst.HoldRestore = func(ctx context.Context, _ string) error {
				close(verified)
				<-goOn
				return errors.New("that is enough")
			}
			b.start()
			b.upTo("go")
			<-verified
			do(b)
			time.Sleep(100 * time.Millisecond)
			images, err := filepath.Glob(filepath.Join(b.run, testID, "images", "*"))
			if err != nil || len(images) != 2 {
				t.Errorf("the image set is %v, %v", images, err)
			}
			if p, err := os.ReadFile(filepath.Join(b.run, testID, "images", "pages-1.img")); err != nil || bytes.Contains(p, []byte("other")) {
				t.Errorf("memory was changed after it was verified: %v", err)
			}
			close(goOn)
			b.refused("")
		})
	}
}

func TestControlOutOfTurn(t *testing.T) {
	for _, step := range []string{"blobs", "frozen", "sealed"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.upTo(step)
			b.say(proto.Go, nil)
			b.hear(proto.Abort)
			b.refused("GO where")
		})
	}
}

func TestUnknownMessageBeforeAnything(t *testing.T) {
	b := newBench(t)
	b.start()
	_ = proto.Send(b.ctx, b.sess, proto.Go, nil) // it may hang up before this returns
	b.refused("begins with GO")
}

// A source may go at any moment before GO.
func TestSourceGoes(t *testing.T) {
	for _, step := range []string{"offer", "blobs", "sent", "frozen", "round", "pages", "files", "sealed", "go"} {
		for name, leave := range map[string]func(b *bench){
			"link breaks": func(b *bench) { b.sess.Abort(errors.New("gone")) },
			"gives up": func(b *bench) {
				_ = proto.SendAbort(b.ctx, b.sess, &fail.Fault{Code: fail.Cancelled, What: "move container"})
				_ = b.sess.Close()
			},
			"ends": func(b *bench) { _ = b.sess.Close() },
		} {
			t.Run(name+" before "+step, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.dst.HoldRestore = func(context.Context, string) error { time.Sleep(50 * time.Millisecond); return errors.New("aborted") }
				b.start()
				if step == "go" {
					b.upTo("sealed")
					b.seal(nil)
				} else {
					b.upTo(step)
				}
				leave(b)
				b.refused("")
				// whoever asks now is told so
				if out, err := b.outcomes.Ask(testID); err != nil || out.Result != proto.OutcomeAborted {
					t.Errorf("outcome %+v, %v", out, err)
				}
			})
		}
	}
}

func TestQuery(t *testing.T) {
	b := newBench(t)
	b.start()
	b.say(proto.Query, proto.QueryMsg{ID: testID})
	b.hear(proto.Outcome)
	_ = b.sess.Close()
	if err := <-b.done; err != nil {
		t.Error(err)
	}
	// a migration with a tombstone begins no more
	b = newBenchWith(t, b.outcomes)
	b.start()
	b.offer(nil)
	b.hear(proto.Abort)
	b.refused("over")
}

func newBenchWith(t *testing.T, o *restore.Outcomes) *bench {
	b := newBench(t)
	b.outcomes = o
	return b
}

func TestMalformedQuery(t *testing.T) {
	b := newBench(t)
	b.start()
	b.say(proto.Query, proto.QueryMsg{ID: "../x"})
	if err := <-b.done; err == nil {
		t.Error("answered")
	}
}
