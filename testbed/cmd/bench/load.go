package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
)

const (
	redisImage = "testbed/redis:latest"
	// Redis holds about 1 GiB that nobody touches, and the benchmark writes keys beside it.
	ballast   = "1000000"
	writeKeys = "100000"
	writeSize = "1000" // bytes of each value
	// undisturbed is how long redis is watched before a move.
	undisturbed = 3 * time.Second
)

// A loadRow is how many commands redis did in a second under redis-benchmark, right before a move and while memory was
// copied, move by move. Everything runs on one machine, so the agents of both hosts, redis and redis-benchmark
// share its processors.
type loadRow struct {
	Clients      int       `json:"clients"`
	BeforePerSec []float64 `json:"before_per_sec"`
	DuringPerSec []float64 `json:"during_per_sec"`
	PrecopyMS    []float64 `json:"precopy_ms"`
}

// ratio is the median of what was left, in pairs.
func (w *loadRow) ratio() float64 { return median(ratios(w.DuringPerSec, w.BeforePerSec)) }

func (l *lab) measureLoad(ctx context.Context, progress io.Writer, res *results) error {
	m, err := l.mover()
	if err != nil {
		return err
	}
	w := &loadRow{Clients: l.clients}
	res.Load = w
	for i := range l.runs {
		err := l.loadRun(ctx, m, fmt.Sprintf("load-r%d", i+1), w)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			res.fail(progress, err, "r%-3d load", i+1)
		default:
			fmt.Fprintf(progress, "r%-3d load  %.0f commands/s before, %.0f during %.0f ms of copying\n", i+1,
				w.BeforePerSec[len(w.BeforePerSec)-1], w.DuringPerSec[len(w.DuringPerSec)-1], w.PrecopyMS[len(w.PrecopyMS)-1])
		}
	}
	return nil
}

// loadRun is one move of a busy redis.
func (l *lab) loadRun(ctx context.Context, m *mover, id string, w *loadRow) error {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	defer l.wipe(context.WithoutCancel(ctx), subject{id: id})
	address, err := l.startRedis(ctx, id)
	if err != nil {
		return err
	}
	busy, err := startBackground(ctx, l.b, "redis-benchmark", "-h", address, "-q", "-t", "set", "-c", strconv.Itoa(l.clients),
		"-n", "1000000000", "-r", writeKeys, "-d", writeSize)
	if err != nil {
		return err
	}
	defer busy.end()
	watch, err := startBackground(ctx, l.b, "redis-cli", "-h", address, "-r", "-1", "-i", "0.05", "INFO", "server", "stats")
	if err != nil {
		return err
	}
	defer watch.end()
	err = eventually(ctx, "redis is watched for long enough", func() bool {
		c := parseCounts(watch.text())
		return len(c) > 0 && c[len(c)-1].at.Sub(c[0].at) > undisturbed+time.Second
	})
	if err != nil {
		return err
	}
	rep, err := m.send(ctx, id)
	if err != nil {
		return err
	}
	return w.add(rep, parseCounts(watch.text()))
}

// startRedis returns the address of a redis on host a that holds its ballast.
func (l *lab) startRedis(ctx context.Context, id string) (string, error) {
	c, err := l.a.RunContainer(ctx, testbed.ContainerSpec{
		ID: id, Image: redisImage, Network: testbed.NetworkCNI,
		Args: []string{"redis-server", "/etc/redis-testbed.conf", "--enable-debug-command", "yes"},
	})
	if err != nil {
		return "", err
	}
	address := c.Addr.String()
	err = eventually(ctx, "redis holds its ballast", func() bool {
		out, err := run(ctx, l.b, "redis-cli", "-h", address, "DEBUG", "POPULATE", ballast, "ballast", writeSize)
		return err == nil && strings.TrimSpace(out) == "OK"
	})
	return address, err
}

// add takes in a move: the seconds before it, and the time in which memory was copied while the container ran.
func (w *loadRow) add(rep *report.Report, counts []count) error {
	begin := rep.Started
	for _, p := range rep.Phases {
		took := time.Duration(p.MS * float64(time.Millisecond))
		if p.Name != report.Precopy {
			begin = begin.Add(took)
			continue
		}
		before, err := perSecond(counts, rep.Started.Add(-undisturbed), rep.Started)
		if err != nil {
			return err
		}
		during, err := perSecond(counts, begin, begin.Add(took))
		if err != nil {
			return err
		}
		w.BeforePerSec, w.DuringPerSec = append(w.BeforePerSec, before), append(w.DuringPerSec, during)
		w.PrecopyMS = append(w.PrecopyMS, p.MS)
		return nil
	}
	return errors.New("the report tells of no copying before the freeze")
}

// A count is how many commands redis has done, at a moment.
type count struct {
	at time.Time
	n  float64
}

// parseCounts picks them from repeated answers to INFO.
func parseCounts(text string) []count {
	var list []count
	var at time.Time
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "server_time_usec":
			at = time.UnixMicro(n)
		case "total_commands_processed":
			list = append(list, count{at, float64(n)})
		}
	}
	return list
}

// perSecond is the rate between two moments.
func perSecond(counts []count, begin, end time.Time) (float64, error) {
	first, err := countAt(counts, begin)
	if err != nil {
		return 0, err
	}
	last, err := countAt(counts, end)
	if err != nil {
		return 0, err
	}
	return (last - first) / end.Sub(begin).Seconds(), nil
}

// countAt is what the count was at a moment between two looks at it, as if it had grown evenly.
func countAt(counts []count, at time.Time) (float64, error) {
	for i := 1; i < len(counts); i++ {
		a, b := counts[i-1], counts[i]
		if at.Before(a.at) || at.After(b.at) {
			continue
		}
		share := float64(at.Sub(a.at)) / float64(max(b.at.Sub(a.at), 1))
		return a.n + share*(b.n-a.n), nil
	}
	return 0, fmt.Errorf("redis was not watched at %s", at.UTC().Format("15:04:05.000"))
}

// A background is a command at work in a host whose output is read meanwhile.
type background struct {
	cancel context.CancelFunc
	wait   func() error

	mu   sync.Mutex
	said bytes.Buffer
}

func startBackground(ctx context.Context, h *testbed.Host, argv ...string) (*background, error) {
	ctx, cancel := context.WithCancel(ctx)
	b := &background{cancel: cancel}
	cmd := h.Command(ctx, argv...)
	cmd.Stdout = b
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("host %s: start %s: %w", h.Name, argv[0], err)
	}
	b.wait = cmd.Wait
	return b, nil
}

// Write is for the command.
func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said.Write(p)
}

func (b *background) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said.String()
}

// end kills the command.
func (b *background) end() {
	b.cancel()
	_ = b.wait() // it was killed
}
