package transfer

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// BenchmarkStream sends one stream over a data lane of its own, on loopback.
func BenchmarkStream(b *testing.B) {
	contents := map[string][]byte{"noise": noise(1 << 20), "text": text(1 << 20)}
	for _, c := range []struct {
		codec   CodecChoice
		content string
	}{{None, "noise"}, {Auto, "noise"}, {S2, "text"}, {Zstd, "text"}, {Auto, "text"}} {
		b.Run(fmt.Sprintf("%v/%s", c.codec, c.content), func(b *testing.B) {
			src, dst := tlsPair(b, Options{Lanes: 2}, Options{})
			benchStream(b, src, dst, c.codec, contents[c.content])
		})
	}
	b.Run("pipe/none/noise", func(b *testing.B) {
		src, dst := pipePair(b, Options{}, Options{})
		benchStream(b, src, dst, None, contents["noise"])
	})
}

func benchStream(b *testing.B, src, dst *Session, codec CodecChoice, p []byte) {
	ctx := b.Context()
	w, err := src.OpenStream(ctx, 1, nil, StreamOptions{Codec: codec})
	must(b, err)
	r, err := dst.Accept(ctx)
	must(b, err)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	var g testGroup
	g.run(func() error { _, err := io.Copy(io.Discard, r); return err })
	for b.Loop() {
		if _, err := w.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	must(b, w.Close())
	g.wait(b)
}

// BenchmarkControl measures a control message there and back while data flows.
func BenchmarkControl(b *testing.B) {
	for _, lanes := range []int{1, 4} {
		for _, busy := range []bool{false, true} {
			b.Run(fmt.Sprintf("lanes=%d/busy=%v", lanes, busy), func(b *testing.B) {
				src, dst := tlsPair(b, Options{Lanes: lanes}, Options{})
				if busy {
					defer flood(b, src, dst)()
				}
				benchControl(b, src, dst)
			})
		}
	}
}

func flood(b *testing.B, src, dst *Session) (stop func()) {
	w, err := src.OpenStream(b.Context(), 1, nil, StreamOptions{Codec: None})
	must(b, err)
	r, err := dst.Accept(b.Context())
	must(b, err)
	var g testGroup
	halt := make(chan struct{})
	g.run(func() error { _, err := io.Copy(io.Discard, r); return err })
	g.run(func() error {
		p := noise(1 << 20)
		for {
			select {
			case <-halt:
				return w.Close()
			default:
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
	})
	return func() { close(halt); g.wait(b) }
}

func benchControl(b *testing.B, src, dst *Session) {
	ctx := b.Context()
	go func() {
		for {
			if _, _, err := dst.RecvControl(ctx); err != nil {
				return
			}
			if dst.SendControl(ctx, 2, []byte("pong")) != nil {
				return
			}
		}
	}()
	worst := time.Duration(0)
	for b.Loop() {
		start := time.Now()
		if err := src.SendControl(ctx, 1, []byte("ping")); err != nil {
			b.Fatal(err)
		}
		if _, _, err := src.RecvControl(ctx); err != nil {
			b.Fatal(err)
		}
		worst = max(worst, time.Since(start))
	}
	b.ReportMetric(float64(worst.Microseconds()), "worst-µs")
}
