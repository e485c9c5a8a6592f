package migrate

import (
	"context"
	"fmt"
	"time"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/internal/preflight/gather"
	"migrate/internal/proto"
	"migrate/internal/report"
)

// checkLimit bounds the destination's answer.
const checkLimit = 120 * time.Second

// CheckReport is what a check found. Nothing was moved, stopped or kept.
type CheckReport struct {
	Version     int                 `json:"version"`
	Container   string              `json:"container,omitempty"`
	Namespace   string              `json:"namespace,omitempty"`
	Destination string              `json:"destination,omitempty"`
	Name        string              `json:"name,omitempty"` // the container's id at the destination
	Host        preflight.Host      `json:"host"`
	Peer        *preflight.Host     `json:"destination_host,omitempty"`
	Blocked     bool                `json:"blocked"`
	Findings    []preflight.Finding `json:"findings"`
	TookMS      float64             `json:"took_ms"` // of the look at this side
	Error       *fail.Fault         `json:"error,omitempty"`
}

// CheckVersion is the version of CheckReport's format.
const CheckVersion = 1

// CheckHost finds out whether this host can send and receive at all.
func CheckHost(ctx context.Context, eng engine.Source) (*CheckReport, error) {
	info, err := eng.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the engine about this host: %w", err)
	}
	begin := time.Now()
	host := gather.Host(ctx, gather.Versions{Kernel: info.Kernel, Arch: info.Arch, CRIU: info.CRIU, Runc: info.Runtime}, true)
	rep := &CheckReport{Version: CheckVersion, Host: *host}
	rep.TookMS = milliseconds(begin)
	rep.Add(nil, preflight.JudgeHost(host, preflight.Source)...)
	way, err := eng.RestoreWay(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the engine about this host: %w", err)
	}
	if way != "" {
		rep.Add(nil, preflight.New("restore-way", preflight.Source, preflight.Thing{}, way))
	}
	return rep, nil
}

// Check finds out what would stand in the way of Send with the same options, at the destination only if Dial is set. With canary the
// destination dumps and restores a tiny container.
func Check(ctx context.Context, eng engine.Source, opt Options, canary bool) (rep *CheckReport, err error) {
	s := newSender(eng, opt)
	defer s.clock.Enter("")
	s.clock.Enter(report.Offer)
	s.user = ctx
	defer func() {
		if uerr := s.unwind(); err == nil {
			err = uerr
		}
		if err != nil {
			err = s.classify(ctx, err)
		}
	}()
	rep = &CheckReport{Version: CheckVersion, Container: opt.Container, Destination: opt.Destination}
	ectx, cancel := context.WithTimeout(ctx, engineLimit)
	defer cancel()
	if err := s.describe(ectx); err != nil {
		return rep, err
	}
	rep.Namespace = s.c.Namespace
	begin := time.Now()
	fs, err := s.examine(ectx, true)
	if err != nil {
		return rep, err
	}
	rep.TookMS = milliseconds(begin)
	rep.Host = s.offer.Facts
	rep.Add(opt.Ignore, fs...)
	if opt.Dial == nil {
		return rep, nil
	}
	if err := s.planStorage(ectx); err != nil {
		return rep, err
	}
	if err := s.size(ectx); err != nil {
		return rep, err
	}
	if short, err := s.memoryShort(); err != nil {
		return rep, err
	} else if short != "" {
		rep.Add(opt.Ignore, s.found("memory", preflight.Thing{}, short))
	}
	return rep, s.askDestination(ctx, rep, canary)
}

// askDestination lets the destination judge the same offer that Send would make.
func (s *sender) askDestination(ctx context.Context, rep *CheckReport, canary bool) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	var err error
	if s.sess, err = s.opt.Dial(ctx); err != nil {
		return err
	}
	s.inbox, ctx, s.cancel = proto.NewInbox(ctx, s.sess)
	defer s.closeSession()
	if err := proto.Send(ctx, s.sess, proto.Check, proto.CheckMsg{Offer: s.offer, Canary: canary}); err != nil {
		return err
	}
	var msg proto.CheckedMsg
	if err := s.inbox.Recv(ctx, proto.Checked, &msg); err != nil {
		return err
	}
	rep.Name, rep.Peer = msg.ID, &msg.Facts
	rep.Add(s.opt.Ignore, proto.Findings(msg.Findings)...)
	return nil
}

// Add takes findings up.
func (r *CheckReport) Add(ignore []string, fs ...preflight.Finding) {
	r.Findings = append(r.Findings, fs...)
	preflight.Sort(r.Findings)
	r.Blocked = len(preflight.Blocking(r.Findings, ignore)) > 0
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

// memoryShort says how much memory is missing for a second copy of what CRIU cannot leave in place, "" when none is.
func (s *sender) memoryShort() (string, error) {
	free, err := criu.FreeMemory()
	if err != nil {
		return "", err
	}
	need := s.offer.Memory + stageSlack
	if s.inPlace() {
		need = criu.HeldMemoryOf(s.h.Pids) + s.offer.Memory/tableShare + stageSlack
	}
	if need <= free {
		return "", nil
	}
	return fmt.Sprintf("%d MiB are needed and %d MiB are free", need>>20, free>>20), nil
}
