package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// The images. Cases of the second kind work with servers.
const (
	toolsImage    = "testbed/tools:latest"
	subjectsImage = "testbed/subjects:latest"
)

var withServers = []string{"redis", "java", "postgres"}

// A subject is a container whose program checks its own memory.
type subject struct {
	lab   *lab
	id    string
	kind  string // the case
	seed  uint64
	at    int // site
	asked int // how often its program was asked to check its memory
}

// A line is what the program prints that is no tick.
type line struct {
	Started  string          `json:"started"`
	Verified bool            `json:"verified"`
	Number   int             `json:"number"`
	Pages    int64           `json:"pages"`
	Damaged  json.RawMessage `json:"damaged"`
}

// errUnavailable is returned for a case that the machine can't run.
var errUnavailable = errors.New("this machine cannot run the case")

// start runs a new container and returns when its program is at work.
func (l *lab) start(ctx context.Context, kind string) (*subject, error) {
	l.count++
	s := &subject{lab: l, id: fmt.Sprintf("%s-%d", kind, l.count), kind: kind, seed: l.seed + uint64(l.count)}
	args := []string{"workload", "churn", "--case", kind, "--mib", strconv.Itoa(l.mib), "--seed", strconv.FormatUint(s.seed, 10), "--dir", "/data"}
	image := toolsImage
	if slices.Contains(withServers, kind) {
		image = subjectsImage
	}
	if _, err := s.site().RunContainer(ctx, testbed.ContainerSpec{ID: s.id, Image: image, Args: args}); err != nil {
		return nil, err
	}
	err := rig.Eventually(ctx, s.id+" begins", func() (bool, error) {
		text := s.log(s.at)
		if strings.Contains(text, errUnavailable.Error()) {
			return false, fmt.Errorf("%w: %s", errUnavailable, strings.TrimSpace(text))
		}
		lines := linesOf(text)
		return len(lines) > 0 && lines[0].Started != "", nil
	})
	if err != nil {
		s.remove(ctx)
		return nil, err
	}
	return s, nil
}

func (s *subject) site() *site { return s.lab.sites[s.at] }

// log is what the program has printed at a site.
func (s *subject) log(at int) string {
	text, err := os.ReadFile(s.lab.sites[at].Path(s.logPath()))
	if err != nil {
		return ""
	}
	return string(text)
}

func (s *subject) logPath() string { return "/var/log/" + s.id + ".log" }

// linesOf picks the results from what was printed; a line may be unfinished.
func linesOf(text string) []line {
	var list []line
	for text := range strings.Lines(text) {
		var l line
		if strings.HasSuffix(text, "\n") && json.Unmarshal([]byte(text), &l) == nil {
			list = append(list, l)
		}
	}
	return list
}

// verify has the program, which runs at its site, check all its memory, and returns its answer.
func (s *subject) verify(ctx context.Context) (answer line, err error) {
	if err := s.damage(); err != nil {
		return answer, err
	}
	pid, err := s.pid(ctx)
	if err != nil {
		return answer, err
	}
	s.asked++
	if _, err := rig.Run(ctx, s.site().Host, "kill", "-USR1", strconv.Itoa(pid)); err != nil {
		return answer, err
	}
	err = rig.Eventually(ctx, s.id+" checks its memory", func() (bool, error) {
		for _, l := range linesOf(s.log(s.at)) {
			if l.Verified && l.Number == s.asked {
				answer = l
				return true, nil
			}
		}
		if _, err := os.Stat(s.site().Path(fmt.Sprintf("/proc/%d", pid))); err != nil {
			return false, fmt.Errorf("its program has ended: %w", errors.Join(s.damage(), errors.New(s.words())))
		}
		return false, s.damage()
	})
	return answer, err
}

// errDamage is what a program says that finds wrong memory.
var errDamage = errors.New("memory is wrong")

func (s *subject) damage() error {
	for _, l := range linesOf(s.log(s.at)) {
		if l.Damaged != nil {
			return fmt.Errorf("%w: %s", errDamage, l.Damaged)
		}
	}
	return nil
}

// words is the end of what the program printed at its site besides its ticks.
func (s *subject) words() string {
	var kept []string
	for text := range strings.Lines(s.log(s.at)) {
		if !strings.HasPrefix(text, "tick ") && !strings.HasPrefix(text, `{"verified"`) {
			kept = append(kept, text)
		}
	}
	text := strings.Join(kept, "")
	const enough = 3000
	if len(text) > enough {
		text = text[:enough/2] + "\n…\n" + text[len(text)-enough/2:]
	}
	return "it printed:\n" + text
}

// pid asks containerd for the container's init, as the host numbers it.
func (s *subject) pid(ctx context.Context) (int, error) {
	out, err := rig.Run(ctx, s.site().Host, "ctr", "tasks", "list")
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(out) {
		if f := strings.Fields(text); len(f) >= 3 && f[0] == s.id {
			if f[2] != "RUNNING" {
				return 0, fmt.Errorf("container %s is %s at host %s; %s", s.id, f[2], s.site().Name, s.words())
			}
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("host %s has no task %s", s.site().Name, s.id)
}

// checkOutput checks that every tick is in the hosts' logs once.
func (s *subject) checkOutput() error {
	var ticks []int
	for at := range s.lab.sites {
		for text := range strings.Lines(s.log(at)) {
			f := strings.Fields(text)
			if len(f) != 3 || f[0] != "tick" || !strings.HasSuffix(text, "\n") {
				continue
			}
			n, err := strconv.Atoi(f[1])
			if err != nil {
				return fmt.Errorf("its output has the line %q", text)
			}
			ticks = append(ticks, n)
		}
	}
	slices.Sort(ticks)
	for i, n := range ticks {
		if n != i+1 {
			return fmt.Errorf("its output is not whole: line %d has the number %d", i+1, n)
		}
	}
	return nil
}

// remove takes the container away wherever it is.
func (s *subject) remove(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for _, site := range s.lab.sites {
		_ = site.RemoveContainer(ctx, s.id) // it is at one of them, or at neither
		_ = os.Remove(site.Path(s.logPath()))
	}
}
