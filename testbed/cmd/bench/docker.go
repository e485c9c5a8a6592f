package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// toolDocker is Docker's own checkpoints with everything that is needed by hand, in its row and in --limits.
const toolDocker = "docker"

const (
	dockerBound    = 3                // times ours
	dockerPatience = 30 * time.Second // until a client's connection is given up
)

// dockerResults are moves of Docker containers, by our own program and by hand with what Docker offers.
type dockerResults struct {
	Version string       `json:"version"`
	Rows    []*dockerRow `json:"rows"`
	Alone   *dockerAlone `json:"alone,omitempty"`
}

// A dockerRow is one of both at one size. What is kept is looked for after every move.
type dockerRow struct {
	row
	Kept []kept `json:"kept"`
}

// kept says what the container still has after a move.
type kept struct {
	Connection bool `json:"connection"` // of a client on a third host
	File       bool `json:"file"`       // which was changed in the container
	Log        bool `json:"log"`        // what it printed before, in docker-logs(1)
}

// A dockerAlone is what Docker's commands do by themselves: with CRIU configured as it comes, and nothing copied but the checkpoint.
type dockerAlone struct {
	Refusal string `json:"refusal"` // to checkpoint a container that has a client; empty: it does
	Kept    kept   `json:"kept"`
}

// A dock is the lab's hosts with Docker.
type dock struct {
	*lab
	mover *mover
}

// measureDocker has both take turns on hosts of their own: those of the other measures are too new for Docker's checkpoints.
func (l *lab) measureDocker(ctx context.Context, progress io.Writer, res *results) (err error) {
	d, err := l.raiseDock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close(context.WithoutCancel(ctx))) }()
	res.Docker = &dockerResults{}
	if res.Docker.Version, err = run(ctx, d.a, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		return err
	}
	res.Docker.Version = strings.TrimSpace(res.Docker.Version)
	if res.Docker.Alone, err = d.alone(ctx, l.sizes[0]); err != nil {
		return fmt.Errorf("look what Docker does alone: %w", err)
	}
	for i := range warmUps {
		if _, err := d.round(ctx, fmt.Sprintf("w%d", i), i, l.sizes[0], progress, res); err != nil {
			return err
		}
	}
	for i := range l.runs {
		for _, mib := range l.sizes {
			if !l.takesPart(toolDocker, mib, i) {
				continue
			}
			samples, err := d.round(ctx, fmt.Sprintf("r%d", i+1), i, mib, progress, res)
			if err != nil {
				return err
			}
			res.Docker.add(l, mib, samples)
		}
	}
	return nil
}

// raiseDock raises the hosts, the third for clients, and starts our agent.
func (l *lab) raiseDock(ctx context.Context) (*dock, error) {
	r, err := rig.Raise(ctx, rig.Options{Name: l.name + "-docker", Hosts: []string{"a", "b", "c"}, Link: l.link, Images: []string{testbed.ImageTools},
		Binary: l.binary, Docker: testbed.Docker26})
	if err != nil {
		return nil, err
	}
	d := &dock{lab: &lab{options: l.options, rig: r, a: r.Bed.Host("a"), b: r.Bed.Host("b"), c: r.Bed.Host("c")}}
	d.mover = &mover{lab: d.lab, from: d.a, to: d.b}
	d.used = []tool{d.mover}
	if err := d.mover.prepare(ctx); err != nil {
		return nil, errors.Join(err, d.close(context.WithoutCancel(ctx)))
	}
	return d, nil
}

// A dockerSample is what one move cost, and what was left after it.
type dockerSample struct {
	sample
	kept kept
}

// round has both move one container. It returns nothing if one of them failed. The order changes from round to round.
func (d *dock) round(ctx context.Context, label string, turn, mib int, progress io.Writer, res *results) (map[string]dockerSample, error) {
	ways := []struct {
		name string
		move func(context.Context, *docked) (sample, error)
	}{{toolMigrate, d.send}, {toolDocker, d.byHand}}
	samples := map[string]dockerSample{}
	for i := range ways {
		w := ways[(i+turn)%len(ways)]
		s, err := d.one(ctx, fmt.Sprintf("docker-%s-%d-%s", w.name, mib, label), mib, w.move)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			res.fail(progress, err, "%-4s %4d MiB  docker, %-8s", label, mib, w.name)
		default:
			samples[w.name] = s
			fmt.Fprintf(progress, "%-4s %4d MiB  docker, by %-8s %8.1f ms, kept %+v\n", label, mib, w.name, s.downtime, s.kept)
		}
	}
	if len(samples) < len(ways) {
		return nil, nil
	}
	return samples, nil
}

// one is one move, from the making of the container to its removal.
func (d *dock) one(ctx context.Context, id string, mib int, move func(context.Context, *docked) (sample, error)) (dockerSample, error) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	s := d.docked(id, mib)
	defer d.remove(context.WithoutCancel(ctx), s)
	if err := d.begin(ctx, s); err != nil {
		return dockerSample{}, err
	}
	cost, err := move(ctx, s)
	if err != nil {
		return dockerSample{}, err
	}
	if err := d.verify(ctx, s); err != nil {
		return dockerSample{}, err
	}
	left, err := d.look(ctx, s)
	return dockerSample{cost, left}, err
}

// send is our own way.
func (d *dock) send(ctx context.Context, s *docked) (sample, error) {
	began := time.Now()
	rep, err := d.mover.send(ctx, s.id, "--engine", "docker")
	if err != nil {
		return sample{}, err
	}
	r := sample{downtime: rep.DowntimeMS, total: rep.TotalMS, wire: rep.WireBytes, steps: reportSteps(rep)}
	last, err := d.ticksAfter(ctx, s, began)
	r.gap = quiet(last, began)
	return r, err
}

// reportSteps are the parts of a report's downtime.
func reportSteps(rep *report.Report) (list []step) {
	for _, p := range rep.Downtime {
		list = append(list, step{p.Name, p.MS})
	}
	return list
}

func (r *dockerResults) add(l *lab, mib int, samples map[string]dockerSample) {
	for _, name := range []string{toolMigrate, toolDocker} {
		s, ok := samples[name]
		if !ok {
			continue
		}
		w := r.row(name, mib)
		if w == nil {
			w = &dockerRow{row: row{Tool: name, Mode: map[string]string{toolMigrate: "default", toolDocker: "by-hand"}[name], MemoryMiB: mib,
				DirtyPages: dirtyPages(mib, l.dirty), LinkMbit: l.linkMbit, Network: testbed.DockerNetwork, FloorMS: []float64{}, StepsMS: map[string][]float64{}}}
			r.Rows = append(r.Rows, w)
		}
		w.add(s.sample)
		w.Kept = append(w.Kept, s.kept)
	}
}

// row finds one, or nil.
func (r *dockerResults) row(tool string, mib int) *dockerRow {
	i := slices.IndexFunc(r.Rows, func(w *dockerRow) bool { return w.Tool == tool && w.MemoryMiB == mib })
	if i < 0 {
		return nil
	}
	return r.Rows[i]
}

// dockerRatios compare the medians, size by size.
func dockerRatios(r *results) (list []value) {
	if r.Docker == nil {
		return nil
	}
	for _, w := range r.Docker.Rows {
		ours := r.Docker.row(toolMigrate, w.MemoryMiB)
		if w.Tool == toolDocker && ours != nil {
			list = append(list, value{sizeName(w.MemoryMiB), median(w.DowntimeMS) / median(ours.DowntimeMS)})
		}
	}
	return list
}

func (r *results) printDocker(out io.Writer) {
	w := r.Docker
	if w == nil || len(w.Rows) == 0 {
		return
	}
	fmt.Fprintf(out, "\nDocker %s, by migrate send and by hand (docker checkpoint create, copy, docker start --checkpoint):\n", w.Version)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "memory\tby\tn\tdowntime ms\t(min–max)\tgap ms\ttotal ms\twire MiB\tconnections kept\tfiles\tlogs\t")
	for _, row := range w.Rows {
		fmt.Fprintf(t, "%d MiB\t%s\t%d\t%.0f\t(%.0f–%.0f)\t%.0f\t%.0f\t%.1f\t%d\t%d\t%d\t\n", row.MemoryMiB, row.Tool, len(row.DowntimeMS),
			median(row.DowntimeMS), slices.Min(row.DowntimeMS), slices.Max(row.DowntimeMS), median(row.GapMS), median(row.TotalMS), median(row.WireBytes)/(1<<20),
			row.count(func(k kept) bool { return k.Connection }), row.count(func(k kept) bool { return k.File }), row.count(func(k kept) bool { return k.Log }))
	}
	_ = t.Flush() // to the terminal
	for _, row := range w.Rows {
		fmt.Fprintf(out, "  %4d MiB  %-8s %s\n", row.MemoryMiB, row.Tool, row.medianSteps())
	}
	if a := w.Alone; a != nil {
		fmt.Fprintf(out, "  docker by itself, with a client: %s; without one, nothing copied but the checkpoint: file kept %t, log kept %t\n",
			wordOr(a.Refusal, "it makes a checkpoint"), a.Kept.File, a.Kept.Log)
	}
}

// count is how many moves left something where it was.
func (w *dockerRow) count(is func(kept) bool) (n int) {
	for _, k := range w.Kept {
		if is(k) {
			n++
		}
	}
	return n
}
