package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
)

// A counter is a server that counts for a client, over one connection that must last.
type counter interface {
	// next has the server count from n-1 to n. Any other number is an error.
	next(n uint64) error
	// verify checks at the end what the server has kept of 1 to last.
	verify(last uint64) error
	io.Closer
}

// counters connect to servers. None of them ever connects a second time.
var counters = map[string]func(ctx context.Context, o counterOptions) (counter, error){
	"http":      newHTTPCounter,
	"memcached": newMemcached,
	"etcd":      newEtcd,
}

type counterOptions struct {
	addr, path string
	timeout    time.Duration
}

func countCommand() *cli.Command {
	return &cli.Command{
		Name:  "count",
		Usage: "have a server count from 1 up over one connection, and check what it has kept in the end",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "protocol", Required: true, Usage: "http, memcached or etcd"},
			&cli.StringFlag{Name: "addr", Required: true, Usage: "server"},
			&cli.StringFlag{Name: "path", Value: "/", Usage: "of the page that is the next number, for http"},
			&cli.DurationFlag{Name: "duration", Value: 10 * time.Second, Usage: "0: until a signal"},
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Millisecond, Usage: "time between requests"},
			&cli.DurationFlag{Name: "timeout", Value: 60 * time.Second, Usage: "longest wait for an answer"},
			&cli.DurationFlag{Name: "report", Usage: "time between interim results; 0: none"},
		},
		Action: runCount,
	}
}

// A countReport is what a client saw of a counter.
type countReport struct {
	Counted uint64 `json:"counted"`
	Error   string `json:"error,omitempty"`
	gapReport
}

func runCount(c *cli.Context) error {
	connect := counters[c.String("protocol")]
	if connect == nil {
		return fmt.Errorf("protocol %q is not known", c.String("protocol"))
	}
	server, err := connect(c.Context, counterOptions{c.String("addr"), c.String("path"), c.Duration("timeout")})
	if err != nil {
		return err
	}
	defer server.Close()
	ctx, cancel := limited(c.Context, c.Duration("duration"))
	defer cancel()
	r, err := count(ctx, server, c.App.Writer, c.Duration("interval"), c.Duration("report"))
	if err == nil {
		err = server.verify(r.Counted)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return report(c.App.Writer, r, r.Error == "" && r.Counted > 0)
}

// count counts until ctx ends, and prints what there is so far every now and then.
func count(ctx context.Context, server counter, out io.Writer, interval, every time.Duration) (r countReport, err error) {
	var gap gapMeter
	last := time.Now()
	for n := uint64(1); ctx.Err() == nil; n++ {
		if err := server.next(n); err != nil {
			r.gapReport = gap.report()
			return r, fmt.Errorf("count to %d: %w", n, err)
		}
		now := time.Now()
		gap.mark(now)
		r.Counted, r.gapReport = n, gap.report()
		if every > 0 && now.Sub(last) >= every {
			last = now
			if err := json.NewEncoder(out).Encode(r); err != nil {
				return r, err
			}
		}
		sleep(ctx, interval)
	}
	return r, nil
}
