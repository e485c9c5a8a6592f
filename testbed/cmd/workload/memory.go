package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const pageSize = 4096

// A memory is pages whose content follows from a seed, their number and how often
// they were written, so that a wrong one is noticed.
type memory struct {
	seed         uint64
	compressible float64 // part of each page that compresses to nothing

	mu       sync.Mutex
	data     []byte
	versions []uint32
	written  uint64
}

func newMemory(kind string, mib int, seed uint64, compressible float64) (*memory, error) {
	pages := mib << 20 / pageSize
	data, err := allocate(kind, pages*pageSize)
	if err != nil {
		return nil, err
	}
	m := &memory{
		seed:         seed,
		compressible: compressible,
		data:         data,
		versions:     make([]uint32, pages),
	}
	for page := range pages {
		m.fill(m.page(page), page)
	}
	return m, nil
}

func (m *memory) page(n int) []byte { return m.data[n*pageSize : (n+1)*pageSize] }

// fill writes what page n is to contain in its present version.
func (m *memory) fill(page []byte, n int) {
	source := rand.NewPCG(m.seed, uint64(n)<<32|uint64(m.versions[n]))
	random := int(pageSize*(1-m.compressible)) &^ 7
	// The beginning always differs, or a swapped page could go unnoticed.
	random = min(max(random, 8), pageSize)
	for at := 0; at < random; at += 8 {
		binary.LittleEndian.PutUint64(page[at:], source.Uint64())
	}
	clear(page[random:])
}

// dirty rewrites so many random pages a second until ctx ends.
func (m *memory) dirty(ctx context.Context, perSecond int) {
	if perSecond <= 0 || len(m.versions) == 0 {
		return
	}
	const interval = 10 * time.Millisecond
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	order := rand.New(rand.NewPCG(m.seed, 1))
	var due float64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for due += float64(perSecond) * interval.Seconds(); due >= 1; due-- {
			m.rewrite(order.IntN(len(m.versions)))
		}
	}
}

func (m *memory) rewrite(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.versions[n]++
	m.fill(m.page(n), n)
	m.written++
}

// A memoryReport is the result of looking at all pages.
type memoryReport struct {
	Pages   int    `json:"pages"`
	Bad     int    `json:"bad"`
	Written uint64 `json:"written"`
	First   string `json:"first,omitempty"` // about the first bad page
}

// verify compares every page with what it must contain.
func (m *memory) verify() memoryReport {
	r := memoryReport{Pages: len(m.versions)}
	want := make([]byte, pageSize)
	for n := range m.versions {
		m.check(n, want, &r)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Written = m.written
	return r
}

func (m *memory) check(n int, want []byte, r *memoryReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fill(want, n)
	if bytes.Equal(want, m.page(n)) {
		return
	}
	if r.Bad++; r.First == "" {
		r.First = fmt.Sprintf("page %d at %p, version %d", n, &m.page(n)[0], m.versions[n])
	}
}
