package migrate

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"migrate/internal/criu"
	"migrate/internal/fail"
	"migrate/internal/network"
	"migrate/internal/preflight"
	"migrate/internal/preflight/gather"
)

// preflight refuses what is known to fail after the freeze.
func (s *sender) preflight(ctx context.Context) error {
	fs, err := s.examine(ctx, false)
	if err != nil {
		return err
	}
	return s.judge(fs)
}

// examine finds everything that stands in the way at this side. With strict it fails where it cannot look into the container's
// processes; a migration is not held up by that.
func (s *sender) examine(ctx context.Context, strict bool) ([]preflight.Finding, error) {
	info := s.offer.Source
	host := gather.Host(ctx, gather.Versions{Kernel: info.Kernel, Arch: info.Arch, CRIU: info.CRIU, Runc: info.Runtime}, false)
	s.offer.Facts = *host
	fs := slices.DeleteFunc(preflight.JudgeHost(host, preflight.Source), func(f preflight.Finding) bool {
		return f.Code == "cap-sys-resource" // judged by whether the container has processes of other users
	})
	for i := range fs {
		fs[i].State = preflight.StillRunning
	}
	if info.CRIU == "" {
		return fs, nil
	}
	if err := criu.Warm(ctx); err != nil {
		return nil, err
	}
	if s.h.CgroupFreeze == "" {
		fs = append(fs, s.found("no-freezer", preflight.Thing{}, ""))
	}
	more, err := s.examineContainer(ctx, s.h.Pids)
	if err != nil && strict {
		return nil, err
	}
	if err != nil {
		s.log.Warn("look into the container", "err", err)
	}
	conns, err := s.examineConnections()
	if err != nil {
		return nil, err
	}
	fs = slices.Concat(fs, more, conns)
	preflight.Sort(fs)
	return fs, nil
}

// How often, and how long after each time, processes are looked at again that came by exec: health checks of the engine come so,
// and leave.
const (
	sessionTries = 10
	sessionAgain = 200 * time.Millisecond
)

// examineContainer judges the container by what its processes have.
func (s *sender) examineContainer(ctx context.Context, pids []int) ([]preflight.Finding, error) {
	for try := 1; ; try++ {
		fs, err := s.examineProcesses(ctx, pids)
		passing := slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == "exec-session" })
		if err != nil || !passing || try == sessionTries {
			return fs, err
		}
		if err := pause(ctx, sessionAgain); err != nil {
			return nil, err
		}
		pids = slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
			_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
			return err != nil
		})
	}
}

func (s *sender) examineProcesses(ctx context.Context, pids []int) ([]preflight.Finding, error) {
	spec, _, err := gather.Spec(s.c.Spec)
	if err != nil {
		return nil, err
	}
	c, err := gather.Container(ctx, gather.Options{
		Init: s.h.Pid, Pids: pids, Passed: s.h.Passed, Binds: s.h.Mounts, GhostLimit: criu.GhostLimit,
		Memory: func() int64 { return criu.MemoryOf(pids) }, LazyLimit: criu.LazyLimit(), Spec: spec,
		Leaving: s.leaving, CloseTCP: s.opt.TCP == criu.TCPClose, EndSessions: s.opt.ExecSessions == SessionsEnd,
	})
	if err != nil {
		return nil, err
	}
	return preflight.Judge(c), nil
}

// examineConnections counts the connections that move. With the host's network the addresses stay behind, so that connections
// cannot be kept; and the container's sockets among the host's cannot be told apart by namespace, only by descriptor.
func (s *sender) examineConnections() ([]preflight.Finding, error) {
	if s.c.Network.Stays() {
		if s.opt.TCP == criu.TCPClose {
			return nil, nil
		}
		n, err := network.EstablishedOf(s.h.Pids)
		if err != nil {
			return nil, fmt.Errorf("list the container's connections: %w", err)
		}
		if n == 0 {
			return nil, nil
		}
		return []preflight.Finding{s.found("tcp-lost", preflight.Thing{}, fmt.Sprintf("%d established connections", n))}, nil
	}
	conns, err := network.EstablishedTCP(fmt.Sprintf("/proc/%d/ns/net", s.h.Pid))
	if err != nil {
		return nil, fmt.Errorf("list the container's connections: %w", err)
	}
	conns = slices.DeleteFunc(conns, network.Conn.Loopback)
	s.rep.Connections = len(conns)
	return s.examineTranslated(conns), nil
}

// examineTranslated finds connections that stay behind although the container's address moves: their other ends know this host's.
func (s *sender) examineTranslated(conns []network.Conn) []preflight.Finding {
	if len(conns) == 0 || s.opt.TCP == criu.TCPClose {
		return nil
	}
	lost, err := network.Translated(conns)
	if err != nil {
		s.log.Debug("look for connections that are translated", "err", err)
	}
	if len(lost) == 0 {
		return nil
	}
	return []preflight.Finding{s.found("tcp-translated", preflight.Thing{}, fmt.Sprintf("%d connections, one of them %v", len(lost), lost[0]))}
}

// lookAgain is the last look before the freeze: what has come up since the first one. That it cannot look stops nobody.
func (s *sender) lookAgain(ctx context.Context) error {
	if err := s.sameRun(); err != nil {
		return err
	}
	pids, err := s.freezer().Tasks()
	if err != nil || len(pids) == 0 {
		pids = s.h.Pids
	}
	fs, err := s.examineContainer(ctx, pids)
	if err != nil {
		s.log.Warn("look at the container once more", "err", err)
		return nil
	}
	return s.judge(fs)
}

func (s *sender) found(code string, t preflight.Thing, detail string) preflight.Finding {
	f := preflight.New(code, preflight.Source, t, detail)
	f.State = preflight.StillRunning
	return f
}

// judge refuses what blocks, and notes what does not.
func (s *sender) judge(fs []preflight.Finding) error {
	s.note(fs)
	if block := preflight.Blocking(fs, s.opt.Ignore); len(block) > 0 {
		return Refusal(s.opt.Container, block)
	}
	return nil
}

// note puts findings into the report, each kind and thing once.
func (s *sender) note(fs []preflight.Finding) {
	for _, f := range fs {
		known := slices.ContainsFunc(s.rep.Findings, func(o preflight.Finding) bool {
			return o.Code == f.Code && o.Side == f.Side && o.Thing.String() == f.Thing.String()
		})
		if known {
			continue
		}
		s.rep.Findings = append(s.rep.Findings, f)
		if f.Severity == preflight.Degrades {
			s.clock.Note(oneLine(f))
		}
	}
}

// oneLine is what was found, and why that matters.
func oneLine(f preflight.Finding) string {
	text := f.Code + ": "
	if t := f.Thing.String(); t != "" {
		text += t + ": "
	}
	text += f.Reason
	if f.More > 0 {
		text += fmt.Sprintf(" (and %d more)", f.More)
	}
	return text
}

// Refusal makes a Fault of findings that block.
func Refusal(container string, block []preflight.Finding) *fail.Fault {
	first := block[0]
	f := &fail.Fault{
		Code: refusalCode(first), What: fmt.Sprintf("container %q cannot be moved as it is", container), Where: first.Side + ", preflight",
	}
	var why, remedies []string
	for _, b := range block {
		why = append(why, oneLine(b))
		if b.Remedy != "" && !slices.Contains(remedies, b.Remedy) {
			remedies = append(remedies, b.Remedy)
		}
	}
	f.Why, f.Remedy = strings.Join(why, "\n"), strings.Join(remedies, "\n")
	return f
}

// refusalCode is the code, and so the exit status, of a refusal.
func refusalCode(f preflight.Finding) fail.Code {
	switch {
	case f.Code == "memory" || f.Code == "disk":
		return fail.Space
	case f.Side == preflight.Destination:
		return fail.Refused
	case f.Code == "criu-missing":
		return fail.Checkpoint
	}
	return fail.Unsupported
}
