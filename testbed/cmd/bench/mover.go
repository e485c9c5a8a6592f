package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"

	"migrate/internal/report"
	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// A mover is our own program: `migrate recv` serves on one host for as long as the bench runs, and every move is one
// `migrate send` on another.
type mover struct {
	lab      *lab
	from, to *testbed.Host
	agent    *rig.Agent
}

func (*mover) name() string { return toolMigrate }
func (*mover) mode() string { return "default" }

func (m *mover) prepare(ctx context.Context) (err error) {
	m.agent, err = rig.StartAgent(ctx, m.to)
	return err
}

func (m *mover) stop() {
	if m.agent != nil {
		m.agent.Kill()
	}
}

func (m *mover) move(ctx context.Context, s subject) (sample, error) {
	if err := m.lab.start(ctx, s); err != nil {
		return sample{}, err
	}
	in, err := m.watched(ctx, s)
	if err != nil {
		return sample{}, err
	}
	if err := s.verify(ctx, m.to, in.report.Pid); err != nil {
		return sample{}, err
	}
	return m.result(ctx, s, in)
}

// watched sends the container and looks at the agents meanwhile.
func (m *mover) watched(ctx context.Context, s subject) (*inside, error) {
	pid, err := pidOf(ctx, m.from, s.id)
	if err != nil {
		return nil, err
	}
	in := &inside{}
	// The test program is a single process.
	if in.memory, err = readFootprint(m.from.Path("/proc/" + strconv.Itoa(pid))); err != nil {
		return nil, err
	}
	src, dst := watchAgents(m.from), watchAgents(m.to)
	in.report, err = m.send(ctx, s.id)
	in.src, in.dst = src.end(), dst.end()
	return in, err
}

func (m *mover) send(ctx context.Context, id string, flags ...string) (*report.Report, error) {
	argv := append([]string{"migrate", "send", id, m.to.Name, "--json"}, append(flags, m.lab.sendArgs...)...)
	if m.agent.Token != "" {
		argv = append(argv, "--token", m.agent.Token)
	}
	// not killed at once when the bench is interrupted: it takes its move back
	out, err := run(ctx, m.from, argv...)
	var rep report.Report
	if jerr := json.Unmarshal([]byte(out), &rep); jerr != nil {
		return nil, fmt.Errorf("read the report: %w", firstOf(err, jerr))
	}
	switch {
	case err != nil:
		return nil, err
	case rep.Result != report.Moved:
		return nil, fmt.Errorf("the report says %s", rep.Result)
	}
	m.agent.Token = ""
	return &rep, nil
}

func (m *mover) result(ctx context.Context, s subject, in *inside) (sample, error) {
	rep := in.report
	r := sample{downtime: rep.DowntimeMS, total: rep.TotalMS, wire: rep.WireBytes, inside: in}
	if r.downtime <= 0 || r.wire <= 0 {
		return r, errors.New("the report has no downtime or no bytes")
	}
	for _, p := range rep.Downtime {
		r.steps = append(r.steps, step{p.Name, p.MS})
	}
	for name, ms := range rep.RestoreMS {
		r.steps = append(r.steps, step{"destination " + name, ms})
	}
	own := len(rep.Downtime)
	sort.Slice(r.steps[own:], func(i, j int) bool { return r.steps[own+i].name < r.steps[own+j].name })
	var after []tick
	err := eventually(ctx, "the program prints after the move", func() bool {
		after = readTicks(m.to, s)
		return len(after) > 0
	})
	if err != nil {
		return r, err
	}
	gap, err := silence(readTicks(m.from, s), after[0])
	r.gap = millis(gap)
	return r, err
}
