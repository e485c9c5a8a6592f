package traffic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	downloadRequest = "download %d %d" // seed, bytes a second
	uploadRequest   = "upload %d"      // seed
	gotReply        = "got %d\n"       // so many bytes, all of them right
	wrongReply      = "wrong %d before %d\n"

	chunk = 32 << 10 // what is written at a time
	// acknowledged is after how many bytes of an upload the server says how many it got.
	acknowledged = 64 << 10
)

// Serve answers a request that takes a whole connection, until the client leaves. It reports false if the request is none of
// these, and has done nothing then. in is what reads the connection.
func Serve(conn net.Conn, in *bufio.Reader, request string) bool {
	var seed uint64
	var rate int64
	switch {
	case scan(request, downloadRequest, &seed, &rate):
		_ = send(conn, seed, rate, nil) // it ends when the client leaves
	case scan(request, uploadRequest, &seed):
		_ = receive(conn, in, seed)
	default:
		return false
	}
	return true
}

// scan takes a whole line apart.
func scan(line, format string, values ...any) bool {
	n, err := fmt.Sscanf(line, format, values...)
	return err == nil && n == len(values)
}

// send writes a sequence at a rate, or as fast as it goes for 0, until that fails or enough says so.
func send(conn io.Writer, seed uint64, rate int64, enough func(sent int64) bool) error {
	s := sequence{seed: seed}
	buf := make([]byte, chunk)
	for enough == nil || !enough(int64(s.at)) {
		s.fill(buf)
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		pace(len(buf), rate)
	}
	return nil
}

// pace waits for as long as so many bytes take. What was missed while everything stood still is not made up for.
func pace(n int, rate int64) {
	if rate > 0 {
		time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
	}
}

// receive checks a sequence and says how much of it has come.
func receive(conn io.Writer, in io.Reader, seed uint64) error {
	s := sequence{seed: seed}
	buf, scratch := make([]byte, acknowledged), make([]byte, acknowledged)
	var told uint64
	for {
		n, err := in.Read(buf)
		if wrong := s.check(buf[:n], scratch[:n]); wrong > 0 {
			_, err := fmt.Fprintf(conn, wrongReply, wrong, s.at)
			return err
		}
		if s.at-told >= acknowledged || errors.Is(err, io.EOF) {
			told = s.at
			if _, err := fmt.Fprintf(conn, gotReply, told); err != nil {
				return err
			}
		}
		if err != nil {
			return ignoreEOF(err)
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// trimLine is a line without its end.
func trimLine(s string) string { return strings.TrimSuffix(s, "\n") }
