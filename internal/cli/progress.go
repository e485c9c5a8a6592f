package cli

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"migrate/internal/report"
)

const (
	repaintEvery = 100 * time.Millisecond // on a terminal
	repeatEvery  = 5 * time.Second        // of the line of a phase that takes long, elsewhere
)

// progress shows how far a migration is: on a terminal a line per phase that is updated in place, elsewhere a line at
// each phase's end and now and then within one.
//
// Observers must not block, and a terminal can (Ctrl-S). So events and lines are only noted by the callers; a goroutine
// of its own writes.
type progress struct {
	w     io.Writer
	width func() int // of the terminal; nil elsewhere

	mu      sync.Mutex
	tracker tracker
	lines   []string // final, to be written

	wake chan struct{}
	end  chan struct{}
	over chan struct{}
}

// newProgress writes to w; width measures it when it is a terminal and is nil otherwise.
func newProgress(w io.Writer, width func() int) *progress {
	p := &progress{w: w, width: width, wake: make(chan struct{}, 1), end: make(chan struct{}), over: make(chan struct{})}
	go p.run()
	return p
}

// observe is a report.Observer.
func (p *progress) observe(ev report.Event) {
	p.mu.Lock()
	p.lines = append(p.lines, p.tracker.apply(ev, time.Now())...)
	p.mu.Unlock()
	p.poke()
}

// say writes a line of its own.
func (p *progress) say(text string) {
	p.mu.Lock()
	p.lines = append(p.lines, text)
	p.mu.Unlock()
	p.poke()
}

// Write lets a logger write through the progress, so that its lines and ours do not mix.
func (p *progress) Write(b []byte) (int, error) {
	p.say(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func (p *progress) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// stop writes what is left and ends; ok says whether the last phase succeeded.
func (p *progress) stop(ok bool) {
	p.mu.Lock()
	p.lines = append(p.lines, p.tracker.last(ok)...)
	p.mu.Unlock()
	close(p.end)
	<-p.over
}

func (p *progress) run() {
	defer close(p.over)
	every := repeatEvery
	if p.width != nil {
		every = repaintEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-p.wake:
			p.paint(false)
		case <-tick.C:
			p.paint(true)
		case <-p.end:
			p.paint(false)
			p.clear()
			return
		}
	}
}

// paint writes final lines, and the state of the phase under way when it is time for that.
func (p *progress) paint(state bool) {
	p.mu.Lock()
	lines := p.lines
	p.lines = nil
	now := p.tracker.line(time.Now())
	p.mu.Unlock()
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(p.start() + l + "\n")
	}
	switch {
	case p.width == nil && state && now != "":
		b.WriteString(now + "\n")
	case p.width != nil && now != "" && (state || len(lines) > 0):
		b.WriteString(p.start() + clip(now, p.width()))
	}
	_, _ = io.WriteString(p.w, b.String()) // a terminal that went away changes nothing
}

// clearLine goes to the line's beginning and empties it.
const clearLine = "\r\x1b[K"

func (p *progress) start() string {
	if p.width == nil {
		return ""
	}
	return clearLine
}

func (p *progress) clear() { _, _ = io.WriteString(p.w, p.start()) }

func clip(s string, width int) string {
	if width <= 1 || len(s) < width {
		return s
	}
	return s[:width-1] // the last column would make some terminals wrap
}

// terminalWidth returns the function that measures w, or nil when w is no terminal.
func terminalWidth(w io.Writer) func() int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return func() int {
		n, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 80
		}
		return n
	}
}
