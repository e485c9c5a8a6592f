package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// facts are what must be the same before and after the move.
type facts struct {
	run    string // redis draws it at its start: the same one means the same process
	client string // the writing client as redis knows it: number and address of its connection
	keys   string // how many keys there are in the database at rest
	sum    string // of their names and values
	uptime int    // seconds
}

// gather asks redis.
func (d *demo) gather(ctx context.Context) (f facts, err error) {
	info, err := d.redis(ctx, "INFO", "server")
	if err != nil {
		return f, err
	}
	f.run = field(info, "run_id:", "\r")
	f.uptime, _ = strconv.Atoi(field(info, "uptime_in_seconds:", "\r"))
	list, err := d.redis(ctx, "CLIENT", "LIST")
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(list) {
		if !strings.Contains(line, "cmd=client|list") {
			f.client = field(line, "id=", " ") + " from " + field(line, " addr=", " ")
		}
	}
	if f.keys, err = d.redis(ctx, "-n", "1", "DBSIZE"); err != nil {
		return f, err
	}
	const script = `local s = '' for i = 1, tonumber(ARGV[1]) do s = redis.sha1hex(s .. i .. redis.call('GET', 'rest:' .. i)) end return s`
	f.sum, err = d.redis(ctx, "-n", "1", "EVAL", script, "0", strconv.Itoa(restKeys))
	return f, err
}

// field cuts out what follows name.
func field(text, name, end string) string {
	_, after, _ := strings.Cut(text, name)
	value, _, _ := strings.Cut(after, end)
	return strings.TrimSpace(value)
}

// written is what the client saw.
type written struct {
	Acknowledged int64   `json:"acknowledged"`
	Errors       uint64  `json:"errors"`
	Error        string  `json:"error"`
	Doubled      int64   `json:"doubled"`
	Lost         int64   `json:"lost"`
	LongestGapMS float64 `json:"longest_gap_ms"`
}

// verified is the comparison of redis with the client's log.
type verified struct {
	Acknowledged int64 `json:"acknowledged"`
	Lost         int64 `json:"lost"`
	Wrong        int64 `json:"wrong"`
	Counter      int64 `json:"counter"`
	Doubled      int64 `json:"doubled"`
}

// prove compares before and after. Every check is shown; the error names those that failed.
func (d *demo) prove(ctx context.Context) error {
	say("the proof")
	c := &checks{}
	if err := d.proveWrites(ctx, c); err != nil {
		return err
	}
	if err := d.proveHosts(ctx, c); err != nil {
		return err
	}
	return c.result()
}

// proveWrites ends the client.
func (d *demo) proveWrites(ctx context.Context, c *checks) error {
	after, err := d.gather(ctx)
	if err != nil {
		return err
	}
	endErr := d.client.end(ctx)
	var w written
	if err := json.Unmarshal([]byte(lastLine(d.client.out.String())), &w); err != nil {
		return fmt.Errorf("the client reported nothing: %w\n%s", errors.Join(endErr, err), d.client.err.String())
	}
	var v verified
	text, verr := output(ctx, d.c, "workload", "redisverify", "--addr", d.ip+":6379", "--log", ackedLog)
	if err := json.Unmarshal([]byte(lastLine(text)), &v); err != nil {
		return fmt.Errorf("verify the writes: %w", errors.Join(verr, err))
	}
	c.add(endErr == nil && w.Errors == 0, "the client's connection lived through the move; its longest wait for an answer was %.0f ms %s", w.LongestGapMS, w.Error)
	c.add(after.client == d.before.client && after.client != "", "redis sees the same connection: client %s", after.client)
	c.add(verr == nil && v.Lost == 0 && v.Wrong == 0 && w.Lost == 0, "no write lost: all %d acknowledged writes are there", v.Acknowledged)
	c.add(v.Doubled == 0 && w.Doubled == 0, "none doubled: the counter is at %d", v.Counter)
	c.add(after.keys == d.before.keys && after.sum == d.before.sum, "%s other keys equal before and after: checksum %.12s", after.keys, after.sum)
	c.add(after.run == d.before.run && after.uptime >= d.before.uptime, "the same process: run id %.12s, up for %d s", after.run, after.uptime)
	return nil
}

// proveHosts looks for the container on both hosts.
func (d *demo) proveHosts(ctx context.Context, c *checks) error {
	const look = `ctr containers ls -q; ctr tasks ls -q; ls /run/netns 2>/dev/null || true`
	left, err := output(ctx, d.a, "sh", "-c", look)
	if err != nil {
		return err
	}
	c.add(left == "", "host a has no container, no task and no network of it any more %s", left)
	tasks, err := output(ctx, d.b, "ctr", "tasks", "ls")
	if err != nil {
		return err
	}
	pid := ""
	for line := range strings.Lines(tasks) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == containerID && f[2] == "RUNNING" {
			pid = f[1]
		}
	}
	c.add(pid != "", "host b runs it: pid %s", pid)
	if pid == "" {
		return nil
	}
	ps, err := output(ctx, d.b, "ps", "-o", "pid=,etimes=,args=", "-p", pid)
	if err == nil {
		fmt.Printf("       pid, seconds since it was restored, command: %s\n", ps)
	}
	return nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// checks shows the results and counts failures.
type checks struct{ failed []string }

func (c *checks) add(ok bool, format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	if ok {
		fmt.Println("  ok   " + text)
		return
	}
	fmt.Println("  FAIL " + text)
	c.failed = append(c.failed, text)
}

func (c *checks) result() error {
	if len(c.failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d checks failed: %s", len(c.failed), strings.Join(c.failed, "; "))
}
