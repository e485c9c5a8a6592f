// Package resp speaks RESP2, the protocol of redis.
package resp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Limits of what a server may send.
const (
	maxBulk  = 1 << 20
	maxArray = 1 << 16
)

// ErrRedis is an error that the server answered with.
var ErrRedis = errors.New("redis")

// A Conn is a connection to a server.
type Conn struct {
	conn    net.Conn
	in      *bufio.Reader
	timeout time.Duration
}

// New takes over a connection. An answer may take as long as timeout.
func New(conn net.Conn, timeout time.Duration) *Conn {
	return &Conn{conn: conn, in: bufio.NewReader(conn), timeout: timeout}
}

// Do sends a command and returns its answer: string, int64, nil or []any.
func (r *Conn) Do(args ...string) (any, error) {
	answers, err := r.DoAll([][]string{args})
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// DoAll sends commands all at once and returns their answers.
func (r *Conn) DoAll(commands [][]string) ([]any, error) {
	if err := r.conn.SetDeadline(time.Now().Add(r.timeout)); err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, args := range commands {
		fmt.Fprintf(&text, "*%d\r\n", len(args))
		for _, arg := range args {
			fmt.Fprintf(&text, "$%d\r\n%s\r\n", len(arg), arg)
		}
	}
	if _, err := io.WriteString(r.conn, text.String()); err != nil {
		return nil, err
	}
	answers := make([]any, len(commands))
	for i := range answers {
		answer, err := r.Read()
		if err != nil {
			return nil, err
		}
		answers[i] = answer
	}
	return answers, nil
}

// Read reads one value: an answer, or a command, which is an array of strings.
func (r *Conn) Read() (any, error) {
	line, err := r.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, errors.New("empty answer")
	}
	switch rest := line[1:]; line[0] {
	case '+':
		return rest, nil
	case '-':
		return nil, fmt.Errorf("%w: %s", ErrRedis, rest)
	case ':':
		return strconv.ParseInt(rest, 10, 64)
	case '$':
		return r.readBulk(rest)
	case '*':
		return r.readArray(rest)
	}
	return nil, fmt.Errorf("answer of unknown kind: %q", line)
}

func (r *Conn) readBulk(length string) (any, error) {
	n, err := strconv.Atoi(length)
	switch {
	case err != nil || n < -1 || n > maxBulk:
		return nil, fmt.Errorf("string of length %q", length)
	case n == -1:
		return nil, nil
	}
	data := make([]byte, n+len("\r\n"))
	if _, err := io.ReadFull(r.in, data); err != nil {
		return nil, err
	}
	return string(data[:n]), nil
}

func (r *Conn) readArray(length string) (any, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > maxArray {
		return nil, fmt.Errorf("array of length %q", length)
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = r.Read(); err != nil {
			return nil, err
		}
	}
	return list, nil
}
