package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A tick is a line of the test program: its number, and when it was printed, by the program's clock.
type tick struct {
	n  uint64
	at time.Time
}

// parseTicks picks the ticks from what was printed, or from a log that has words of its own before each line. Lines
// have the time of day only; near tells the day.
func parseTicks(text string, near time.Time) []tick {
	var ticks []tick
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || f[len(f)-3] != "tick" {
			continue
		}
		f = f[len(f)-3:]
		n, err := strconv.ParseUint(f[1], 10, 64)
		at, terr := time.Parse("15:04:05.000", f[2])
		if err == nil && terr == nil {
			ticks = append(ticks, tick{n, onDay(at, near)})
		}
	}
	return ticks
}

// onDay gives a time of day the day that brings it closest to near.
func onDay(at, near time.Time) time.Time {
	near = near.UTC()
	at = time.Date(near.Year(), near.Month(), near.Day(), at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC)
	const halfDay = 12 * time.Hour
	switch d := at.Sub(near); {
	case d > halfDay:
		return at.AddDate(0, 0, -1)
	case d < -halfDay:
		return at.AddDate(0, 0, 1)
	}
	return at
}

func lastTick(ticks []tick) uint64 {
	if len(ticks) == 0 {
		return 0
	}
	return ticks[len(ticks)-1].n
}

// silence is the time between the last tick before a move and the first after it. The source of a copying tool goes on
// printing, so the number tells which line was the last.
func silence(before []tick, first tick) (time.Duration, error) {
	for _, t := range before {
		if t.n == first.n-1 {
			return first.at.Sub(t.at), nil
		}
	}
	return 0, fmt.Errorf("the first line after the move is number %d, and the one before it was never printed", first.n)
}

// marks are the moments that a script notes with `mark NAME`.
type marks map[string]time.Time

// markFunction is for scripts.
const markFunction = `
mark() { printf 'mark %s %s\n' "$1" "${EPOCHREALTIME/[^0-9]/}"; }
`

// copyFunction is for scripts: it copies a file to host b, with a cipher that the machine's processor knows, which is
// three times as fast as scp by itself.
const copyFunction = `
copy() { scp -q -c aes128-gcm@openssh.com "$1" "b:$1"; }
`

// parseMarks picks the marks from what a script printed.
func parseMarks(text string) marks {
	m := marks{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "mark" {
			continue
		}
		if us, err := strconv.ParseInt(f[2], 10, 64); err == nil {
			m[f[1]] = time.UnixMicro(us)
		}
	}
	return m
}

// steps are the times between marks, each under the name of the mark that ends it.
func (m marks) steps(names ...string) []step {
	var list []step
	for i, name := range names[1:] {
		list = append(list, step{name, millis(m[name].Sub(m[names[i]]))})
	}
	return list
}
