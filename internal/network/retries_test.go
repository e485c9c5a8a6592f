package network

import (
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestConnectionOutlivesALongLock: without patience the kernel ends the connection after less than eight seconds.
func TestConnectionOutlivesALongLock(t *testing.T) {
	b := newBed(t)
	server, client := b.connection(t, container4)
	lock, err := NewLock(b.container)
	check(t, err)
	_, err = server.Write([]byte("answer")) // is dropped, and tried again for as long as the lock is there
	check(t, err)
	if got := retriesOf(t, b.container); got != patientRetries {
		t.Errorf("tcp_retries2 is %d while locked", got)
	}
	time.Sleep(9 * time.Second)
	check(t, lock.Remove())
	check(t, Settle(b.container, patience))
	if got := retriesOf(t, b.container); got != 15 {
		t.Errorf("tcp_retries2 is %d afterwards, want 15", got)
	}
	check(t, client.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 16)
	n, err := client.Read(buf)
	if err != nil || string(buf[:n]) != "answer" {
		t.Errorf("the client read %q, %v", buf[:n], err)
	}
	wantNoTables(t, b.container)
}

func TestSettleAfterAnotherProcess(t *testing.T) {
	b := newBed(t)
	check(t, Do(b.container, func() error { return writeRetries(7) }))
	lock, err := NewLock(b.container)
	check(t, err)
	check(t, lock.Close()) // as if its process had died
	check(t, RemoveStale(b.container))
	check(t, Settle(b.container, patience))
	check(t, Settle(b.container, patience)) // finds nothing to do
	if got := retriesOf(t, b.container); got != 7 {
		t.Errorf("tcp_retries2 is %d, want 7", got)
	}
	wantNoTables(t, b.container)
}

func retriesOf(t *testing.T, netns string) (n int) {
	t.Helper()
	check(t, Do(netns, func() (err error) { n, err = readRetries(); return err }))
	return n
}

func wantNoTables(t *testing.T, netns string) {
	t.Helper()
	var tables []*nftables.Table
	check(t, Do(netns, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err = conn.ListTables()
		return err
	}))
	for _, table := range tables {
		t.Errorf("table %s is left", table.Name)
	}
}
