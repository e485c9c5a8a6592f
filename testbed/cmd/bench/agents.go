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
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		if exe, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || filepath.Base(exe) != "migrate" {
			continue
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue // it has just ended
		}
		sum += anonymous(string(status))
	}
	return sum
}

// anonymous reads RssAnon of /proc/PID/status in bytes, see proc_pid_status(5).
func anonymous(status string) int64 {
	_, after, _ := strings.Cut(status, "RssAnon:")
	word, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	kib, _ := strconv.ParseInt(word, 10, 64)
	return kib << 10
}
