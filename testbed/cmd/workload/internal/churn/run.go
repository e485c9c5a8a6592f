package churn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"
)

// Options say what to run.
type Options struct {
	Case string
	MiB  int       // of memory, roughly
	Seed uint64    // of all content
	Dir  string    // for files
	Out  io.Writer // for results, a JSON object a line
}

// An actor has memory of its own and changes it.
type actor interface {
	// act does one thing, and checks what it touches.
	act() (*Damage, error)
	// check compares everything, and returns how many pages that is.
	check() (pages int, d *Damage, err error)
}

// A cast is a case's actors, and how fast they are.
type cast struct {
	actors []actor
	burst  int           // acts between pauses
	pause  time.Duration // 0: none
}

// The answer to a request for a check.
type answer struct {
	Verified bool   `json:"verified"`
	Number   int    `json:"number"` // of the request, from 1
	Pages    int    `json:"pages"`
	Acts     uint64 `json:"acts"` // so far
}

// Unavailable is returned for a case that this machine can't run.
type Unavailable struct{ Why string }

func (u *Unavailable) Error() string { return "this machine cannot run the case: " + u.Why }

// Run runs a case until ctx ends. It prints when it has begun; from then on, for everything that arrives in asked it compares all memory and prints an answer. Damage
// is printed and returned.
func Run(ctx context.Context, o Options, asked <-chan os.Signal) error {
	c, ok := find(o.Case)
	if !ok {
		return fmt.Errorf("case %q: known are %v", o.Case, Names())
	}
	cast, err := c.make(o)
	if err != nil {
		return fmt.Errorf("case %s: %w", o.Case, err)
	}
	if err := json.NewEncoder(o.Out).Encode(map[string]string{"started": o.Case}); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	playing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var players []*player
	for _, a := range cast.actors {
		p := &player{actor: a, cast: cast}
		players = append(players, p)
		go func() {
			if err := p.play(playing); err != nil {
				cancel(err)
			}
		}()
	}
	err = answerAll(playing, players, asked, o.Out)
	if ctx.Err() != nil {
		return nil // ended from outside
	}
	return tell(o, err)
}

// answerAll answers requests until ctx ends.
func answerAll(ctx context.Context, players []*player, asked <-chan os.Signal, out io.Writer) error {
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-asked:
		}
		a := answer{Verified: true, Number: n}
		for _, p := range players {
			if err := p.answer(&a); err != nil {
				return err
			}
		}
		if err := json.NewEncoder(out).Encode(a); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
	}
}

// tell prints damage.
func tell(o Options, err error) error {
	var d *Damage
	if !errors.As(err, &d) {
		return err
	}
	d.Case = o.Case
	if perr := json.NewEncoder(o.Out).Encode(map[string]*Damage{"damaged": d}); perr != nil {
		return fmt.Errorf("%w (and print it: %w)", err, perr)
	}
	return err
}

// A player is an actor at work.
type player struct {
	actor
	cast *cast

	mu   sync.Mutex // held by whoever uses the actor
	acts uint64
}

// play acts until ctx ends, on a thread of its own that ends with it.
func (p *player) play(ctx context.Context) error {
	runtime.LockOSThread()
	for ctx.Err() == nil {
		for range p.cast.burst {
			if err := p.once(); err != nil {
				return err
			}
		}
		if p.cast.pause == 0 {
			runtime.Gosched()
			continue
		}
		time.Sleep(p.cast.pause)
	}
	return nil
}

func (p *player) once() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := p.act()
	p.acts++
	return either(d, err)
}

func (p *player) answer(a *answer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pages, d, err := p.check()
	a.Pages += pages
	a.Acts += p.acts
	return either(d, err)
}

// either keeps a nil *Damage from becoming an error that is not nil.
func either(d *Damage, err error) error {
	if d != nil {
		return d
	}
	return err
}
