package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// A clientReport is what a client saw of its server.
type clientReport struct {
	Requests   uint64        `json:"requests"` // answered
	Errors     uint64        `json:"errors"`
	Error      string        `json:"error,omitempty"` // the first
	Consistent bool          `json:"consistent"`      // every answer was the expected one
	Memory     *memoryReport `json:"memory,omitempty"`
	gapReport
}

func (r clientReport) sound() bool {
	return r.Errors == 0 && r.Consistent && r.Requests > 0 && (r.Memory == nil || r.Memory.Bad == 0)
}

func clientCommand() *cli.Command {
	return &cli.Command{
		Name:  "client",
		Usage: "send numbered requests over one connection and measure the longest silence",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Required: true, Usage: "server"},
			&cli.DurationFlag{Name: "duration", Value: 10 * time.Second, Usage: "0: until a signal"},
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Millisecond, Usage: "time between requests"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "longest wait for an answer"},
			&cli.DurationFlag{Name: "report", Usage: "time between interim results; 0: none"},
			&cli.BoolFlag{Name: "verify", Usage: "have the server check its memory at the end"},
		},
		Action: runClient,
	}
}

func runClient(c *cli.Context) error {
	conn, err := dial(c.Context, c.String("addr"), c.Duration("timeout"))
	if err != nil {
		return err
	}
	defer conn.Close()
	k := &client{conn: conn, answers: bufio.NewReaderSize(conn, maxLine), timeout: c.Duration("timeout"), out: c.App.Writer}
	k.result.Consistent = true
	ctx, cancel := limited(c.Context, c.Duration("duration"))
	defer cancel()
	if err := k.run(ctx, c.Duration("interval"), c.Duration("report")); err != nil {
		k.fail(err)
	} else if c.Bool("verify") {
		k.verify()
	}
	r := k.report()
	return report(k.out, r, r.sound())
}

// dial is plain TCP, like listen.
func dial(ctx context.Context, address string, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	dialer.SetMultipathTCP(false)
	return dialer.DialContext(ctx, "tcp", address)
}

// limited is a context that ends after d, or never for 0.
func limited(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

type client struct {
	conn    net.Conn
	answers *bufio.Reader
	timeout time.Duration
	out     io.Writer

	result clientReport
	gap    gapMeter
}

// run sends requests until ctx ends or one fails.
func (k *client) run(ctx context.Context, interval, every time.Duration) error {
	lastReport := time.Now()
	for ctx.Err() == nil {
		request := fmt.Sprintf("%s %d", requestSeq, k.result.Requests+1)
		answer, err := k.ask(request)
		if err != nil {
			return err
		}
		if answer != request {
			k.result.Consistent = false
			return fmt.Errorf("asked %q, got %q", request, answer)
		}
		k.result.Requests++
		now := time.Now()
		k.gap.mark(now)
		if every > 0 && now.Sub(lastReport) >= every {
			lastReport = now
			if err := json.NewEncoder(k.out).Encode(k.report()); err != nil {
				return err
			}
		}
		sleep(ctx, interval)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (k *client) ask(request string) (string, error) {
	if err := k.conn.SetDeadline(time.Now().Add(k.timeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(k.conn, request+"\n"); err != nil {
		return "", err
	}
	answer, err := k.answers.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

func (k *client) fail(err error) {
	if k.result.Errors++; k.result.Error == "" {
		k.result.Error = err.Error()
	}
}

func (k *client) verify() {
	answer, err := k.ask(requestVerify)
	if err != nil {
		k.fail(err)
		return
	}
	text, ok := strings.CutPrefix(answer, requestVerify+" ")
	k.result.Memory = &memoryReport{}
	if !ok {
		k.fail(fmt.Errorf("asked to verify, got %q", answer))
	} else if err := json.Unmarshal([]byte(text), k.result.Memory); err != nil {
		k.fail(err)
	}
}

func (k *client) report() clientReport {
	r := k.result
	r.gapReport = k.gap.report()
	return r
}
