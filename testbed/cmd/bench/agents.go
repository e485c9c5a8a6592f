package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"migrate/testbed"
)

// sampleEvery is the time between two looks at the agents' memory.
const sampleEvery = 20 * time.Millisecond

// An agentMeter watches how much memory the processes of our program have on a host, all of them together: the agent
// and its helpers. What counts is anonymous memory; the page store is in a file and in none of it.
type agentMeter struct {
	stop, done chan struct{}
	most       int64
}

func watchAgents(h *testbed.Host) *agentMeter {
	m := &agentMeter{stop: make(chan struct{}), done: make(chan struct{})}
	go m.watch(h.Path("/proc"))
	return m
}

func (m *agentMeter) watch(proc string) {
	defer close(m.done)
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		m.most = max(m.most, agentMemory(proc))
		select {
		case <-m.stop:
			return
		case <-ticker.C:
		}
	}
}

// end returns the most that was seen, in bytes.
func (m *agentMeter) end() int64 {
	close(m.stop)
	<-m.done
	return m.most
}

// agentMemory adds up the anonymous resident memory of all processes in a /proc that run a program called migrate.
func agentMemory(proc string) int64 {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return 0
	}
	var sum int64
	seen := map[string]bool{}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		if exe, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || filepath.Base(exe) != "migrate" {
			continue
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		stat, serr := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil || serr != nil {
			continue // it has just ended
		}
		if space := addressSpace(string(stat)); space != "" {
			if seen[space] {
				continue
			}
			seen[space] = true
		}
		sum += anonymous(string(status))
	}
	return sum
}

// addressSpace tells address spaces apart by where their stacks begin, which is random: a process that is about to become another one still has its
// parent's (proc_pid_stat(5), startstack).
func addressSpace(stat string) string {
	const startStack = 28 - 3 // counted from the field after the name, which may contain anything
	_, after, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	f := strings.Fields(after)
	if len(f) <= startStack || f[startStack] == "0" {
		return ""
	}
	return f[startStack]
}

// anonymous reads RssAnon of /proc/PID/status in bytes, see proc_pid_status(5).
func anonymous(status string) int64 {
	_, after, _ := strings.Cut(status, "RssAnon:")
	word, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	kib, _ := strconv.ParseInt(word, 10, 64)
	return kib << 10
}
