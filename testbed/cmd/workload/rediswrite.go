package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
)

// The keys: a counter that is incremented, and one key for each increment, which
// holds its number.
const (
	counterKey = "workload:counter"
	keyPrefix  = "workload:key:"
)

// A writeReport is what a writer saw of redis.
type writeReport struct {
	Acknowledged int64  `json:"acknowledged"`
	Errors       uint64 `json:"errors"`
	Error        string `json:"error,omitempty"`
	Doubled      int64  `json:"doubled"` // increments that took effect more often than asked
	Lost         int64  `json:"lost"`    // increments that were acknowledged and then undone
	gapReport
}

func (r writeReport) sound() bool {
	return r.Errors == 0 && r.Doubled == 0 && r.Lost == 0 && r.Acknowledged > 0
}

func redisFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "addr", Required: true, Usage: "redis server"},
		&cli.StringFlag{Name: "log", Required: true, Usage: "file with the numbers of the acknowledged writes"},
		&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "longest wait for an answer"},
	}
}

func redisWriteCommand() *cli.Command {
	return &cli.Command{
		Name:  "rediswrite",
		Usage: "write numbered keys to redis over one connection, one at a time, and log what is acknowledged",
		Flags: append(redisFlags(),
			&cli.DurationFlag{Name: "duration", Value: 10 * time.Second, Usage: "0: until a signal"},
			&cli.DurationFlag{Name: "interval", Usage: "time between writes"},
			&cli.DurationFlag{Name: "report", Usage: "time between interim results; 0: none"},
		),
		Action: runRedisWrite,
	}
}

func runRedisWrite(c *cli.Context) error {
	conn, err := dial(c.Context, c.String("addr"), c.Duration("timeout"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := limited(c.Context, c.Duration("duration"))
	defer cancel()
	w := &redisWriter{redis: newRedisConn(conn, c.Duration("timeout")), out: c.App.Writer, every: c.Duration("report")}
	r, err := w.logWrites(ctx, c.String("log"), c.Duration("interval"))
	if err != nil {
		return err
	}
	return report(c.App.Writer, r, r.sound())
}

// logWrites writes until ctx ends. A failing server is part of the report; the
// error is about the log.
func (w *redisWriter) logWrites(ctx context.Context, path string, interval time.Duration) (r writeReport, err error) {
	log, err := os.Create(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	w.log = bufio.NewWriter(log)
	if err := w.run(ctx, interval); err != nil {
		w.result.Errors, w.result.Error = 1, err.Error()
	}
	w.result.gapReport = w.gap.report()
	return w.result, w.log.Flush()
}

type redisWriter struct {
	redis  *redisConn
	log    *bufio.Writer
	gap    gapMeter
	result writeReport

	out   io.Writer     // gets interim results
	every time.Duration // time between them; 0: none
	told  time.Time
}

func (w *redisWriter) run(ctx context.Context, interval time.Duration) error {
	if _, err := w.redis.do("DEL", counterKey); err != nil {
		return err
	}
	for n := int64(1); ctx.Err() == nil; n++ {
		if err := w.write(n); err != nil {
			return err
		}
		if err := w.tell(); err != nil {
			return err
		}
		sleep(ctx, interval)
	}
	return nil
}

// tell prints what there is so far, when it is time to.
func (w *redisWriter) tell() error {
	if w.every == 0 || time.Since(w.told) < w.every {
		return nil
	}
	w.told = time.Now()
	r := w.result
	r.gapReport = w.gap.report()
	return json.NewEncoder(w.out).Encode(r)
}

// write increments the counter, which must then have that number, and sets the
// key of the number. A write counts once both are acknowledged.
func (w *redisWriter) write(n int64) error {
	answer, err := w.redis.do("INCR", counterKey)
	if err != nil {
		return err
	}
	w.gap.mark(time.Now())
	counter, ok := answer.(int64)
	if !ok {
		return fmt.Errorf("INCR answered %v", answer)
	}
	// The difference stays, so it is counted when it changes.
	w.count(counter - n)
	number := strconv.FormatInt(n, 10)
	if _, err := w.redis.do("SET", keyPrefix+number, number); err != nil {
		return err
	}
	w.gap.mark(time.Now())
	w.result.Acknowledged = n
	_, err = io.WriteString(w.log, number+"\n")
	return err
}

// count takes the difference between the counter and what it must be.
func (w *redisWriter) count(ahead int64) {
	w.result.Doubled = max(w.result.Doubled, ahead)
	w.result.Lost = max(w.result.Lost, -ahead)
}
