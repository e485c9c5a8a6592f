package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
)

// databaseImage is what testbed.ImageDatabases holds.
const databaseImage = "testbed/databases:latest"

//go:embed postgres.sh
var postgresScript string

//go:embed postgres-check.sh
var postgresCheck string

const (
	postgresStart = 3 * time.Minute // to fill its buffers
	postgresBound = 0.8             // of the floor
)

// A postgresRow is what moves of a postgres cost whose shared buffers are in use, to and fro and under load, beside checkpoints and restores of
// another one where it is. Times are milliseconds.
type postgresRow struct {
	BuffersMiB int       `json:"shared_buffers_mib"`
	SharedMiB  []float64 `json:"shared_memory_mib"` // that was there at the freeze
	DowntimeMS []float64 `json:"downtime_ms"`
	QuietMS    []float64 `json:"quiet_ms"` // how long the container printed nothing
	TotalMS    []float64 `json:"total_ms"`
	FloorMS    []float64 `json:"floor_ms"`
	StepsMS    []steps   `json:"steps_ms"`
	Wire       []int64   `json:"wire_bytes"`
	Checked    []string  `json:"checked"` // what the databases said in the end, that which moved first
}

type steps map[string]float64

// postgres is a container of it.
func (l *lab) postgres(id string) subject {
	s := l.subject(id, l.postgresMiB)
	s.image = databaseImage
	s.argv = []string{"bash", "-c", postgresScript, "postgres", strconv.Itoa(l.postgresMiB)}
	return s
}

// measurePostgres has both take turns.
func (l *lab) measurePostgres(ctx context.Context, progress io.Writer, res *results) (err error) {
	w := &postgresRow{BuffersMiB: l.postgresMiB}
	res.Postgres = w
	moved, stays := l.postgres("postgres-moves"), l.postgres("postgres-stays")
	defer l.wipe(context.WithoutCancel(ctx), moved)
	defer l.wipe(context.WithoutCancel(ctx), stays)
	there, err := l.mover()
	if err != nil {
		return err
	}
	back := &mover{lab: l, from: l.b, to: l.a}
	defer back.stop()
	if err := back.prepare(ctx); err != nil {
		return err
	}
	f := &floor{lab: l}
	out, err := newPipe()
	if err != nil {
		return err
	}
	defer out.close()
	if err := l.startPostgres(ctx, moved, f, stays, out); err != nil {
		return err
	}
	movers := [2]*mover{there, back}
	for i := range warmUps + l.runs {
		rep, quietMS, floorMS, err := l.postgresTurn(ctx, movers[i%2], moved, f, stays, out)
		if err != nil {
			return err
		}
		if i >= warmUps {
			w.add(rep, quietMS, floorMS)
			fmt.Fprintf(progress, "r%-3d postgres  %4d MiB  downtime %.1f ms, silence %.1f ms, floor %.1f ms\n", i, l.postgresMiB, rep.DowntimeMS, quietMS, floorMS)
		}
	}
	return l.checkPostgres(ctx, movers[(warmUps+l.runs-1)%2].to, moved, stays, w)
}

// startPostgres starts both and waits until they are under load.
func (l *lab) startPostgres(ctx context.Context, moved subject, f *floor, stays subject, out *pipe) error {
	ctx, cancel := context.WithTimeout(ctx, 2*postgresStart)
	defer cancel()
	if _, err := l.a.RunContainer(ctx, testbed.ContainerSpec{ID: moved.id, Image: moved.image, Args: moved.args(), Network: l.network}); err != nil {
		return err
	}
	if err := f.bundle(ctx, stays); err != nil {
		return err
	}
	if err := f.run(ctx, stays, out); err != nil {
		return err
	}
	for _, ready := range []func() bool{
		func() bool { return lastTick(readTicks(l.a, moved)) >= settledTick },
		func() bool { return lastTick(parseTicks(out.text(), time.Now())) >= settledTick },
	} {
		if err := within(ctx, postgresStart, "postgres is under load", ready); err != nil {
			return err
		}
	}
	return nil
}

// within waits longer than eventually does.
func within(ctx context.Context, limit time.Duration, what string, is func() bool) error {
	const every = 100 * time.Millisecond
	for end := time.Now().Add(limit); !is(); {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %s", limit, what)
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// postgresTurn is one move, and one checkpoint and restore.
func (l *lab) postgresTurn(ctx context.Context, m *mover, moved subject, f *floor, stays subject, out *pipe) (rep *report.Report, quietMS, floorMS float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	began := time.Now()
	if rep, err = m.send(ctx, moved.id); err != nil {
		return nil, 0, 0, err
	}
	n := lastTick(readTicks(m.from, moved))
	if err := eventually(ctx, "postgres goes on", func() bool { return lastTick(readTicks(m.to, moved)) > n+settledTick }); err != nil {
		return nil, 0, 0, err
	}
	quietMS = quiet(append(readTicks(l.a, moved), readTicks(l.b, moved)...), began)
	out.reset()
	if _, err := script(ctx, l.a, `rm -rf $1/images; mkdir -p $1/images`, dirOf(stays)); err != nil {
		return nil, 0, 0, err
	}
	if err := f.command(ctx, out, "bash", "-euc", moveScript, "move", dirOf(stays), stays.id); err != nil {
		return nil, 0, 0, f.explain(ctx, stays, err)
	}
	first, err := out.firstAfter(ctx, "dumped")
	if err != nil {
		return nil, 0, 0, err
	}
	return rep, quietMS, millis(first.at.Sub(parseMarks(out.text())["begin"])), nil
}

func (w *postgresRow) add(rep *report.Report, quietMS, floorMS float64) {
	w.SharedMiB = append(w.SharedMiB, float64(rep.Shared)/(1<<20))
	w.DowntimeMS, w.QuietMS, w.TotalMS = append(w.DowntimeMS, rep.DowntimeMS), append(w.QuietMS, quietMS), append(w.TotalMS, rep.TotalMS)
	w.FloorMS, w.Wire = append(w.FloorMS, floorMS), append(w.Wire, rep.WireBytes)
	s := steps{}
	for _, p := range rep.Downtime {
		s[p.Name] = p.MS
	}
	for name, ms := range rep.RestoreMS {
		s["destination "+name] = ms
	}
	w.StepsMS = append(w.StepsMS, s)
}

// checkPostgres has both databases looked at.
func (l *lab) checkPostgres(ctx context.Context, at *testbed.Host, moved, stays subject, w *postgresRow) error {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	check := []string{"chroot", "--userspec=app:app", "--skip-chdir", "/", "bash", "-eu", "-o", "pipefail", "-c", postgresCheck}
	said, err := run(ctx, at, append([]string{"ctr", "tasks", "exec", "--exec-id", "check", moved.id}, check...)...)
	if err != nil {
		return fmt.Errorf("check the database that moved: %w", errors.Join(err, errors.New(said)))
	}
	w.Checked = append(w.Checked, said)
	said, err = run(ctx, l.a, append([]string{"runc", "--root", "/run/bench/runc", "exec", stays.id}, check...)...)
	if err != nil {
		return fmt.Errorf("check the database that stayed: %w", errors.Join(err, errors.New(said)))
	}
	w.Checked = append(w.Checked, said)
	return nil
}

// postgresRatio is the median downtime beside the floor's.
func postgresRatio(r *results) []value {
	if r.Postgres == nil || len(r.Postgres.DowntimeMS) == 0 {
		return nil
	}
	w := r.Postgres
	return []value{{sizeName(w.BuffersMiB), median(w.DowntimeMS) / median(w.FloorMS)}}
}

func (r *results) printPostgres(out io.Writer) {
	w := r.Postgres
	if w == nil || len(w.DowntimeMS) == 0 {
		return
	}
	fmt.Fprintf(out, "\npostgres with %d MiB of shared buffers (%.0f MiB in use) under pgbench, medians of %d: downtime %.0f ms, silence %.0f ms, total %.0f ms; floor %.0f ms\n",
		w.BuffersMiB, median(w.SharedMiB), len(w.DowntimeMS), median(w.DowntimeMS), median(w.QuietMS), median(w.TotalMS), median(w.FloorMS))
	for _, said := range w.Checked {
		fmt.Fprintf(out, "  checked: %s", said)
	}
}
