package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// The kinds of clients.
const (
	RequestReply = "request-reply" // one request at a time on one connection
	Pipelined    = "pipelined"     // many requests at a time on one connection
	Download     = "download"      // the server sends without end
	Upload       = "upload"        // the client sends without end
	Connect      = "connect"       // a new connection for every request
)

// Kinds are all of them.
var Kinds = []string{RequestReply, Pipelined, Download, Upload, Connect}

var runs = map[string]func(*Client, context.Context) error{
	RequestReply: (*Client).requestReply, Pipelined: (*Client).pipelined, Download: (*Client).download, Upload: (*Client).upload,
	Connect: (*Client).connect,
}

// Options say what a client does.
type Options struct {
	Kind     string
	Addr     string        // host and port
	Interval time.Duration // between two requests
	InFlight int           // requests under way at once, for Pipelined
	Rate     int64         // bytes a second, for Download and Upload; 0: as fast as it goes
	Timeout  time.Duration // longest wait for anything
	Least    time.Duration // silences shorter than that are not listed
}

func (o Options) check() error {
	switch {
	case runs[o.Kind] == nil:
		return fmt.Errorf("kind %q: known are %v", o.Kind, Kinds)
	case o.InFlight < 1:
		return fmt.Errorf("%d requests under way: want at least 1", o.InFlight)
	case o.Rate < 0 || o.Interval < 0:
		return errors.New("a rate or an interval is negative")
	case o.Timeout <= 0:
		return fmt.Errorf("time limit %v is not positive", o.Timeout)
	}
	return nil
}

// A Report is what a client has seen.
type Report struct {
	Kind        string    `json:"kind"`
	Connections int64     `json:"connections"`
	Requests    int64     `json:"requests"` // answered
	Bytes       int64     `json:"bytes"`    // that were right, of a download or an upload
	Wrong       int64     `json:"wrong_bytes"`
	Resets      int64     `json:"resets"` // connections that were reset or refused
	Errors      int64     `json:"errors"` // these, wrong answers, and time limits passed
	Error       string    `json:"error,omitempty"`
	Longest     Silence   `json:"longest"`
	Silences    []Silence `json:"silences"` // in their order; the last may still go on
}

// Sound says that something was done, and nothing went wrong.
func (r Report) Sound() bool {
	return r.Errors == 0 && r.Wrong == 0 && (r.Requests > 0 || r.Bytes > 0)
}

// A Client is one of some kind. Report may be called while it runs.
type Client struct {
	Options
	watch watch

	mu     sync.Mutex
	report Report
}

// NewClient checks the options.
func NewClient(o Options) (*Client, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	return &Client{Options: o, watch: watch{least: o.Least}, report: Report{Kind: o.Kind}}, nil
}

// Run goes on until ctx ends, or until something goes wrong that is in the report then. What is under way by then is
// brought to its end.
func (c *Client) Run(ctx context.Context) {
	if err := runs[c.Kind](c, ctx); err != nil {
		c.fail(err)
	}
}

// Report is what was seen so far.
func (c *Client) Report() Report {
	c.mu.Lock()
	r := c.report
	c.mu.Unlock()
	r.Longest, r.Silences = c.watch.seen()
	return r
}

// count changes the report after progress.
func (c *Client) count(change func(*Report)) {
	c.watch.progress()
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.report)
}

// errWrong is the end of a client that got other bytes than it should have.
var errWrong = errors.New("wrong bytes")

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Errors++
	if slices.ContainsFunc([]error{syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE}, func(e error) bool { return errors.Is(err, e) }) {
		c.report.Resets++
	}
	if c.report.Error == "" {
		c.report.Error = fmt.Sprintf("at %s: %v", time.Now().UTC().Format("15:04:05.000"), err)
	}
}

// A line is a connection to a server, with a time limit for every step.
type line struct {
	net.Conn
	in      *bufio.Reader
	timeout time.Duration
}

// dial is plain TCP: CRIU cannot dump the sockets of MPTCP, which Go would ask for.
func (c *Client) dial(ctx context.Context) (*line, error) {
	dialer := net.Dialer{Timeout: c.Timeout}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.report.Connections++
	c.mu.Unlock()
	l := &line{Conn: conn, timeout: c.Timeout}
	l.in = bufio.NewReaderSize(readFunc(l.read), acknowledged)
	return l, nil
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

func (l *line) read(b []byte) (int, error) {
	if err := l.SetReadDeadline(time.Now().Add(l.timeout)); err != nil {
		return 0, err
	}
	return l.Conn.Read(b)
}

func (l *line) Write(b []byte) (int, error) {
	if err := l.SetWriteDeadline(time.Now().Add(l.timeout)); err != nil {
		return 0, err
	}
	return l.Conn.Write(b)
}

// request sends one with a number.
func (l *line) request(n int64) error {
	_, err := fmt.Fprintf(l, "seq %d\n", n)
	return err
}

// reply reads the answer to it, which is the same.
func (l *line) reply(n int64) error {
	got, err := l.in.ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer to request %d: %w", n, err)
	}
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("seq %d\n", n); got != want {
		return fmt.Errorf("%w: asked %q, got %q", errWrong, trimLine(want), trimLine(got))
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
