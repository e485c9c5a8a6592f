package fake

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// World is the hosts of a test and what happened on them.
type World struct {
	mu         sync.Mutex
	hosts      map[string]*Engine
	running    map[string][]string // hosts that run a container, by its id
	history    []Event
	violations []error
}

// Event is one call, or one change of who runs a container.
type Event struct {
	Host    string
	Op      string // an operation, or "runs" and "stops"
	ID      string
	Err     error    // that the test made the call return
	Running []string // hosts that run the container after "runs" and "stops"
}

func (ev Event) String() string {
	s := fmt.Sprintf("%s: %s %s", ev.Host, ev.Op, ev.ID)
	if ev.Op == opRuns || ev.Op == opStops {
		s += fmt.Sprintf(" (running on %v)", ev.Running)
	}
	if ev.Err != nil {
		s += fmt.Sprintf(" = %v", ev.Err)
	}
	return s
}

const (
	opRuns  = "runs"
	opStops = "stops"
)

// NewWorld returns one without hosts.
func NewWorld() *World {
	return &World{hosts: map[string]*Engine{}, running: map[string][]string{}}
}

// Host returns the host of that name, which it makes when it is new.
func (w *World) Host(name string) *Engine {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.hosts[name]
	if e == nil {
		e = newEngine(w, name)
		w.hosts[name] = e
	}
	return e
}

// Runs lists the hosts on which the container's processes run now. A paused container does not run.
func (w *World) Runs(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.running[id])
}

// History is everything that happened, in order.
func (w *World) History() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.history)
}

// Check returns an error for each moment in which a container ran on more than one host.
func (w *World) Check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.violations...)
}

func (w *World) note(ev Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, ev)
}

// runs records that the container runs on host from now on, or does not.
func (w *World) runs(host, id string, runs bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hosts := slices.DeleteFunc(slices.Clone(w.running[id]), func(h string) bool { return h == host })
	op := opStops
	if runs {
		op, hosts = opRuns, append(hosts, host)
	}
	w.running[id] = hosts
	w.history = append(w.history, Event{Host: host, Op: op, ID: id, Running: slices.Clone(hosts)})
	if len(hosts) > 1 {
		w.violations = append(w.violations, fmt.Errorf("container %q runs on %v after event %d", id, hosts, len(w.history)))
	}
}
