package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// A pipe is the standard output of a container that has no engine to keep it: the program's lines, and the marks of
// the script that moves it, in the order in which they were printed.
type pipe struct {
	in, out *os.File

	mu   sync.Mutex
	said strings.Builder
}

func newPipe() (*pipe, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	p := &pipe{in: in, out: out}
	go p.read()
	return p, nil
}

// read gathers until the pipe is closed.
func (p *pipe) read() {
	buf := make([]byte, 4096)
	for {
		n, err := p.out.Read(buf)
		p.mu.Lock()
		p.said.Write(buf[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// reset forgets what was said.
func (p *pipe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said.Reset()
}

func (p *pipe) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// firstAfter waits for the first tick after a mark.
func (p *pipe) firstAfter(ctx context.Context, mark string) (tick, error) {
	var first tick
	err := eventually(ctx, "the program prints after the move", func() bool {
		_, after, found := strings.Cut(p.text(), "mark "+mark+" ")
		if ticks := parseTicks(after, time.Now()); found && len(ticks) > 0 {
			first = ticks[0]
			return true
		}
		return false
	})
	return first, err
}

func (p *pipe) close() {
	_ = p.in.Close()
	_ = p.out.Close()
}
