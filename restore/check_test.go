package restore_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/internal/proto"
)

// checked plays a source that only asks.
func (b *bench) checked(change func(*proto.CheckMsg)) (msg proto.CheckedMsg) {
	b.t.Helper()
	b.start()
	info, err := b.src.Info(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	q := proto.CheckMsg{Offer: proto.OfferMsg{Container: b.c, Source: info, Memory: 1 << 20, Mode: proto.ModeStop}}
	q.Offer.Facts = preflight.Host{Arch: info.Arch, Kernel: "5.1.0"}
	if change != nil {
		change(&q)
	}
	b.say(proto.Check, q)
	k, p, err := b.sess.RecvControl(b.ctx)
	if err != nil || proto.Kind(k) != proto.Checked {
		b.t.Fatalf("received %v %s, %v", proto.Kind(k), p, err)
	}
	if err := json.Unmarshal(p, &msg); err != nil {
		b.t.Fatal(err)
	}
	_ = b.sess.Close()
	if err := <-b.done; err != nil {
		b.t.Errorf("the destination: %v", err)
	}
	if after := b.dst.Left(); !slices.Equal(after, b.before) {
		b.t.Errorf("the destination is left with %v", after)
	}
	return msg
}

func TestCheckAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*bench, *proto.CheckMsg)
		code   string // of a finding that blocks; "" for none
		why    string
	}{
		"fine":    {nil, "", ""},
		"renamed": {func(_ *bench, q *proto.CheckMsg) { q.Offer.Name = "cache" }, "", ""},
		"memory":  {func(_ *bench, q *proto.CheckMsg) { q.Offer.Memory = 1 << 45 }, "memory", "MiB are needed"},
		"CPU":     {func(_ *bench, q *proto.CheckMsg) { q.Offer.Facts.CPU = []string{"teleport"} }, "cpu-features", "teleport"},
		"policy": {func(b *bench, q *proto.CheckMsg) {
			q.Offer.Container.Spec = json.RawMessage(strings.Replace(string(b.c.Spec), `"mounts":[`, `"mounts":[{"destination":"/x","type":"bind","source":"/srv/x","options":["bind"]},`, 1))
		}, "policy", "/srv/x"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			msg := b.checked(func(q *proto.CheckMsg) {
				if c.change != nil {
					c.change(b, q)
				}
			})
			block := preflight.Blocking(msg.Findings, nil)
			if c.code == "" {
				if len(block) > 0 {
					t.Fatalf("found %s", block[0].Text())
				}
				return
			}
			if len(block) != 1 || block[0].Code != c.code || !strings.Contains(block[0].Reason, c.why) || block[0].Remedy == "" || block[0].State != preflight.StillRunning {
				t.Errorf("found %+v", block)
			}
		})
	}
}

func TestCheckOfNonsense(t *testing.T) {
	b := newBench(t)
	b.start()
	b.say(proto.Check, proto.CheckMsg{Offer: proto.OfferMsg{Container: b.c, Memory: 1}})
	b.hear(proto.Checked)
	_ = b.sess.Close()
	<-b.done
	b.start()
	if err := b.sess.SendControl(b.ctx, uint16(proto.Check), []byte("{")); err != nil {
		t.Fatal(err)
	}
	b.hear(proto.Abort)
	if err := <-b.done; err == nil {
		t.Error("the destination took it for good")
	}
}

// A source's CPU has more than this one: the migration is refused before anything is made, unless the source says that it does not matter.
func TestOfferOfOtherCPU(t *testing.T) {
	facts := func(o *proto.OfferMsg) {
		o.Facts = preflight.Host{Arch: o.Source.Arch, Kernel: "5.1.0", CPU: []string{"teleport"}}
	}
	t.Run("refused", func(t *testing.T) {
		b := newBench(t)
		b.start()
		b.offer(facts)
		b.hear(proto.Abort)
		var f *fail.Fault
		if err := <-b.done; !errors.As(err, &f) || f.Code != fail.Refused || !strings.Contains(f.Why, "teleport") || !strings.Contains(f.Remedy, "--ignore cpu-features") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ignored", func(t *testing.T) {
		b := newBench(t)
		b.start()
		b.offer(func(o *proto.OfferMsg) { facts(o); o.Ignore = []string{"cpu-features"} })
		k, p, err := b.sess.RecvControl(b.ctx)
		if err != nil || proto.Kind(k) != proto.Prepared {
			t.Fatalf("received %v %s, %v", proto.Kind(k), p, err)
		}
		var msg proto.PreparedMsg
		if err := json.Unmarshal(p, &msg); err != nil || len(msg.Findings) != 1 || msg.Findings[0].Code != "cpu-features" {
			t.Errorf("%+v, %v", msg.Findings, err)
		}
		_ = b.sess.Close()
		<-b.done
	})
}
