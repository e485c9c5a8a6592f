package pages

import (
	"bytes"
	"errors"
	"testing"
)

// sealed are the streams of the golden rounds, with their hashes as the source knows them.
func sealed(t *testing.T) (key Key, streams [][]byte, sums [][32]byte) {
	t.Helper()
	table := NewTable(testLimit, 1<<20)
	for _, send := range goldenRounds {
		var b bytes.Buffer
		table.BeginRound()
		e := NewEncoder(table, &b)
		if err := errors.Join(send(e), e.Close()); err != nil {
			t.Fatal(err)
		}
		streams, sums = append(streams, b.Bytes()), append(sums, e.Sum())
	}
	return table.Key(), streams, sums
}

// Both sides come to the same hash, however the stream was cut on its way.
func TestSeal(t *testing.T) {
	key, streams, sums := sealed(t)
	for _, size := range []int{1, 7, 4095, 4096, 4097, 70000} {
		s := newTestStore(t, testLimit)
		for i, stream := range streams {
			a := s.Applier(key)
			if err := a.Apply(&trickle{bytes.NewReader(stream), func() int { return size }}); err != nil {
				t.Fatal(err)
			}
			if a.Sum() != sums[i] {
				t.Errorf("stream %d in pieces of %d bytes has another hash", i, size)
			}
		}
	}
	if sums[0] == sums[1] || sums[1] == sums[2] {
		t.Error("different streams have the same hash")
	}
}

// A bit that changes anywhere is noticed: by the stream's form, or by its hash.
func TestSealOfDamage(t *testing.T) {
	key, streams, sums := sealed(t)
	for at := 0; at < len(streams[0])*8; at += 61 {
		damaged := bytes.Clone(streams[0])
		damaged[at/8] ^= 1 << (at % 8)
		a := newTestStore(t, testLimit).Applier(key)
		if err := a.Apply(bytes.NewReader(damaged)); err == nil && a.Sum() == sums[0] {
			t.Fatalf("bit %d of the stream may be anything", at)
		}
	}
}

func TestSealTakesTheKey(t *testing.T) {
	key, streams, sums := sealed(t)
	key[3] ^= 1
	a := newTestStore(t, testLimit).Applier(key)
	if err := a.Apply(bytes.NewReader(streams[0])); err != nil {
		t.Fatal(err)
	}
	if a.Sum() == sums[0] {
		t.Error("another key makes the same hash")
	}
	if _, err := KeyOf(key[:15]); err == nil {
		t.Error("15 bytes are a key")
	}
	if got, err := KeyOf(key[:]); err != nil || got != key {
		t.Error(got, err)
	}
}
