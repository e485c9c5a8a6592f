package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/internal/preflight/gather"
)

// What becomes of exec sessions that run in the container. CRIU dumps the first process and its descendants, and of these
// they are none.
const (
	SessionsRefuse = "refuse" // the container is not moved
	SessionsEnd    = "end"    // they are ended right before it stops
)

const (
	sessionGrace = 2 * time.Second        // what a session may take to end by itself
	sessionLimit = 10 * time.Second       // until all of them have to be gone
	sessionPoll  = 20 * time.Millisecond  // between two looks
	sessionCalm  = 100 * time.Millisecond // between the two looks that find one
)

// session is a process of an exec session. The descriptor keeps its number from meaning another process.
type session struct {
	*preflight.Process
	pidfd int
}

func (p *session) signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d (%s): %w", sig, p.Pid, p.Comm, err)
	}
	return nil
}

// endSessions ends what came into the container by exec, if the user chose so, and reports it: as when a terminal goes away
// first, and by force if that is ignored. More may come meanwhile.
func (s *sender) endSessions(ctx context.Context) error {
	if s.opt.ExecSessions != SessionsEnd {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sessionLimit, errSessionsStay)
	defer cancel()
	for {
		found, err := s.sessions(ctx)
		if err != nil || len(found) == 0 {
			return err
		}
		err = s.endAll(ctx, found)
		for _, p := range found {
			unix.Close(p.pidfd)
		}
		if err != nil {
			return err
		}
	}
}

var errSessionsStay = errors.New("exec sessions do not end, or new ones keep coming")

// sessions looks twice: a process whose parent is just ending seems to have none for a moment.
func (s *sender) sessions(ctx context.Context) (found []*session, err error) {
	first, err := s.lookForSessions()
	if err != nil || len(first) == 0 {
		return nil, err
	}
	for _, p := range first {
		if fd, err := unix.PidfdOpen(p.Pid, 0); err == nil {
			found = append(found, &session{p, fd})
		}
	}
	err = pause(ctx, sessionCalm)
	second, lerr := s.lookForSessions()
	found = slices.DeleteFunc(found, func(p *session) bool {
		there := slices.ContainsFunc(second, func(o *preflight.Process) bool { return o.Pid == p.Pid })
		if !there {
			unix.Close(p.pidfd)
		}
		return !there
	})
	if err = errors.Join(s.stay(ctx, err), lerr); err != nil {
		for _, p := range found {
			unix.Close(p.pidfd)
		}
		return nil, err
	}
	return found, nil
}

func (s *sender) lookForSessions() ([]*preflight.Process, error) {
	pids, err := s.freezer().Tasks()
	if errors.Is(err, os.ErrNotExist) {
		pids, err = s.h.Pids, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for exec sessions: %w", err)
	}
	return gather.Sessions(s.h.Pid, pids), nil
}

// endAll returns when all of them are gone.
func (s *sender) endAll(ctx context.Context, found []*session) error {
	for _, p := range found {
		s.rep.Ended = append(s.rep.Ended, preflight.Thing{Pid: p.Pid, VPid: p.VPid, Comm: p.Comm})
		if err := p.signal(unix.SIGHUP); err != nil {
			return err
		}
	}
	force := time.Now().Add(sessionGrace)
	for left := found; len(left) > 0; {
		if err := pause(ctx, sessionPoll); err != nil {
			return s.stay(ctx, err)
		}
		if time.Now().After(force) {
			for _, p := range left {
				if err := p.signal(unix.SIGKILL); err != nil {
					return err
				}
			}
		}
		still, err := s.lookForSessions()
		if err != nil {
			return err
		}
		left = slices.DeleteFunc(slices.Clone(left), func(p *session) bool {
			return !slices.ContainsFunc(still, func(o *preflight.Process) bool { return o.Pid == p.Pid })
		})
	}
	return nil
}

// stay makes a refusal of it when time is up.
func (s *sender) stay(ctx context.Context, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errSessionsStay) {
		return err
	}
	return &fail.Fault{
		Code: fail.Unsupported, What: "end the container's exec sessions", Where: "source, phase freeze", Why: errSessionsStay.Error(),
		Remedy: "see `ctr tasks ps` and end what is left by hand",
	}
}
