package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A lasting connection is for one request after another. Every answer has a deadline.
type lasting struct {
	net.Conn
	in      *bufio.Reader
	timeout time.Duration
}

func connect(ctx context.Context, o counterOptions) (*lasting, error) {
	conn, err := dial(ctx, o.addr, o.timeout)
	if err != nil {
		return nil, err
	}
	return &lasting{conn, bufio.NewReader(conn), o.timeout}, nil
}

// http makes a request and returns the answer's content. The server must keep the connection.
func (l *lasting) http(method, path, host string, content []byte) ([]byte, error) {
	if err := l.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return nil, err
	}
	request, err := http.NewRequest(method, "http://"+host+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	if err := request.Write(l); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(l.in, request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return nil, err
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(text))
	case answer.Close:
		return nil, fmt.Errorf("the server closes the connection")
	}
	return text, nil
}

// httpCounter is a page that is a greater number every time.
type httpCounter struct {
	*lasting
	host, path string
}

func newHTTPCounter(ctx context.Context, o counterOptions) (counter, error) {
	conn, err := connect(ctx, o)
	return &httpCounter{conn, o.addr, o.path}, err
}

func (h *httpCounter) next(n uint64) error {
	text, err := h.http(http.MethodGet, h.path, h.host, nil)
	if err != nil {
		return err
	}
	return sameNumber(strings.TrimSpace(string(text)), n)
}

func (h *httpCounter) verify(uint64) error { return nil }

func sameNumber(text string, n uint64) error {
	if text != strconv.FormatUint(n, 10) {
		return fmt.Errorf("the server says %q and not %d", text, n)
	}
	return nil
}

// memcached has a number that is incremented, and an item for each.
type memcached struct{ *lasting }

func newMemcached(ctx context.Context, o counterOptions) (counter, error) {
	conn, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	m := &memcached{conn}
	answer, err := m.ask("set counter 0 0 1\r\n0\r\n")
	if err != nil || answer != "STORED" {
		return nil, fmt.Errorf("memcached says %q, %w", answer, err)
	}
	return m, nil
}

func (m *memcached) ask(command string) (string, error) {
	if err := m.SetDeadline(time.Now().Add(m.timeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(m, command); err != nil {
		return "", err
	}
	return m.line()
}

func (m *memcached) line() (string, error) {
	line, err := m.in.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func (m *memcached) next(n uint64) error {
	answer, err := m.ask("incr counter 1\r\n")
	if err != nil {
		return err
	}
	if err := sameNumber(answer, n); err != nil {
		return err
	}
	number := strconv.FormatUint(n, 10)
	answer, err = m.ask(fmt.Sprintf("add item%s 0 0 %d\r\n%s\r\n", number, len(number), number))
	if err == nil && answer != "STORED" {
		err = fmt.Errorf("item %d: the server says %q", n, answer)
	}
	return err
}

// verify gets every item.
func (m *memcached) verify(last uint64) error {
	for n := uint64(1); n <= last; n++ {
		if _, err := m.ask(fmt.Sprintf("get item%d\r\n", n)); err != nil {
			return err
		}
		value, err := m.line()
		if err != nil {
			return err
		}
		if err := sameNumber(value, n); err != nil {
			return fmt.Errorf("item %d: %w", n, err)
		}
		if end, err := m.line(); err != nil || end != "END" {
			return fmt.Errorf("item %d ends with %q, %w", n, end, err)
		}
	}
	return nil
}

// etcd has a key that is changed only if it has the expected value, and a key for each number, through its JSON gateway.
type etcd struct {
	*lasting
	host string
}

func newEtcd(ctx context.Context, o counterOptions) (counter, error) {
	conn, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	e := &etcd{conn, o.addr}
	return e, e.call("put", put("counter", "0"), &struct{}{})
}

// object is one of JSON.
type object map[string]any

func text64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func put(key, value string) object { return object{"key": text64(key), "value": text64(value)} }

func (e *etcd) call(method string, argument, result any) error {
	content, err := json.Marshal(argument)
	if err != nil {
		return err
	}
	answer, err := e.http(http.MethodPost, "/v3/kv/"+method, e.host, content)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, result)
}

func (e *etcd) next(n uint64) error {
	before, now := strconv.FormatUint(n-1, 10), strconv.FormatUint(n, 10)
	var result struct{ Succeeded bool }
	err := e.call("txn", object{
		"compare": []object{{"key": text64("counter"), "target": "VALUE", "result": "EQUAL", "value": text64(before)}},
		"success": []object{{"requestPut": put("counter", now)}, {"requestPut": put("item/"+now, now)}},
	}, &result)
	if err == nil && !result.Succeeded {
		err = fmt.Errorf("the counter is not %s", before)
	}
	return err
}

func (e *etcd) verify(last uint64) error {
	var result struct{ Count string }
	err := e.call("range", object{"key": text64("item/"), "range_end": text64("item0"), "count_only": true}, &result)
	if err != nil {
		return err
	}
	return sameNumber(result.Count, last)
}
