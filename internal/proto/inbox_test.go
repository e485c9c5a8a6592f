package proto

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"migrate/internal/fail"
)

// line is a Pipe that delivers what a test puts in, and then its end.
type line struct {
	in   chan message
	ends error // after in was closed
}

func newLine(ends error) *line { return &line{in: make(chan message, 32), ends: ends} }

func (l *line) SendControl(_ context.Context, kind uint16, payload []byte) error {
	l.in <- message{Kind(kind), payload}
	return nil
}

func (l *line) RecvControl(ctx context.Context) (uint16, []byte, error) {
	select {
	case m, ok := <-l.in:
		if !ok {
			return 0, nil, l.ends
		}
		return uint16(m.kind), m.payload, nil
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
}

func send(t *testing.T, l *line, k Kind, m any) {
	t.Helper()
	if err := Send(t.Context(), l, k, m); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s", what)
	}
}

func TestInboxNoticesAbortWhileBusy(t *testing.T) {
	l := newLine(io.EOF)
	in, ctx, stop := NewInbox(t.Context(), l)
	defer stop(nil)
	send(t, l, Synced, SyncedMsg{BlobsStored: 3})
	if err := SendAbort(t.Context(), l, &fail.Fault{Code: fail.Space, What: "take in", Why: "disk full"}); err != nil {
		t.Fatal(err)
	}
	within(t, ctx.Done(), "end of the context, with nobody receiving")
	within(t, in.Closed(), "end of the inbox")
	var ab *AbortError
	if !errors.As(context.Cause(ctx), &ab) || ab.Fault.Code != fail.Space || !errors.As(in.Cause(), &ab) {
		t.Errorf("causes are %v and %v", context.Cause(ctx), in.Cause())
	}
	// what came before is delivered first, even though the context has ended
	var msg SyncedMsg
	if err := in.Recv(ctx, Synced, &msg); err != nil || msg.BlobsStored != 3 {
		t.Errorf("received %+v, %v", msg, err)
	}
	if err := in.Recv(context.Background(), Applied, nil); !errors.As(err, &ab) {
		t.Errorf("after the end: %v", err)
	}
}

func TestInboxPeersEnd(t *testing.T) {
	for _, ends := range []error{io.EOF, errors.New("link broke")} {
		l := newLine(ends)
		in, ctx, stop := NewInbox(t.Context(), l)
		send(t, l, Ready, nil)
		close(l.in)
		within(t, ctx.Done(), "end of the context")
		if err := in.Recv(ctx, Ready, nil); err != nil {
			t.Error(err)
		}
		if err := in.Recv(context.Background(), Committed, nil); !errors.Is(err, ends) {
			t.Errorf("got %v, want %v", err, ends)
		}
		if !errors.Is(in.Cause(), ends) {
			t.Errorf("cause is %v", in.Cause())
		}
		stop(nil)
	}
}

// A user who gives up ends what is waited for with the migration's context, and nothing else.
func TestInboxOutlivesTheUser(t *testing.T) {
	l := newLine(io.EOF)
	user, cancel := context.WithCancel(t.Context())
	in, ctx, stop := NewInbox(user, l)
	defer stop(nil)
	cancel()
	if err := in.Recv(ctx, Committed, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if in.Cause() != nil {
		t.Errorf("the peer has not ended, and yet: %v", in.Cause())
	}
	time.AfterFunc(20*time.Millisecond, func() { l.in <- message{Committed, []byte(`{"pid":7}`)} })
	var msg CommittedMsg
	if err := in.Recv(context.WithoutCancel(ctx), Committed, &msg); err != nil || msg.Pid != 7 {
		t.Errorf("received %+v, %v", msg, err)
	}
	close(l.in)
	within(t, in.Closed(), "end of the inbox")
}

func TestInboxRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		kind Kind
		b    string
		want string
	}{
		{"another message", Go, `{}`, "GO where READY was expected"},
		{"an unknown one", 77, `{}`, "message 77 where READY"},
		{"no JSON", Ready, `x`, "decode READY"},
		{"another type", Ready, `{"restore_ms":"long"}`, "decode READY"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLine(io.EOF)
			in, ctx, stop := NewInbox(t.Context(), l)
			defer stop(nil)
			l.in <- message{c.kind, []byte(c.b)}
			if err := in.Recv(ctx, Ready, &ReadyMsg{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			close(l.in)
		})
	}
}

func TestInboxIsNotFlooded(t *testing.T) {
	l := newLine(io.EOF)
	in, ctx, stop := NewInbox(t.Context(), l)
	defer stop(nil)
	for range maxAhead + 1 {
		send(t, l, Applied, nil)
	}
	within(t, ctx.Done(), "end of the migration")
	for range maxAhead {
		if err := in.Recv(context.Background(), Applied, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Recv(context.Background(), Applied, nil); err == nil || !strings.Contains(err.Error(), "too early") {
		t.Errorf("got %v", err)
	}
}

// What a peer says why it gives up is shown to a person; it does not decide anything, nor draw on their terminal.
func TestAbortOfAPeer(t *testing.T) {
	for in, want := range map[fail.Code]fail.Code{
		fail.Space: fail.Space, fail.Refused: fail.Refused, fail.Restore: fail.Restore,
		fail.InDoubt: fail.Restore, fail.Unfinished: fail.Restore, "": fail.Restore, "nonsense": fail.Restore,
	} {
		l := newLine(io.EOF)
		inbox, _, stop := NewInbox(t.Context(), l)
		if err := SendAbort(t.Context(), l, &fail.Fault{Code: in, What: "a\x1b[31mb", Why: "c\x00\u009bd", State: "moved"}); err != nil {
			t.Fatal(err)
		}
		within(t, inbox.Closed(), "end")
		var ab *AbortError
		if !errors.As(inbox.Cause(), &ab) {
			t.Fatalf("cause is %v", inbox.Cause())
		}
		if ab.Fault.Code != want {
			t.Errorf("code %q became %q, want %q", in, ab.Fault.Code, want)
		}
		if ab.Fault.State != "" || strings.ContainsAny(ab.Fault.Text(), "\x1b\x00\u009b") {
			t.Errorf("fault is %q", ab.Fault.Text())
		}
		stop(nil)
	}
}

func TestMalformedAbortEnds(t *testing.T) {
	for _, b := range []string{`x`, `null`, `[]`, `{"code":5}`} {
		l := newLine(io.EOF)
		in, _, stop := NewInbox(t.Context(), l)
		l.in <- message{Abort, []byte(b)}
		within(t, in.Closed(), "end of the inbox after ABORT "+b)
		if in.Cause() == nil {
			t.Errorf("ABORT %s: no cause", b)
		}
		stop(nil)
	}
}

func TestRootDependsOnEverything(t *testing.T) {
	base := []StreamSum{{ID: 1, Kind: 2, Bytes: 3, Sum: [32]byte{4}}, {ID: 17, Kind: 3, Bytes: 5}}
	want := string(Root(base))
	if got := string(Root([]StreamSum{base[1], base[0]})); got != want {
		t.Error("the order of arrival changes the root")
	}
	for i, change := range []func(s []StreamSum) []StreamSum{
		func(s []StreamSum) []StreamSum { s[0].ID = 2; return s },
		func(s []StreamSum) []StreamSum { s[0].Kind = 3; return s },
		func(s []StreamSum) []StreamSum { s[0].Bytes = 4; return s },
		func(s []StreamSum) []StreamSum { s[0].Sum[31] = 1; return s },
		func(s []StreamSum) []StreamSum { return s[:1] },
		func(s []StreamSum) []StreamSum { return nil },
	} {
		if got := string(Root(change(append([]StreamSum(nil), base...)))); got == want {
			t.Errorf("change %d does not change the root", i)
		}
	}
}

func FuzzDecodeAbort(f *testing.F) {
	b, _ := json.Marshal(fail.Fault{Code: fail.Space, What: "x"})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		err := decodeAbort(b)
		var ab *AbortError
		if errors.As(err, &ab) && !ab.Fault.Code.FromPeer() {
			t.Errorf("code %q", ab.Fault.Code)
		}
	})
}
