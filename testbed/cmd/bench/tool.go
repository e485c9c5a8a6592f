package main

import (
	"context"
	"time"

	"migrate/internal/report"
)

// A tool moves containers. It is prepared once, and stopped at the end.
type tool interface {
	name() string
	mode() string
	prepare(ctx context.Context) error
	// move makes the container, moves it, and returns what that cost after it has checked the memory.
	move(ctx context.Context, s subject) (sample, error)
	stop()
}

// The tools by name, in the order in which they are shown.
var (
	toolNames = []string{toolMigrate, toolFloor, toolFloorSkip, toolCtr, toolPodman}
	makeTool  = map[string]func(*lab) tool{
		toolMigrate:   func(l *lab) tool { return &mover{lab: l, from: l.a, to: l.b} },
		toolFloor:     func(l *lab) tool { return &floor{lab: l} },
		toolFloorSkip: func(l *lab) tool { return &floor{lab: l, skipLock: true} },
		toolCtr:       func(l *lab) tool { return &exporter{lab: l} },
		toolPodman:    func(l *lab) tool { return &podman{lab: l} },
	}
)

// The tools' names are those of their rows in the results.
const (
	toolMigrate   = "migrate"
	toolFloor     = "criu"
	toolFloorSkip = "criu-skip" // the floor without CRIU's network lock, which ours takes itself
	toolCtr       = "ctr"
	toolPodman    = "podman"
)

// A sample is what one move cost. Times are milliseconds.
type sample struct {
	downtime, total, gap float64
	wire                 int64
	steps                []step
	inside               *inside // for tool migrate only
}

// inside is what only our own report and our own look at the agents tell of a move. Sizes are bytes.
type inside struct {
	report   *report.Report
	memory   footprint // of the container before the move
	src, dst int64     // highest memory of the agents on each host, without the page store
}

// A step is a named part of a move.
type step struct {
	name string
	ms   float64
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
