package drain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// worker reads the FIFOs of one container.
type worker struct {
	log    *os.File
	events int // inotify
	fifos  []*fifo
	paths  map[string]fileID // to be removed at the end
	buf    []byte
}

// fifo is one of them, open for reading without waiting.
type fifo struct {
	fd     int
	id     fileID
	others bool // somebody else reads: we don't
	orphan bool // no writer can come any more; poll tells a hang-up only after one has been there
	ended  bool // the writers have closed it and all is read
}

const bufSize = 64 << 10 // what a FIFO holds by default

func open(arg string) (*worker, error) {
	var job Job
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		return nil, fmt.Errorf("decode the job: %w", err)
	}
	w := &worker{buf: make([]byte, bufSize), paths: map[string]fileID{}}
	var err error
	if w.log, err = os.OpenFile(job.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640); err != nil {
		return nil, fmt.Errorf("open the log of the container: %w", err)
	}
	if w.events, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an inotify instance: %w", err)
	}
	for _, path := range job.FIFOs {
		if err := w.add(path); err != nil {
			return nil, err
		}
	}
	for _, path := range slices.Concat(job.FIFOs, job.Remove) {
		id, err := idAt(path)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", path, err)
		}
		w.paths[path] = id
	}
	return w, nil
}

// remove takes away what the container has left, but not what another one made at the same place since.
func (w *worker) remove() {
	for path, id := range w.paths {
		if now, err := idAt(path); err == nil && now == id {
			_ = os.Remove(path) // whoever puts something there next removes it first
		}
	}
}

func (w *worker) add(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	id, err := idOf(fd)
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if _, err := unix.InotifyAddWatch(w.events, path, unix.IN_OPEN|unix.IN_CLOSE|unix.IN_ATTRIB); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	w.fifos = append(w.fifos, &fifo{fd: fd, id: id})
	return nil
}

// note writes why reading ended into the container's log, which is where somebody would look for what is missing.
func (w *worker) note(err error) {
	fmt.Fprintf(w.log, "\n%s migrate: the container's output is no longer kept here: %v\n", time.Now().UTC().Format(time.RFC3339), err)
}

// run returns when all FIFOs have ended.
func (w *worker) run() error {
	for {
		polled, open := w.pollSet()
		if !open {
			return nil
		}
		if _, err := unix.Poll(polled, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return fmt.Errorf("wait for output: %w", err)
		}
		if polled[0].Revents != 0 {
			if err := w.look(); err != nil {
				return err
			}
		}
		for i, f := range w.fifos {
			if err := w.serve(f, polled[i+1].Revents); err != nil {
				return err
			}
		}
	}
}

// pollSet has the inotify instance first, then the FIFOs, which when they have ended or others read them are only listed.
func (w *worker) pollSet() (set []unix.PollFd, open bool) {
	set = append(set, unix.PollFd{Fd: int32(w.events), Events: unix.POLLIN})
	for _, f := range w.fifos {
		p := unix.PollFd{Fd: int32(f.fd), Events: unix.POLLIN}
		switch {
		case f.ended:
			p.Fd = -1
		case f.others:
			p.Events = 0 // a hang-up is told all the same
		}
		open = open || !f.ended
		set = append(set, p)
	}
	return set, open
}

// look finds out who else has the FIFOs open.
func (w *worker) look() error {
	for { // what happened in detail says less than what is the case
		if _, err := unix.Read(w.events, w.buf); err == unix.EINTR {
			continue
		} else if err == unix.EAGAIN {
			break
		} else if err != nil {
			return fmt.Errorf("read inotify events: %w", err)
		}
	}
	ids := map[fileID]bool{}
	for _, f := range w.fifos {
		ids[f.id] = true
	}
	used, err := usersOf(ids)
	if err != nil {
		return err
	}
	for _, f := range w.fifos {
		f.others = used[f.id].read
		if !used[f.id].written && f.removed() {
			f.orphan = true
		}
	}
	return nil
}

// removed says whether no path leads to the FIFO any more.
func (f *fifo) removed() bool {
	var st unix.Stat_t
	return unix.Fstat(f.fd, &st) == nil && st.Nlink == 0
}

// serve moves what is there into the log.
func (w *worker) serve(f *fifo, events int16) error {
	gone := f.orphan || events&unix.POLLHUP != 0
	if f.ended || !gone && (f.others || events&unix.POLLIN == 0) {
		return nil
	}
	for {
		n, err := unix.Read(f.fd, w.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return fmt.Errorf("read output: %w", err)
		case n == 0: // nobody has it open for writing any more
			f.ended = true
			return nil
		}
		// a full disk loses output, as with any log; stopping the container would be worse
		if _, err := w.log.Write(w.buf[:n]); err != nil && !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("write the log: %w", err)
		}
		if !gone {
			return nil
		}
	}
}
