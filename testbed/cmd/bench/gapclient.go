package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Silences that are shorter are not told.
	gapLeast = 10 * time.Millisecond
	// A client that makes connections leaves as many behind in TIME-WAIT, and runs out of ports if it is faster.
	gapConnectEvery = 5 * time.Millisecond
	gapEvery        = time.Millisecond
	// clientEndLimit is for what is under way when a client is told to end.
	clientEndLimit = 30 * time.Second
)

// A trafficReport is what `workload traffic` says, again and again.
type trafficReport struct {
	Requests int64           `json:"requests"`
	Bytes    int64           `json:"bytes"`
	Wrong    int64           `json:"wrong_bytes"`
	Resets   int64           `json:"resets"`
	Errors   int64           `json:"errors"`
	Error    string          `json:"error"`
	Silences []clientSilence `json:"silences"`
}

// A clientSilence is a time in which a client made no progress.
type clientSilence struct {
	MS    float64   `json:"ms"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
}

// progress grows as the client gets on.
func (r trafficReport) progress() int64 { return r.Requests + r.Bytes }

// silences are those that ended after a moment.
func (r trafficReport) silences(after time.Time) []clientSilence {
	return slices.DeleteFunc(slices.Clone(r.Silences), func(s clientSilence) bool { return s.Ended.Before(after) })
}

// A trafficClient is one that is at work in host c.
type trafficClient struct {
	background
	stdin io.Closer // its end is the client's
}

// startClient returns when the client makes progress.
func (l *lab) startClient(ctx context.Context, kind, address string) (*trafficClient, error) {
	every := gapEvery
	if kind == kindConnect {
		every = gapConnectEvery
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &trafficClient{background: background{cancel: cancel}}
	cmd := l.c.Command(ctx, "workload", "traffic", "--kind", kind, "--addr", address, "--stdin", "--least", gapLeast.String(),
		"--interval", every.String(), "--rate", strconv.FormatInt(l.gapRate, 10))
	cmd.Stdout = c
	if err := c.begin(cmd); err != nil {
		cancel()
		return nil, fmt.Errorf("start client %s: %w", kind, err)
	}
	err := eventually(ctx, "the client makes progress", func() bool { return c.last().progress() > 0 })
	if err != nil {
		c.background.end()
		return nil, err
	}
	return c, nil
}

func (c *trafficClient) begin(cmd *exec.Cmd) (err error) {
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	c.wait = cmd.Wait
	return cmd.Start()
}

// last is its last word so far.
func (c *trafficClient) last() (r trafficReport) {
	for _, line := range slices.Backward(strings.SplitAfter(c.text(), "\n")) {
		if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &r) == nil {
			return r
		}
	}
	return trafficReport{}
}

// finish ends the client and notes what went wrong for it.
func (c *trafficClient) finish(w *gapRow) error {
	defer c.cancel()
	overdue := time.AfterFunc(clientEndLimit, c.cancel)
	defer overdue.Stop()
	err := errors.Join(c.stdin.Close(), c.wait())
	r := c.last()
	w.Wrong, w.Resets, w.Errors, w.Error = r.Wrong, r.Resets, r.Errors, r.Error
	if r.Errors > 0 {
		return fmt.Errorf("the client failed: %s", r.Error)
	}
	return err
}
