// Package report holds what a migration tells about itself: events while it runs, and one report at its end, which
// `--json` prints. docs/CLI.md documents the report; Version changes when a field changes its meaning or goes.
package report

import (
	"sync"
	"time"

	"migrate/internal/fail"
	"migrate/internal/preflight"
)

// Version of the report's format.
const Version = 1

// The phases, in order. A phase has the same name on both sides, in events, in the report and in messages.
const (
	Offer    = "offer"
	Sync     = "sync"
	Precopy  = "precopy"
	Freeze   = "freeze"
	Ship     = "ship"
	Restore  = "restore"
	Handover = "handover"
	Serve    = "serve" // of memory that stayed at the source
	Finish   = "finish"
)

// Results of a migration, as the source knows it.
const (
	Moved   = "moved"    // the container runs at the destination
	Stayed  = "stayed"   // the container runs at the source as before
	Stuck   = "stuck"    // taking a failed migration back failed: see the error's state
	Lost    = "lost"     // the container moved, and was ended at the destination since its memory could not be filled
	InDoubt = "in-doubt" // the container is frozen at the source; whether it runs at the destination is not known
)

// Report is what one migration was. Times are milliseconds, sizes bytes.
type Report struct {
	Version     int                `json:"version"`
	ID          string             `json:"id"`
	Container   string             `json:"container"`
	Namespace   string             `json:"namespace"`
	Destination string             `json:"destination"`
	Name        string             `json:"name"` // the container's id at the destination
	Result      string             `json:"result"`
	Pid         int                `json:"pid,omitempty"` // init at the destination, in that host's pid namespace
	Started     time.Time          `json:"started"`
	DowntimeMS  float64            `json:"downtime_ms"` // freeze at the source until the processes run at the destination
	TotalMS     float64            `json:"total_ms"`
	Phases      []Phase            `json:"phases"`
	Downtime    []Part             `json:"downtime_parts"` // on the source's clock, in order, adding up to downtime_ms
	RestoreMS   map[string]float64 `json:"restore_steps_ms,omitempty"`
	Mode        string             `json:"mode"`
	Tracker     string             `json:"tracker,omitempty"` // what found written pages
	Rounds      []Round            `json:"rounds,omitempty"`  // of memory, the last of them with the container frozen
	Fill        *Fill              `json:"fill,omitempty"`    // after the container was resumed
	Risk        string             `json:"risk,omitempty"`    // what the mode puts at risk
	Fetch       *Fetch             `json:"fetch,omitempty"`   // of memory that stayed at the source
	Verified    int64              `json:"verified_pages,omitempty"`
	Shared      int64              `json:"shared_memory,omitempty"` // bytes of shared memory that were there at the freeze
	Memory      Volume             `json:"memory"`                  // memory and image set
	Files       Volume             `json:"files"`                   // RW layer
	Image       Volume             `json:"image"`                   // image blobs
	Volumes     Volume             `json:"volumes"`                 // content of what is mounted beside the root file system
	Storage     []Storage          `json:"storage,omitempty"`
	WireBytes   int64              `json:"wire_bytes"`
	TCP         string             `json:"tcp"`
	Connections int                `json:"connections"`              // established TCP connections that moved
	Ended       []preflight.Thing  `json:"ended_sessions,omitempty"` // processes of exec sessions that were ended before the freeze
	Addresses   []string           `json:"addresses,omitempty"`      // that the container got of other networks than it had
	Packets     int64              `json:"packets_kept"`             // frames that came during the downtime and were brought to the destination
	PacketsLost int64              `json:"packets_lost"`             // those for which there was no room
	Error       *fail.Fault        `json:"error,omitempty"`

	Findings []preflight.Finding `json:"findings,omitempty"` // of the checks before the migration
}

// Phase is a phase's share of the total time.
type Phase struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Part is a part of the downtime.
type Part struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Round is one round of memory. Pages are of 4096 bytes.
type Round struct {
	Frozen    bool    `json:"frozen,omitempty"` // with the container standing still
	Pages     int64   `json:"pages"`            // that were written, or new
	Shared    int64   `json:"shared_pages"`     // pages of shared memory that were compared with what the destination has
	Zero      int64   `json:"zero_pages"`       // of them, all zeros
	Unchanged int64   `json:"unchanged_pages"`  // of them, as the destination has them
	Same      int64   `json:"same_pages"`       // of them, as another page that the destination has
	Delta     int64   `json:"delta_pages"`      // of them, sent as a difference
	Wire      int64   `json:"wire"`             // bytes
	MS        float64 `json:"ms"`
	HeldMS    float64 `json:"held_ms"`            // of them, in which work stood still to spare the container
	Throttle  int     `json:"throttle,omitempty"` // percent of its CPU time that was taken away from the container
	RestPages int64   `json:"rest_pages"`         // expected to be left for a freeze right after it
	RestMS    float64 `json:"rest_ms"`            // that they need
	Decision  string  `json:"decision"`           // why another round followed, or none
}

// Fill is how memory came into place at the destination after the container was resumed.
type Fill struct {
	MS     float64 `json:"ms"`
	Pages  int64   `json:"pages"`
	Faults int64   `json:"faults"` // pages that the container waited for
}

// Fetch is how memory that had stayed at the source came over, after the container was resumed.
type Fetch struct {
	DegradedMS float64 `json:"degraded_ms"`    // from the resume until all had come
	Pages      int64   `json:"pages"`          // that had stayed
	Asked      int64   `json:"asked_pages"`    // of them, those that the container waited for
	Twice      int64   `json:"twice_pages"`    // that came more than once
	MedianMS   float64 `json:"wait_median_ms"` // from asking for a page until it was at hand
	P99MS      float64 `json:"wait_p99_ms"`    // likewise
	Reconnects int     `json:"reconnects"`     // how often the link broke and was made anew
	Wire       int64   `json:"wire"`           // bytes sent, other traffic of that time included
}

// Volume is data before and after compression.
type Volume struct {
	Raw  int64 `json:"raw"`
	Wire int64 `json:"wire"`
}

// Storage is what became of one thing that the container has mounted beside its root file system.
type Storage struct {
	Mount string `json:"mount"`          // where the container has it
	How   string `json:"how"`            // present, copied, carried, remade, memory or shared, see package storage
	Path  string `json:"path,omitempty"` // at the destination, of a bind; of one that is carried or remade, at the source
	Name  string `json:"name,omitempty"` // of a named volume
	Raw   int64  `json:"raw,omitempty"`  // bytes before compression
	Wire  int64  `json:"wire,omitempty"` // and after
}

// Event tells a watcher how far a migration is.
type Event struct {
	Phase string
	Done  int64 // bytes sent in this phase so far
	Total int64 // bytes expected in it; 0 when not known
	End   bool  // the phase is over
	Took  time.Duration
	Note  string // anything else worth a line
}

// Observer receives events; it must not block. Nil is allowed wherever one is asked for.
type Observer func(Event)

// Clock measures phases.
type Clock struct {
	mu      sync.Mutex
	observe Observer
	phases  []Phase
	name    string
	since   time.Time
	told    time.Time // of the last progress event
}

// NewClock returns a clock whose events go to o.
func NewClock(o Observer) *Clock {
	if o == nil {
		o = func(Event) {}
	}
	return &Clock{observe: o}
}

// Enter ends the phase under way, if any, and begins another; "" begins none.
func (c *Clock) Enter(name string) {
	c.mu.Lock()
	now := time.Now()
	old, took := c.name, now.Sub(c.since)
	if old != "" {
		c.phases = append(c.phases, Phase{old, MS(took)})
	}
	c.name, c.since = name, now
	c.mu.Unlock()
	if old != "" {
		c.observe(Event{Phase: old, End: true, Took: took})
	}
	if name != "" {
		c.observe(Event{Phase: name})
	}
}

// Phase is the phase under way.
func (c *Clock) Phase() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name
}

// Progress reports bytes in the phase under way, at most once every tenth of a second.
func (c *Clock) Progress(done, total int64) {
	c.mu.Lock()
	now := time.Now()
	due := now.Sub(c.told) >= progressEvery || done == total
	if due {
		c.told = now
	}
	name := c.name
	c.mu.Unlock()
	if due {
		c.observe(Event{Phase: name, Done: done, Total: total})
	}
}

const progressEvery = 100 * time.Millisecond

// Note reports a line.
func (c *Clock) Note(text string) { c.observe(Event{Phase: c.Phase(), Note: text}) }

// Phases returns what was measured.
func (c *Clock) Phases() []Phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Phase(nil), c.phases...)
}

// MS converts to milliseconds.
func MS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
