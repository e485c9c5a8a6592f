package network

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestDrainWaitsForAccept(t *testing.T) {
	ns := newNetns(t)
	var l net.Listener
	check(t, Do(ns, func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		_, err = net.Dial("tcp4", l.Addr().String())
		return err
	}))
	defer l.Close()
	var waiting uint32
	check(t, Do(ns, func() (err error) { waiting, err = backlog(); return err }))
	if waiting != 1 {
		t.Fatalf("%d connections wait to be accepted, want 1", waiting)
	}
	done := make(chan error, 1)
	go func() { done <- Drain(ns, patience) }()
	select {
	case err := <-done:
		t.Fatalf("did not wait (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	c, err := l.Accept()
	check(t, err)
	defer c.Close()
	check(t, <-done)
}

func TestEstablishedOfCountsOwnDescriptors(t *testing.T) {
	if n, err := EstablishedOf(nil); n != 0 || err != nil {
		t.Errorf("no processes: %d, %v", n, err)
	}
	needRoot(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	check(t, err)
	defer c.Close()
	file, err := c.(*net.TCPConn).File()
	check(t, err)
	defer file.Close()
	// a process of its own: this one's first thread may be in another namespace, for another test
	holder := exec.Command("sleep", "1000")
	holder.ExtraFiles = []*os.File{file}
	check(t, holder.Start())
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	n, err := EstablishedOf([]int{holder.Process.Pid})
	check(t, err)
	if n != 1 {
		t.Errorf("%d connections of the process, want 1", n)
	}
}

func TestDrainWaitsForHandshake(t *testing.T) {
	both(t, func(t *testing.T, ip string) {
		b := newBed(t)
		b.connection(t, ip) // neighbours are known
		listener := listen(t, b.container, net.JoinHostPort(ip, "0"))
		// the peer's answer to the container's segment does not leave it
		deaf := mustLock(t, func(netns string) (*Lock, error) { return newLock(netns, inetChains()[:1]) }, b.peer)
		conn := make(chan net.Conn)
		go func() {
			c, _ := dial(b.peer, listener.Addr().String(), patience)
			conn <- c
		}()
		var waiting uint32
		eventually(t, "a handshake is under way", func() bool {
			inside(t, b.container, func() (err error) { waiting, err = backlog(); return err })
			return waiting == 1
		})
		check(t, deaf.Open())
		acceptOne(t, listener)
		if c := <-conn; c != nil {
			c.Close()
		}
		check(t, Drain(b.container, patience))
	})
}
