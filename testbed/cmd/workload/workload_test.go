package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMemory(t *testing.T) {
	for _, compressible := range []float64{0, 0.5, 1} {
		m, err := newMemory(kindPrivate, 1, 7, compressible)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 50 {
			m.rewrite(n % 20)
		}
		if r := m.verify(); r.Bad != 0 || r.Pages != 256 || r.Written != 50 {
			t.Errorf("compressible %v: %+v", compressible, r)
		}
		copy(m.page(3), m.page(4)) // a page in the wrong place
		m.data[200*pageSize] ^= 1
		if r := m.verify(); r.Bad != 2 {
			t.Errorf("compressible %v: two bad pages give %+v", compressible, r)
		}
	}
}

func TestTicks(t *testing.T) {
	for text, want := range map[string]tickReport{
		"tick 5 x\ntick 6 x\ntick 7 x\n": {Ticks: 3, First: 5, Last: 7},
		"tick 1 x\ntick 4 x\ntick 4 x\n": {Ticks: 3, First: 1, Last: 4, Missing: 2, Repeated: 1},
		"tick 1 x\ntitick 2 x\n":         {Ticks: 1, First: 1, Last: 1, Torn: 1},
	} {
		if got, err := readTicks(strings.NewReader(text)); err != nil || got != want {
			t.Errorf("%q gives %+v, %v", text, got, err)
		}
	}
}

func TestGap(t *testing.T) {
	var g gapMeter
	begin := time.Now()
	for _, ms := range []int{0, 5, 10, 260, 265} {
		g.mark(begin.Add(time.Duration(ms) * time.Millisecond))
	}
	if r := g.report(); r.LongestGapMS != 250 {
		t.Errorf("got %+v", r)
	}
}

// local starts a listener whose connections serve handles.
func local(t *testing.T, serve func(net.Conn)) string {
	listener, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return listener.Addr().String()
}

func TestClientAndServer(t *testing.T) {
	held, err := newMemory(kindPrivate, 1, 1, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{memory: held}
	conn, err := dial(t.Context(), local(t, s.talk), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	k := &client{conn: conn, answers: bufio.NewReader(conn), timeout: time.Second}
	k.result.Consistent = true
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := k.run(ctx, time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	k.verify()
	if r := k.report(); !r.sound() || r.Memory == nil {
		t.Errorf("got %+v", r)
	}
	k.result.Requests += 5 // as if answers had been lost
	if err := k.run(t.Context(), 0, 0); err == nil || k.result.Consistent {
		t.Error("a jump in the numbers goes unnoticed")
	}
}

// fakeRedis knows the few commands that are used here.
type fakeRedis struct {
	counter int
	keys    map[string]string
}

func (f *fakeRedis) serve(conn net.Conn) {
	defer conn.Close()
	in := newRedisConn(conn, time.Second)
	for {
		answer, err := in.Read() // a command is an array of strings
		command, ok := answer.([]any)
		if err != nil || !ok {
			return
		}
		_, _ = fmt.Fprint(conn, f.answer(command))
	}
}

func (f *fakeRedis) answer(command []any) string {
	bulk := func(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
	switch command[0] {
	case "DEL":
		f.counter = 0
		return ":1\r\n"
	case "INCR":
		f.counter++
		return fmt.Sprintf(":%d\r\n", f.counter)
	case "SET":
		f.keys[command[1].(string)] = command[2].(string)
		return "+OK\r\n"
	case "GET":
		return bulk(strconv.Itoa(f.counter))
	case "MGET":
		answer := fmt.Sprintf("*%d\r\n", len(command)-1)
		for _, key := range command[1:] {
			if value, ok := f.keys[key.(string)]; ok {
				answer += bulk(value)
			} else {
				answer += "$-1\r\n"
			}
		}
		return answer
	}
	return "-ERR unknown\r\n"
}

func TestRedis(t *testing.T) {
	f := &fakeRedis{keys: map[string]string{}}
	address := local(t, f.serve)
	log := filepath.Join(t.TempDir(), "log")
	conn, err := dial(t.Context(), address, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	redis := newRedisConn(conn, time.Second)
	if err := writeSome(t, redis, log); err != nil {
		t.Fatal(err)
	}
	r, err := verifyRedis(redis, log)
	if err != nil || !r.sound() || r.Acknowledged < 10 {
		t.Fatalf("got %+v, %v", r, err)
	}
	delete(f.keys, keyPrefix+"3")
	f.keys[keyPrefix+"4"] = "5"
	f.counter += 3
	r, err = verifyRedis(redis, log)
	if err != nil || r.Lost != 1 || r.Wrong != 1 || r.Doubled != 2 || r.sound() {
		t.Errorf("damage gives %+v, %v", r, err)
	}
	if _, err := redis.do("PING"); err == nil {
		t.Error("an error of the server goes unnoticed")
	}
}

func writeSome(t *testing.T, redis *redisConn, log string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := (&redisWriter{redis: redis}).logWrites(ctx, log, 0)
	return err
}
