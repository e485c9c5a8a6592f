package track

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

// holdLimit is how long threads may take until they have stopped, while others stand still already.
const holdLimit = 100 * time.Millisecond

// mappingCalls are the system calls that change mappings.
var mappingCalls = []int{
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_BRK, unix.SYS_MPROTECT, unix.SYS_PKEY_MPROTECT, unix.SYS_MADVISE,
	unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MUNLOCK, unix.SYS_MLOCKALL, unix.SYS_MUNLOCKALL, unix.SYS_SHMAT, unix.SYS_SHMDT,
	unix.SYS_REMAP_FILE_PAGES, unix.SYS_PRCTL, unix.SYS_IO_SETUP, unix.SYS_IO_DESTROY,
}

// holdMappings runs f while no thread of a process can change its mappings. f may run several times, and the last counts. After
// errBusy it has not run, or not undisturbed, and may later.
//
// All threads are stopped but those that sleep in calls which a stop would end, see inject.go: they do not change mappings as long as
// they sleep. Should one wake up meanwhile, it is stopped as well, and f runs again.
func holdMappings(pid int, f func() error) error {
	done := make(chan error, 1)
	thread.Start(func() {
		h := &hold{pid: pid, traced: map[int]*tracee{}}
		err := h.run(f)
		done <- errors.Join(err, h.release())
	})
	return gone(pid, <-done)
}

// hold is a process whose mappings stand still. All of it runs on one thread, whose end lets go of what does not stop at all.
type hold struct {
	pid    int
	traced map[int]*tracee // threads that have stopped, or were told to
	asleep map[int]uint64  // the others: how often they have gone to sleep, which tells whether one has been awake meanwhile
}

func (h *hold) run(f func() error) error {
	deadline := time.Now().Add(holdLimit)
	for {
		if err := h.stopAll(deadline); err != nil {
			return fmt.Errorf("hold the mappings of process %d: %w", h.pid, err)
		}
		if err := f(); err != nil {
			return err
		}
		woken, err := h.woken()
		if !woken || err != nil {
			return err
		}
	}
}

// stopAll returns when every thread is stopped or asleep. While some run they may start others or wake them up.
func (h *hold) stopAll(deadline time.Time) error {
	for {
		running, err := h.look()
		if err != nil || len(running) == 0 {
			return err
		}
		for _, t := range running {
			if err := ptrace(unix.PTRACE_SEIZE, t.tid, 0, 0); errors.Is(err, errDied) {
				continue
			} else if err != nil {
				return fmt.Errorf("%w: trace thread %d: %w", errBusy, t.tid, err)
			}
			h.traced[t.tid] = t
			if err := t.interrupt(); err != nil && !errors.Is(err, errDied) {
				return err
			}
		}
		if err := h.await(deadline); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: there are always others that run", errBusy)
		}
	}
}

// await waits for all that were told to stop, and forgets those that end.
func (h *hold) await(deadline time.Time) error {
	for tid, t := range h.traced {
		if t.halted {
			continue
		}
		err := t.await(deadline)
		if err == nil {
			err = unix.PtraceGetRegs(tid, &t.saved)
		}
		switch {
		case errors.Is(err, errDied), errors.Is(err, unix.ESRCH):
			delete(h.traced, tid)
		case err != nil:
			return fmt.Errorf("stop thread %d: %w", tid, err)
		default:
			t.halted = true
		}
	}
	return nil
}

// look lists the threads that can change mappings and notes the others.
func (h *hold) look() (running []*tracee, err error) {
	tids, err := threadsOf(h.pid)
	if err != nil {
		return nil, err
	}
	h.asleep = make(map[int]uint64, len(tids))
	for _, tid := range tids {
		if h.traced[tid] != nil {
			continue
		}
		switch n, is := h.stateOf(tid); is {
		case isAsleep:
			h.asleep[tid] = n
		case isRunning:
			running = append(running, &tracee{pid: h.pid, tid: tid})
		}
	}
	return running, nil
}

// woken tells whether any thread has run that was not stopped.
func (h *hold) woken() (bool, error) {
	tids, err := threadsOf(h.pid)
	if err != nil {
		return false, err
	}
	for _, tid := range tids {
		if h.traced[tid] != nil {
			continue
		}
		n, is := h.stateOf(tid)
		if before, known := h.asleep[tid]; is != isEnded && (is != isAsleep || !known || before != n) {
			return true, nil
		}
	}
	return false, nil
}

// release lets all threads go. Those that have not stopped yet are given some more time, because a call that the stop ends has to be
// made again; they hold up nobody but themselves.
func (h *hold) release() error {
	err := h.letGo()
	if len(h.traced) > 0 {
		err = errors.Join(err, h.await(time.Now().Add(stopLimit)), h.letGo())
	}
	return err
}

func (h *hold) letGo() error {
	var errs []error
	for tid, t := range h.traced {
		if !t.halted {
			continue
		}
		delete(h.traced, tid)
		var err error
		if regs, changed := t.restarted(); changed && t.saved.Cs == userCS {
			err = unix.PtraceSetRegs(tid, &regs)
		}
		if err = errors.Join(err, t.detach()); !errors.Is(err, errDied) && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// What a thread does.
const (
	isEnded   = iota
	isAsleep  // and is to be left so
	isRunning // or sleeps, and can be stopped
)

// stateOf tells what a thread does, and how often it has gone to sleep.
func (h *hold) stateOf(tid int) (sleeps uint64, is int) {
	dir := procPath(h.pid, "task/"+strconv.Itoa(tid)+"/")
	text, err := os.ReadFile(dir + "status")
	if err != nil {
		return 0, isEnded
	}
	sleeps, err = strconv.ParseUint(string(field(text, "voluntary_ctxt_switches:")), 10, 64)
	state := field(text, "State:")
	switch {
	case len(state) == 0 || bytes.ContainsAny(state[:1], "ZX"):
		return 0, isEnded
	case err != nil || state[0] == 'R':
		return 0, isRunning
	}
	nr, ok := callOf(dir)
	switch {
	case !ok, state[0] == 'S' && !endedByStop(nr), state[0] == 'D' && slices.Contains(mappingCalls, nr):
		return 0, isRunning
	}
	return sleeps, isAsleep
}

// callOf returns the number of the system call that a thread sleeps in, -1 if it sleeps without; not ok: it does not sleep.
func callOf(dir string) (nr int, ok bool) {
	b, err := os.ReadFile(dir + "syscall")
	if err != nil {
		return 0, false
	}
	word, _, _ := bytes.Cut(b, []byte{' '})
	nr, err = strconv.Atoi(string(bytes.TrimSpace(word)))
	return nr, err == nil
}

// field returns what a line of a status file says behind its name.
func field(text []byte, name string) []byte {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return bytes.TrimSpace(rest)
		}
	}
	return nil
}

func threadsOf(pid int) ([]int, error) {
	entries, err := os.ReadDir(procPath(pid, "task"))
	if err != nil {
		return nil, fmt.Errorf("list threads of process %d: %w", pid, err)
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}
