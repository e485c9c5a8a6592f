package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"migrate/testbed"
)

// The container that is looked at, and how long the look may take beside a list of its descriptors.
const (
	checkProcesses   = 1000
	checkDescriptors = 10 // of each
	checkBound       = 1.5
)

// A checkRow is what `migrate check CONTAINER` takes, beside `ls -l /proc/PID/fd` of the same processes, in turns.
type checkRow struct {
	Processes   int       `json:"processes"`
	Descriptors int       `json:"descriptors"`
	CheckMS     []float64 `json:"check_ms"`
	ListMS      []float64 `json:"ls_ms"`
}

// ratio is the median of pairs.
func (w *checkRow) ratio() float64 {
	var list []float64
	for i, ms := range w.CheckMS {
		list = append(list, ms/w.ListMS[i])
	}
	return median(list)
}

// checkScript is the container: every process has the standard streams, a few files of its own, and others. It says so when all are there.
var checkScript = fmt.Sprintf(`
for i in $(seq %d); do sleep infinity 3</bin/sh 4</dev/null 5</ 6</proc/meminfo 7>/tmp/x 8>>/tmp/y 9</tmp & done
echo ready
wait
`, checkProcesses-1)

// turnsScript takes turns of both in a host; the arguments are the container and how often.
const turnsScript = `
dirs=$(for pid in $(ctr tasks ps "$1" | awk 'NR > 1 { print $1 }'); do echo /proc/$pid/fd; done)
for i in $(seq "$2"); do
	begin=${EPOCHREALTIME/./}; migrate check "$1" >/dev/null
	middle=${EPOCHREALTIME/./}; ls -l $dirs >/dev/null
	end=${EPOCHREALTIME/./}; echo $((middle - begin)) $((end - middle))
done
`

// measureCheck looks at a container with many processes.
func (l *lab) measureCheck(ctx context.Context, progress io.Writer, res *results) error {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	s := l.subject("check", 0)
	defer l.wipe(context.WithoutCancel(ctx), s)
	args := []string{"sh", "-euc", checkScript}
	if _, err := l.a.RunContainer(ctx, testbed.ContainerSpec{ID: s.id, Image: image, Args: args, Network: l.network}); err != nil {
		return err
	}
	ready := func() bool {
		text, err := os.ReadFile(l.a.Path(s.log()))
		return err == nil && strings.HasSuffix(string(text), "ready\n")
	}
	if err := eventually(ctx, s.id+" has its processes", ready); err != nil {
		return err
	}
	out, err := script(ctx, l.a, turnsScript, s.id, fmt.Sprint(warmUps+l.runs))
	if err != nil {
		return fmt.Errorf("look at a container with %d processes: %w", checkProcesses, err)
	}
	w := &checkRow{Processes: checkProcesses, Descriptors: checkProcesses * checkDescriptors}
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var check, list float64 // µs
		if _, err := fmt.Sscan(line, &check, &list); err != nil {
			return fmt.Errorf("read how long it took from %q: %w", line, err)
		}
		if i < warmUps {
			continue
		}
		w.CheckMS, w.ListMS = append(w.CheckMS, check/1000), append(w.ListMS, list/1000)
		fmt.Fprintf(progress, "r%-3d check  %.0f ms, ls %.0f ms\n", i, check/1000, list/1000)
	}
	res.Check = w
	return nil
}

func checkRatio(r *results) []value {
	if r.Check == nil || len(r.Check.CheckMS) == 0 {
		return nil
	}
	return []value{{fmt.Sprintf("%d processes, %d descriptors", r.Check.Processes, r.Check.Descriptors), r.Check.ratio()}}
}

func (r *results) printCheck(out io.Writer) {
	if w := r.Check; w != nil {
		fmt.Fprintf(out, "\nmigrate check of %d processes with %d descriptors: %.0f ms, ls -l of the same %.0f ms, medians\n",
			w.Processes, w.Descriptors, median(w.CheckMS), median(w.ListMS))
	}
}
