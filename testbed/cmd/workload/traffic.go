package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/testbed/cmd/workload/internal/traffic"
)

func trafficCommand() *cli.Command {
	return &cli.Command{
		Name:  "traffic",
		Usage: "use the server in one of several ways, check every byte, and note every silence",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kind", Value: traffic.RequestReply, Usage: strings.Join(traffic.Kinds, ", ")},
			&cli.StringFlag{Name: "addr", Required: true, Usage: "server"},
			&cli.DurationFlag{Name: "interval", Value: time.Millisecond, Usage: "time between requests"},
			&cli.IntFlag{Name: "in-flight", Value: 1000, Usage: "requests under way at once, for pipelined"},
			&cli.Int64Flag{Name: "rate", Usage: "bytes a second, for download and upload; 0: as fast as it goes"},
			&cli.DurationFlag{Name: "least", Value: 50 * time.Millisecond, Usage: "silences shorter than that are not listed"},
			&cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "longest wait for anything"},
			&cli.DurationFlag{Name: "duration", Usage: "0: until a signal, or the end of standard input"},
			&cli.DurationFlag{Name: "report", Value: 50 * time.Millisecond, Usage: "time between interim results; 0: none"},
			&cli.BoolFlag{Name: "stdin", Usage: "end with standard input"},
		},
		Action: runTraffic,
	}
}

func runTraffic(c *cli.Context) error {
	client, err := traffic.NewClient(traffic.Options{
		Kind: c.String("kind"), Addr: c.String("addr"), Interval: c.Duration("interval"), InFlight: c.Int("in-flight"),
		Rate: c.Int64("rate"), Timeout: c.Duration("timeout"), Least: c.Duration("least"),
	})
	if err != nil {
		return err
	}
	ctx, cancel := limited(c.Context, c.Duration("duration"))
	defer cancel()
	if c.Bool("stdin") {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		client.Run(ctx)
	}()
	if err := interim(c.App.Writer, client, c.Duration("report"), done); err != nil {
		return err
	}
	r := client.Report()
	return report(c.App.Writer, r, r.Sound())
}

// interim prints what the client has seen, again and again until it is done.
func interim(w io.Writer, client *traffic.Client, every time.Duration, done <-chan struct{}) error {
	var tick <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-done:
			return nil
		case <-tick:
			if err := json.NewEncoder(w).Encode(client.Report()); err != nil {
				return err
			}
		}
	}
}
