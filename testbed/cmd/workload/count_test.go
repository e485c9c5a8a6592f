package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// countTo has a server count so far.
func countTo(t *testing.T, protocol, addr, path string, last int) (countReport, counter) {
	t.Helper()
	server, err := counters[protocol](t.Context(), counterOptions{addr, path, time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var printed int
	out := writerFunc(func(p []byte) (int, error) {
		if printed++; printed == last {
			cancel()
		}
		return len(p), nil
	})
	r, err := count(ctx, server, out, time.Millisecond, time.Nanosecond)
	if err != nil {
		t.Logf("count: %v", err)
		r.Error = err.Error()
	}
	return r, server
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestWeb(t *testing.T) {
	server := httptest.NewServer(pages(1000))
	defer server.Close()
	addr := server.Listener.Addr().String()
	if r, _ := countTo(t, "http", addr, "/next", 20); r.Counted != 20 || r.Error != "" {
		t.Errorf("got %+v", r)
	}
	// the server has counted for somebody else: it is ahead
	if r, _ := countTo(t, "http", addr, "/next", 20); r.Error == "" {
		t.Error("a counter that is ahead goes unnoticed")
	}
}

// TestDownload downloads pages over one connection.
func TestDownload(t *testing.T) {
	server := httptest.NewServer(pages(1000))
	defer server.Close()
	addr := server.Listener.Addr().String()
	conn, err := connect(t.Context(), counterOptions{addr: addr, timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var r downloadReport
	told := 0
	pace := pacer{perSecond: 1_000_000, every: time.Millisecond, tell: func() error { told++; return nil }}
	for range 3 {
		if err := conn.page(t.Context(), addr, "/lines", &r, &pace); err != nil {
			t.Fatal(err)
		}
	}
	if r.Pages != 3 || r.Lines != 3000 || told != 3 {
		t.Errorf("got %+v, told %d times", r, told)
	}
	if err := conn.page(t.Context(), addr, "/next", &r, &pace); err != nil { // a page of one line
		t.Error(err)
	}
	if err := conn.page(t.Context(), addr, "/next", &r, &pace); err == nil {
		t.Error("a page that begins with 2 goes unnoticed")
	}
}

// memcachedFake keeps items and can lose one.
func memcachedFake(t *testing.T, lose string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		items, n := map[string]string{}, 0
		for in := bufio.NewReader(conn); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			switch f := strings.Fields(line); f[0] {
			case "incr":
				n++
				_, _ = fmt.Fprintf(conn, "%d\r\n", n)
			case "get":
				_, _ = fmt.Fprintf(conn, "VALUE %s 0 1\r\n%s\r\nEND\r\n", f[1], items[f[1]])
			default:
				value, _ := in.ReadString('\n')
				if f[1] != lose {
					items[f[1]] = strings.TrimSpace(value)
				}
				_, _ = io.WriteString(conn, "STORED\r\n")
			}
		}
	}()
	return listener.Addr().String()
}

func TestMemcached(t *testing.T) {
	r, server := countTo(t, "memcached", memcachedFake(t, ""), "", 10)
	if err := server.verify(r.Counted); err != nil || r.Counted != 10 {
		t.Errorf("got %+v, %v", r, err)
	}
	r, server = countTo(t, "memcached", memcachedFake(t, "item4"), "", 10)
	if err := server.verify(r.Counted); err == nil || !strings.Contains(err.Error(), "item 4") {
		t.Errorf("a lost item gives %v", err)
	}
}

// TestCountReport holds the interim result to what its readers know.
func TestCountReport(t *testing.T) {
	text, err := json.Marshal(countReport{Counted: 3})
	if err != nil || !strings.Contains(string(text), `"counted":3`) {
		t.Errorf("got %s, %v", text, err)
	}
}
