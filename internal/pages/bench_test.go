package pages

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"
)

const benchPages = 1 << 15 // 128 MiB

func benchContent() []byte {
	var out []byte
	for i := range uint64(benchPages) {
		out = append(out, page(i+1)...)
	}
	return out
}

func sendAll(b *testing.B, e *Encoder, content []byte) {
	for at := 0; at < len(content); at += 1 << 20 {
		if err := e.Pages(1, uint64(at/PageSize), content[at:at+1<<20]); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkEncode(b *testing.B) {
	content := benchContent()
	changed := bytes.Clone(content)
	for i := 0; i < len(changed); i += PageSize {
		changed[i+100]++
	}
	zero := make([]byte, len(content))
	for _, bb := range []struct {
		name   string
		cache  int64
		rounds [][]byte // the last is measured
	}{
		{"new", DefaultDeltaCache, [][]byte{content}},
		{"unchanged", DefaultDeltaCache, [][]byte{content, content}},
		{"rewritten", 0, [][]byte{content, changed}},
		{"delta", 2 * benchPages * PageSize, [][]byte{content, changed, content}},
		{"zero", DefaultDeltaCache, [][]byte{zero}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				b.StopTimer()
				table := NewTable(1<<30, bb.cache)
				for i, c := range bb.rounds {
					table.BeginRound()
					if i == len(bb.rounds)-1 {
						b.StartTimer()
					}
					sendAll(b, NewEncoder(table, io.Discard), c)
				}
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	var stream bytes.Buffer
	sendAll(b, NewEncoder(NewTable(1<<30, 0), &stream), benchContent())
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"writerTo": func(r io.Reader) io.Reader { return r },
		"reader":   func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
	} {
		b.Run(name+"/fresh", func(b *testing.B) {
			dir := storeDir(b)
			b.SetBytes(benchPages * PageSize)
			for b.Loop() {
				b.StopTimer()
				s, err := NewStore(filepath.Join(dir, "store"), 1<<30)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := s.Apply(wrap(bytes.NewReader(stream.Bytes()))); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(name+"/over", func(b *testing.B) {
			s := newTestStore(b, 1<<30)
			b.SetBytes(benchPages * PageSize)
			for b.Loop() {
				if err := s.Apply(wrap(bytes.NewReader(stream.Bytes()))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
