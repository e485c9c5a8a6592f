// Package handover owns the question of who owns the container. It is a pure state machine: agents feed it events and
// ask it what they may do; it does no I/O.
//
//	source:       running ─offer─▶ offered ─freeze─▶ frozen ─seal─▶ sealed ─ready─▶ ready ─go─▶ in-doubt ─committed─▶ released
//	                 ▲                │                │               │              │            │
//	                 └──── abort ─────┴──── abort ─────┴──── abort ────┴─── abort ────┘            │
//	                 └───────────────────────────── aborted (by the destination's word only) ─────┘
//	              with memory that stays at the source: in-doubt ─leaves─▶ serving ─all there, lost─▶ released
//
//	destination:  idle ─offer─▶ preparing ─seal─▶ restoring ─held─▶ held ─go─▶ resuming ─resumed─▶ owner
//	                              │ abort            │ abort          │ abort     │ failed
//	                              └──────────────────┴───────▶ gone ◀─┴───────────┘
//	              with memory that stays at the source: resuming ─runs─▶ fetching ─all there─▶ owner
//	                                                                        │ lost
//	                                                                        └───────▶ gone
//
// The source may thaw in every state before in-doubt, and in in-doubt only on the destination's word that it aborted. The
// destination may let the container run only in resuming, which only GO reaches. Serving is owning nothing: what is still at the
// source is memory, which the destination's copy needs and which nobody runs.
package handover

import (
	"fmt"
	"sync"
)

// State of one side of one migration.
type State string

// Source states.
const (
	Running  State = "running"  // owned here, nothing offered
	Offered  State = "offered"  // owned here, running, a destination prepares
	FrozenS  State = "frozen"   // owned here, held
	SealedS  State = "sealed"   // owned here, held, everything was sent
	ReadyS   State = "ready"    // owned here, held, the destination holds a copy as well
	InDoubt  State = "in-doubt" // GO may have arrived
	Serving  State = "serving"  // owned by the destination, which fetches memory from the copy that is held here
	Released State = "released" // owned by the destination
)

// Destination states.
const (
	Idle      State = "idle"
	Preparing State = "preparing"
	Restoring State = "restoring"
	Held      State = "held"
	Resuming  State = "resuming" // GO was received and recorded
	Fetching  State = "fetching" // the container runs here, and part of its memory is still at the source
	Owner     State = "owner"    // the container runs here
	Gone      State = "gone"     // nothing is left here, nothing will ever run here
)

// Event moves a side from one state to another.
type Event string

// Events of both sides.
const (
	EvOffer     Event = "offer"
	EvFreeze    Event = "freeze"
	EvSeal      Event = "seal"
	EvReady     Event = "ready"
	EvGo        Event = "go"
	EvCommitted Event = "committed"
	EvAbort     Event = "abort"   // this side gives up
	EvAborted   Event = "aborted" // the destination said so
	EvHeld      Event = "held"
	EvResumed   Event = "resumed"
	EvFailed    Event = "failed" // the restore failed after GO and the copy was destroyed
	EvLeaves    Event = "leaves" // as EvCommitted, with memory that stays here for now
	EvRuns      Event = "runs"   // as EvResumed, with memory that is still at the source
	EvAllThere  Event = "all-there"
	EvLost      Event = "lost" // what stayed at the source never came: the container was ended, and runs nowhere
)

type edge struct {
	from State
	ev   Event
}

var edges = map[edge]State{
	{Running, EvOffer}:     Offered,
	{Offered, EvFreeze}:    FrozenS,
	{FrozenS, EvSeal}:      SealedS,
	{SealedS, EvReady}:     ReadyS,
	{ReadyS, EvGo}:         InDoubt,
	{InDoubt, EvCommitted}: Released,
	{Offered, EvAbort}:     Running,
	{FrozenS, EvAbort}:     Running,
	{SealedS, EvAbort}:     Running,
	{ReadyS, EvAbort}:      Running,
	{InDoubt, EvAborted}:   Running,
	{InDoubt, EvLeaves}:    Serving,
	{Serving, EvAllThere}:  Released,
	{Serving, EvLost}:      Released,

	{Idle, EvOffer}:        Preparing,
	{Preparing, EvSeal}:    Restoring,
	{Restoring, EvHeld}:    Held,
	{Held, EvGo}:           Resuming,
	{Resuming, EvResumed}:  Owner,
	{Preparing, EvAbort}:   Gone,
	{Restoring, EvAbort}:   Gone,
	{Held, EvAbort}:        Gone,
	{Resuming, EvFailed}:   Gone,
	{Resuming, EvRuns}:     Fetching,
	{Fetching, EvAllThere}: Owner,
	{Fetching, EvLost}:     Gone,
}

// Machine is one side's state. It is safe for concurrent use.
type Machine struct {
	mu sync.Mutex
	st State
}

// NewSource returns a machine in Running; NewDestination one in Idle.
func NewSource() *Machine { return &Machine{st: Running} }

// NewDestination returns a machine in Idle.
func NewDestination() *Machine { return &Machine{st: Idle} }

// State returns the current state.
func (m *Machine) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st
}

// On applies an event. An event that the state does not allow changes nothing and returns a *TransitionError: the caller
// must not act on it.
func (m *Machine) On(ev Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	to, ok := edges[edge{m.st, ev}]
	if !ok {
		return &TransitionError{From: m.st, Event: ev}
	}
	m.st = to
	return nil
}

// MayThaw says whether the source may let the container run on.
func (m *Machine) MayThaw() bool {
	switch m.State() {
	case Running, Offered, FrozenS, SealedS, ReadyS:
		return true
	}
	return false
}

// MayResume says whether the destination may let the container run.
func (m *Machine) MayResume() bool {
	s := m.State()
	return s == Resuming || s == Fetching || s == Owner
}

// TransitionError is an event that came in a state that does not allow it.
type TransitionError struct {
	From  State
	Event Event
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("hand-over: event %q is not allowed in state %q", e.Event, e.From)
}
