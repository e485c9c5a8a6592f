package traffic

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func TestSequence(t *testing.T) {
	const length = 1000
	whole := make([]byte, length)
	(&sequence{seed: 5}).fill(whole)
	for _, step := range []int{1, 3, 8, 13, 999} {
		s, parts := sequence{seed: 5}, make([]byte, 0, length)
		for len(parts) < length {
			b := make([]byte, min(step, length-len(parts)))
			s.fill(b)
			parts = append(parts, b...)
		}
		if !bytes.Equal(parts, whole) {
			t.Errorf("taken in steps of %d it has another content", step)
		}
	}
	scratch := make([]byte, length)
	if n := (&sequence{seed: 5}).check(whole, scratch); n != 0 {
		t.Errorf("%d right bytes are called wrong", n)
	}
	whole[0] ^= 1
	whole[length-1] ^= 0x80
	if n := (&sequence{seed: 5}).check(whole, scratch); n != 2 {
		t.Errorf("%d of 2 wrong bytes are found", n)
	}
	if n := (&sequence{seed: 6}).check(whole, scratch); n < length/2 {
		t.Errorf("only %d bytes of another seed are wrong", n)
	}
	if n := (&sequence{seed: 5, at: 1}).check(whole, scratch); n < length/2 {
		t.Errorf("only %d bytes at another place are wrong", n)
	}
}

// serve answers connections on an address of this machine and returns it.
func serve(t *testing.T, ip string, talk func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(ip, "0"))
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
			go func() {
				defer conn.Close()
				talk(conn, bufio.NewReader(conn))
			}()
		}
	}()
	return listener.Addr().String()
}

// answer is a server that does everything right but for what change does to its answers.
func answer(change func(string) string) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, in *bufio.Reader) {
		for {
			request, err := in.ReadString('\n')
			if err != nil || Serve(conn, in, trimLine(request)) {
				return
			}
			if _, err := fmt.Fprint(conn, change(request)); err != nil {
				return
			}
		}
	}
}

func same(s string) string { return s }

// run has a client of a kind at work until it has done something, or has failed.
func run(t *testing.T, kind, addr string) Report {
	t.Helper()
	c, err := NewClient(Options{Kind: kind, Addr: addr, InFlight: 10, Timeout: 10 * time.Second, Rate: 100 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	for r := c.Report(); r.Errors == 0 && r.Requests < 50 && r.Bytes < 1<<20; r = c.Report() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	return c.Report()
}

func TestKinds(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		for _, kind := range Kinds {
			t.Run(kind+" "+ip, func(t *testing.T) {
				r := run(t, kind, serve(t, ip, answer(same)))
				if !r.Sound() || r.Kind != kind || r.Connections < 1 || (kind == Connect) != (r.Connections > 1) {
					t.Errorf("got %+v", r)
				}
			})
		}
	}
}

func TestWrongAnswersAreNoticed(t *testing.T) {
	wrong := func(s string) string { return strings.Replace(s, "5", "6", 1) }
	for _, kind := range []string{RequestReply, Pipelined} {
		if r := run(t, kind, serve(t, "127.0.0.1", answer(wrong))); r.Sound() || r.Wrong != 1 || r.Requests != 4 {
			t.Errorf("%s: got %+v", kind, r)
		}
	}
	never := func(string) string { return "seq 2\n" }
	if r := run(t, Connect, serve(t, "127.0.0.1", answer(never))); r.Sound() || r.Wrong == 0 {
		t.Errorf("%s: got %+v", Connect, r)
	}
}

// TestWrongBytesAreNoticed has a byte changed on its way, in either direction.
func TestWrongBytesAreNoticed(t *testing.T) {
	const at = 300_000
	bad := func(conn net.Conn, in *bufio.Reader) {
		request, err := in.ReadString('\n')
		if err != nil {
			return
		}
		damaged := &damage{at: at, Conn: conn, in: in}
		Serve(damaged, bufio.NewReader(damaged), trimLine(request))
	}
	for _, kind := range []string{Download, Upload} {
		r := run(t, kind, serve(t, "127.0.0.1", bad))
		if r.Sound() || r.Wrong != 1 || r.Errors != 1 {
			t.Errorf("%s: got %+v", kind, r)
		}
	}
}

// damage changes one byte of all that is read, and of all that is written.
type damage struct {
	net.Conn
	in          *bufio.Reader
	at          int
	read, wrote int
}

func (d *damage) Read(b []byte) (int, error) {
	n, err := d.in.Read(b)
	d.spoil(b[:n], &d.read)
	return n, err
}

func (d *damage) Write(b []byte) (int, error) {
	b = bytes.Clone(b)
	d.spoil(b, &d.wrote)
	return d.Conn.Write(b)
}

func (d *damage) spoil(b []byte, before *int) {
	if i := d.at - *before; i >= 0 && i < len(b) {
		b[i] ^= 0x10
	}
	*before += len(b)
}

func TestResetsAreCounted(t *testing.T) {
	reset := func(conn net.Conn, in *bufio.Reader) {
		_, _ = in.ReadString('\n')
		_ = conn.(*net.TCPConn).SetLinger(0) // closing it is a reset then
	}
	addr := serve(t, "127.0.0.1", reset)
	for _, kind := range Kinds {
		if r := run(t, kind, addr); r.Sound() || r.Resets == 0 {
			t.Errorf("%s: got %+v", kind, r)
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if r := run(t, Connect, closed.Addr().String()); r.Resets == 0 {
		t.Errorf("refused: got %+v", r)
	}
}

// TestSilenceIsNoted has the server say nothing for a while before an answer.
func TestSilenceIsNoted(t *testing.T) {
	const silent = 200 * time.Millisecond
	slow := func(s string) string {
		if s == "seq 10\n" {
			time.Sleep(silent)
		}
		return s
	}
	r := run(t, RequestReply, serve(t, "127.0.0.1", answer(slow)))
	if got := r.Longest.Ended.Sub(r.Longest.Began); got < silent || r.Longest.MS < float64(silent.Milliseconds()) {
		t.Errorf("the longest silence is %+v", r.Longest)
	}
	var noted bool
	for _, s := range r.Silences {
		noted = noted || s == r.Longest
	}
	if !noted {
		t.Errorf("the longest silence %+v is none of those listed: %+v", r.Longest, r.Silences)
	}
}

func TestSilenceThatGoesOnIsSeen(t *testing.T) {
	w := watch{least: time.Millisecond}
	if longest, list := w.seen(); longest.MS != 0 || len(list) != 0 {
		t.Errorf("before the beginning there were %v, %v", longest, list)
	}
	w.progress()
	time.Sleep(2 * time.Millisecond)
	if longest, list := w.seen(); longest.MS < 2 || len(list) != 1 {
		t.Errorf("seen %v, %v", longest, list)
	}
	if len(w.silences) != 0 {
		t.Error("a silence that goes on is noted as if it had ended")
	}
}

func TestOptions(t *testing.T) {
	good := Options{Kind: Upload, InFlight: 1, Timeout: time.Second}
	if _, err := NewClient(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"kind": func(o *Options) { o.Kind = "ping" }, "in flight": func(o *Options) { o.InFlight = 0 },
		"rate": func(o *Options) { o.Rate = -1 }, "interval": func(o *Options) { o.Interval = -1 }, "time limit": func(o *Options) { o.Timeout = 0 },
	} {
		o := good
		change(&o)
		if _, err := NewClient(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
