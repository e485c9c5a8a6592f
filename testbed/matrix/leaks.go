package matrix

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"migrate/testbed/internal/rig"
)

// A Census is what a host has of the things that a migration makes and takes away again: kind → what there is of it, a line
// each. Things without a name that lasts are counted.
type Census map[string][]string

// counted are commands whose output is a line for each thing, whatever the engine.
var counted = map[string]string{
	"mounts":             "cut -d ' ' -f 2-3 /proc/1/mounts",
	"namespaces":         "lsns --raw --noheadings --output TYPE",
	"network namespaces": "ls /run/netns 2>/dev/null || true",
	"interfaces":         "ls /sys/class/net",
	"nftables rules":     "nft --stateless list ruleset",
	"cgroups":            "find /sys/fs/cgroup -type d",
	"processes":          "ps -e --no-headers --format comm | grep -vE '^(ps|sh|grep|ctr|docker)$'",
	"shared memory":      "ls -A /dev/shm; ipcs --shmems | tail --lines=+4",
	"temporary files":    "ls -A /tmp",
}

// Census takes stock of both hosts, the agents included.
func (l *Lab) Census(ctx context.Context) (map[string]Census, error) {
	all := map[string]Census{}
	scripts := l.engine.counted()
	maps.Copy(scripts, counted)
	for _, a := range l.agents {
		c := Census{}
		for what, script := range scripts {
			out, err := output(ctx, a.host, "sh", "-c", script)
			if err != nil {
				return nil, fmt.Errorf("take stock of %s: %w", what, err)
			}
			c[what] = sortedLines(out)
		}
		pid, err := a.pid()
		if err != nil {
			return nil, err
		}
		c["open files of the agent"] = openFiles(pid)
		out, err := output(ctx, a.host, "sh", "-c", `find "$1/run" -mindepth 1 -not -name lock -not -name criu; ls "$1/state/docker" 2>/dev/null || true`, "sh", a.dir)
		if err != nil {
			return nil, err
		}
		c["files of the agent"] = sortedLines(out)
		all[a.host.Name] = c
	}
	return all, nil
}

func sortedLines(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	slices.Sort(list)
	return list
}

// Leaks waits until there is nothing at the hosts that was not there before, and tells what there is then.
func (l *Lab) Leaks(ctx context.Context, before map[string]Census) ([]string, error) {
	var left []string
	err := rig.Eventually(ctx, "hosts are as they were", func() (bool, error) {
		now, err := l.Census(ctx)
		if err != nil {
			return false, err
		}
		left = nil
		for _, host := range slices.Sorted(maps.Keys(now)) {
			left = append(left, now[host].beyond(host, before[host])...)
		}
		return len(left) == 0, nil
	})
	if err != nil && ctx.Err() == nil && len(left) > 0 {
		return left, nil
	}
	return left, err
}

// beyond lists what there is more of than before.
func (c Census) beyond(host string, before Census) (list []string) {
	for _, what := range slices.Sorted(maps.Keys(c)) {
		had := map[string]int{}
		for _, thing := range before[what] {
			had[thing]++
		}
		for _, thing := range c[what] {
			if had[thing]--; had[thing] < 0 {
				list = append(list, fmt.Sprintf("host %s: %s: %s", host, what, thing))
			}
		}
	}
	return list
}

var goroutineHead = regexp.MustCompile(`(?m)^goroutine \d+ .*\[`)

// Goroutines ends the agents so that they tell what each of their goroutines was at, starts others in their place, and returns
// how many goroutines there were.
func (l *Lab) Goroutines(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	for i, a := range l.agents {
		a.signal(syscall.SIGQUIT) // the runtime prints all stacks and exits
		err := rig.Eventually(ctx, "migrate recv ends on host "+a.host.Name, func() (bool, error) { return a.ended(), nil })
		if err != nil {
			return nil, err
		}
		counts[a.host.Name] = len(goroutineHead.FindAllString(a.said.text(), -1))
		if counts[a.host.Name] == 0 {
			return nil, fmt.Errorf("host %s: migrate recv said nothing of its goroutines: %s", a.host.Name, clip(a.said.text()))
		}
		if l.agents[i], err = startAgent(ctx, a.host, l.options.Dir, l.options.Port); err != nil {
			return nil, err
		}
	}
	return counts, nil
}
