package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func downloadCommand() *cli.Command {
	return &cli.Command{
		Name:  "download",
		Usage: "download pages whose lines are numbers from 1 up, slowly and over one connection, and check every line",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "addr", Required: true, Usage: "server"},
			&cli.StringFlag{Name: "path", Value: "/", Usage: "of the page"},
			&cli.IntFlag{Name: "lines-per-sec", Value: 50000, Usage: "how fast"},
			&cli.DurationFlag{Name: "timeout", Value: 60 * time.Second, Usage: "longest wait for data"},
			&cli.DurationFlag{Name: "report", Value: 100 * time.Millisecond, Usage: "time between interim results"},
		},
		Action: runDownload,
	}
}

// A downloadReport is how much came, all of it right.
type downloadReport struct {
	Pages int    `json:"pages"` // that are complete
	Lines uint64 `json:"lines"`
	Error string `json:"error,omitempty"`
}

// runDownload goes on until a signal. A page that is incomplete then is no error.
func runDownload(c *cli.Context) error {
	conn, err := connect(c.Context, counterOptions{addr: c.String("addr"), timeout: c.Duration("timeout")})
	if err != nil {
		return err
	}
	defer conn.Close()
	var r downloadReport
	pace := pacer{perSecond: c.Int("lines-per-sec"), every: c.Duration("report"), tell: func() error { return json.NewEncoder(c.App.Writer).Encode(r) }}
	for c.Context.Err() == nil {
		if err := conn.page(c.Context, c.String("addr"), c.String("path"), &r, &pace); err != nil {
			r.Error = err.Error()
			break
		}
	}
	return report(c.App.Writer, r, r.Error == "" && r.Lines > 0)
}

// A pacer spreads lines over time.
type pacer struct {
	perSecond int
	every     time.Duration
	tell      func() error
	count     int
}

// line is called after each line.
func (p *pacer) line(ctx context.Context) error {
	if p.count++; p.count < int(float64(p.perSecond)*p.every.Seconds()) {
		return nil
	}
	p.count = 0
	sleep(ctx, p.every)
	return p.tell()
}

// page downloads one page.
func (l *lasting) page(ctx context.Context, host, path string, r *downloadReport, pace *pacer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return err
	}
	if err := l.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return err
	}
	if err := request.Write(l); err != nil {
		return err
	}
	answer, err := http.ReadResponse(l.in, request)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the server says %s", answer.Status)
	}
	lines := bufio.NewReaderSize(answer.Body, maxLine)
	for n := uint64(1); ctx.Err() == nil; n++ {
		if err := l.SetDeadline(time.Now().Add(l.timeout)); err != nil {
			return err
		}
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" && n > 1 {
			r.Pages++
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := sameNumber(strings.TrimSpace(line), n); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		r.Lines++
		if err := pace.line(ctx); err != nil {
			return err
		}
	}
	return nil
}
