package matrix

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"migrate/internal/fail"
	"migrate/internal/report"
	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// hops are there and back.
const hops = 2

// A trip is one run of a row.
type trip struct {
	lab    *Lab
	row    Row
	id     string
	at     int    // host where the container is
	addr   string // of the container
	client *client
	result Result
}

// Run starts a row's workload, moves it there and back under load, and checks it. Nothing of it is left afterwards.
func (l *Lab) Run(ctx context.Context, row Row) Result {
	t := &trip{lab: l, row: row, id: fmt.Sprintf("%s-%d", row.Name, l.count.Add(1))}
	t.result = Result{Workload: row.Name, Engine: l.engine.name(), About: row.About}
	if row.Refused == nil {
		t.row.Refused = l.engine.refuses(row)
		t.result.barred = t.row.Refused != nil
	}
	begin := time.Now()
	err := t.run(ctx)
	if err != nil {
		err = t.describe(context.WithoutCancel(ctx), err)
	}
	if rerr := t.remove(context.WithoutCancel(ctx)); rerr != nil {
		err = errors.Join(err, rerr)
	}
	t.result.Seconds = time.Since(begin).Seconds()
	t.result.conclude(t.row, err)
	return t.result
}

func (t *trip) run(ctx context.Context) error {
	if err := t.row.validate(); err != nil {
		return err
	}
	if err := t.start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if t.row.Refused != nil {
		return t.refusal(ctx)
	}
	for range hops {
		if err := t.hop(ctx); err != nil {
			return err
		}
	}
	if err := t.client.finish(ctx); err != nil {
		return fmt.Errorf("the client: %w", err)
	}
	return t.checkOutput(ctx)
}

// start returns when the workload is at work and used.
func (t *trip) start(ctx context.Context) (err error) {
	c := container{
		id: t.id, image: imageRef(t.row.Image), args: program(t.row.Files, t.row.Start), network: t.row.network(),
		user: t.row.User, env: t.row.Env, caps: t.row.Caps, seccomp: t.row.Seccomp,
	}
	if c.network == testbed.NetworkCNI && t.lab.options.Address != nil {
		c.ip = t.lab.options.Address()
	}
	if t.addr, err = t.lab.engine.run(ctx, t.host(), c); err != nil {
		return err
	}
	hello, err := t.ready(ctx)
	if err != nil {
		return err
	}
	if t.row.Load != nil {
		if t.client, err = t.lab.startClient(ctx, t, hello); err != nil {
			return err
		}
	}
	if err := t.alive(ctx); err != nil {
		return err
	}
	return t.check(ctx)
}

func imageRef(name string) string { return "testbed/" + name + ":latest" }

func (t *trip) host() *testbed.Host { return t.lab.options.Hosts[t.at] }

// ready waits until the container says it is, and returns what it says.
func (t *trip) ready(ctx context.Context) (hello string, err error) {
	if t.row.Ready == "" {
		return "", nil
	}
	var last error
	err = rig.Eventually(ctx, "the workload is ready", func() (bool, error) {
		if hello, last = t.lab.engine.exec(ctx, t.host(), t.id, t.row.Ready); last == nil {
			return true, nil
		}
		return false, t.stillRuns(ctx)
	})
	if err != nil {
		return "", errors.Join(err, last)
	}
	return strings.TrimSpace(hello), nil
}

// hop moves the container to the other host and looks at it there.
func (t *trip) hop(ctx context.Context) error {
	from, to := t.lab.agents[t.at], t.lab.agents[1-t.at]
	rep, said, err := from.send(ctx, t.id, to)
	if err != nil {
		return fmt.Errorf("move from %s to %s: %w", from.host.Name, to.host.Name, t.explain(ctx, rep, said, err))
	}
	t.at = 1 - t.at
	t.result.Hops = append(t.result.Hops, Hop{From: from.host.Name, To: to.host.Name, DowntimeMS: rep.DowntimeMS, TotalMS: rep.TotalMS})
	for _, check := range []func(context.Context) error{t.alive, t.check, t.alone} {
		if err := check(ctx); err != nil {
			return fmt.Errorf("moved from %s to %s, and then: %w", from.host.Name, to.host.Name, err)
		}
	}
	return nil
}

// explain adds to a failed move what became of the container, and what the source said if there is no report.
func (t *trip) explain(ctx context.Context, rep *report.Report, said string, err error) error {
	var fault *fail.Fault
	if errors.As(err, &fault) && fault.Log != "" {
		err = fmt.Errorf("%w (log %s)", err, fault.Log)
	}
	if rep == nil {
		return fmt.Errorf("%w: %s", err, clip(said))
	}
	if rep.Result != report.Stayed {
		return fmt.Errorf("%w; the report says the container is %s", err, rep.Result)
	}
	if aerr := t.alive(ctx); aerr != nil {
		return fmt.Errorf("%w; and where it stayed: %w", err, aerr)
	}
	return fmt.Errorf("%w; it runs on where it was", err)
}

// refusal has the mover refuse the container, and checks that it was for the right reason, before the freeze, and that the
// container goes on.
func (t *trip) refusal(ctx context.Context) error {
	from, to := t.lab.agents[t.at], t.lab.agents[1-t.at]
	rep, said, err := from.send(ctx, t.id, to)
	var fault *fail.Fault
	switch {
	case err == nil:
		t.at = 1 - t.at
		return errors.New("it was moved, although the row says that it can't be")
	case rep == nil || !errors.As(err, &fault):
		return t.explain(ctx, rep, said, err)
	case rep.Result != report.Stayed:
		return fmt.Errorf("refused, but the report says the container is %s: %w", rep.Result, err)
	case frozen(rep):
		return fmt.Errorf("it failed after the freeze: %w", t.explain(ctx, rep, said, err))
	case !strings.Contains(fault.Text(), t.row.Refused.Words):
		return fmt.Errorf("refused for another reason than %q: %w", t.row.Refused.Words, err)
	}
	t.result.Reason = fault.Error()
	for _, check := range []func(context.Context) error{t.alive, t.check, t.client.finish} {
		if err := check(ctx); err != nil {
			return fmt.Errorf("refused, and then: %w", err)
		}
	}
	return t.checkOutput(ctx)
}

// frozen tells whether the container stood still.
func frozen(rep *report.Report) bool {
	for _, p := range rep.Phases {
		if p.Name == report.Freeze {
			return true
		}
	}
	return false
}

// alive waits for signs of life from now on, of the container's output and of its client.
func (t *trip) alive(ctx context.Context) error {
	const signs = 3
	ticks, lines := t.ticks(ctx, t.at), t.client.lines(ctx)
	err := rig.Eventually(ctx, "the workload goes on", func() (bool, error) {
		if err := t.client.failed(ctx); err != nil {
			return false, err
		}
		if (!t.row.Ticks || t.ticks(ctx, t.at) >= ticks+signs) && (t.client == nil || t.client.lines(ctx) >= lines+signs) {
			return true, nil
		}
		return false, t.stillRuns(ctx)
	})
	if err != nil {
		return err
	}
	return t.stillRuns(ctx)
}

// stillRuns asks the engine whether the container runs where it is.
func (t *trip) stillRuns(ctx context.Context) error {
	state, err := t.lab.engine.state(ctx, t.host(), t.id)
	if err == nil && state != running {
		err = fmt.Errorf("host %s: the container is %q", t.host().Name, state)
	}
	return err
}

// alone checks that the other host does not have the container as well.
func (t *trip) alone(ctx context.Context) error {
	other := t.lab.options.Hosts[1-t.at]
	state, err := t.lab.engine.state(ctx, other, t.id)
	if err == nil && state != "" {
		err = fmt.Errorf("host %s still has it, %s", other.Name, state)
	}
	return err
}

// check runs the row's own check.
func (t *trip) check(ctx context.Context) error {
	if t.row.Check == "" {
		return nil
	}
	if _, err := t.lab.engine.exec(ctx, t.host(), t.id, t.row.Check); err != nil {
		return fmt.Errorf("its check: %w", err)
	}
	return nil
}

// describe adds to a failure what the programs printed last.
func (t *trip) describe(ctx context.Context, err error) error {
	for at, h := range t.lab.options.Hosts {
		if said := notTicks(t.log(ctx, at)); said != "" {
			err = fmt.Errorf("%w\nat %s it printed: %s", err, h.Name, clip(said))
		}
	}
	if t.client != nil {
		err = fmt.Errorf("%w\nthe client printed: %s", err, lastLines(t.client.log(ctx), 8))
	}
	return err
}

func (t *trip) remove(ctx context.Context) error {
	errs := []error{t.client.remove(ctx)}
	for _, h := range t.lab.options.Hosts {
		errs = append(errs, t.lab.engine.remove(ctx, h, t.id))
	}
	return errors.Join(errs...)
}
