package network

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kinds are the ways to lock a namespace that has interfaces.
var kinds = map[string]func(netns string) (*Lock, error){
	"interfaces": NewLock,
	"protocols":  lockByProtocol,
}

// lockByProtocol is NewLock on a kernel that cannot lock interfaces.
func lockByProtocol(netns string) (*Lock, error) {
	lock, err := PrepareLock(netns)
	if err != nil {
		return nil, err
	}
	lock.chains = protocolChains()
	return lock, lock.Shut()
}

func TestLockUsesNetdevHere(t *testing.T) {
	b := newBed(t)
	mustLock(t, NewLock, b.container)
	if got := tables(t, b.container); !slices.Equal(got, []nftables.TableFamily{nftables.TableFamilyNetdev}) {
		t.Skipf("SKIPPED, FALLBACK ONLY: this kernel has no egress hook, the lock is in families %v", got)
	}
}

func TestLockStopsPacketSockets(t *testing.T) {
	b := newBed(t)
	inner, outer := newTap(t, b.container), newTap(t, b.peer)
	lock := mustLock(t, NewLock, b.container)
	if len(tables(t, b.container)) != 1 {
		t.Skip("SKIPPED: without egress hook packet sockets are not locked")
	}
	if err := inner.send(probe(containerMAC, 1)); err == nil {
		t.Error("a frame was sent through the lock")
	}
	check(t, lock.Open())
	check(t, inner.send(probe(containerMAC, 2)))
	if slices.ContainsFunc(outer.read(t, isProbe(2)), isProbe(1)) {
		t.Error("the peer saw the frame sent through the lock")
	}
}

func TestLockStopsARP(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			outer := newTap(t, b.peer)
			lock := mustLock(t, kind, b.container)
			check(t, outer.send(whoHas("10.77.0.7")))
			check(t, lock.Open())
			check(t, outer.send(whoHas("10.77.0.8")))
			if slices.ContainsFunc(outer.read(t, isARPReplyTo("10.77.0.8")), isARPReplyTo("10.77.0.7")) {
				t.Error("the locked container answered")
			}
		})
	}
}

func TestConnectionSurvivesLock(t *testing.T) {
	for name, kind := range kinds {
		for _, ip := range []string{container4, container6} {
			t.Run(name+"/"+ip, func(t *testing.T) {
				b := newBed(t)
				server, client := b.connection(t, ip)
				lock := mustLock(t, kind, b.container)
				write(t, client, "to the container")
				write(t, server, "to the peer")
				wantSilence(t, server)
				wantSilence(t, client)
				check(t, lock.Open())
				wantText(t, server, "to the container")
				wantText(t, client, "to the peer")
			})
		}
	}
}

func TestLockLeavesLoopback(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			mustLock(t, kind, b.container)
			for _, ip := range []string{"127.0.0.1", "::1", container4, container6} {
				wantConnect(t, b.container, listen(t, b.container, net.JoinHostPort(ip, "0")).Addr().String())
			}
		})
	}
}

func TestLockWithoutInterfaces(t *testing.T) {
	netns := newNetns(t)
	lock := mustLock(t, NewLock, netns)
	if got := tables(t, netns); got != nil {
		t.Errorf("there are tables in families %v", got)
	}
	check(t, lock.Open())
	check(t, lock.Remove())
	check(t, lock.Close())
}

func TestPrelockNeverResets(t *testing.T) {
	b := bed{container: newNetns(t), peer: newNetns(t)}
	lock := mustLock(t, Prelock, b.container)
	b.connect(t)
	for _, ip := range []string{container4, container6} {
		var timeout net.Error
		_, err := dial(b.peer, net.JoinHostPort(ip, "9"), silence)
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("dial a closed port of %s: %v, want a timeout", ip, err)
		}
	}
	wantConnect(t, b.container, listen(t, b.container, "127.0.0.1:0").Addr().String())
	check(t, lock.Open())
	for _, ip := range []string{container4, container6} {
		if _, err := dial(b.peer, net.JoinHostPort(ip, "9"), patience); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dial a closed port of %s after Open: %v, want a refusal", ip, err)
		}
		wantConnect(t, b.peer, listen(t, b.container, net.JoinHostPort(ip, "0")).Addr().String())
	}
}

func TestRemoveLeavesNoTable(t *testing.T) {
	kinds := map[string]func(string) (*Lock, error){"interfaces": NewLock, "protocols": kinds["protocols"], "prelock": Prelock}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			lock := mustLock(t, kind, b.container)
			if tables(t, b.container) == nil {
				t.Error("the lock has no table")
			}
			check(t, lock.Remove())
			if got := tables(t, b.container); got != nil {
				t.Errorf("there are tables in families %v", got)
			}
			check(t, lock.Remove())
			check(t, lock.Open())
			wantConnect(t, b.peer, listen(t, b.container, net.JoinHostPort(container4, "0")).Addr().String())
		})
	}
}

func TestRemoveAfterTableWasDeleted(t *testing.T) {
	b := newBed(t)
	lock := mustLock(t, NewLock, b.container)
	check(t, RemoveStale(b.container))
	check(t, lock.Open())
	check(t, lock.Remove())
}

func TestLockOutlivesItsProcess(t *testing.T) {
	b := newBed(t)
	server, client := b.connection(t, container4)
	check(t, mustLock(t, NewLock, b.container).Close())
	write(t, client, "late")
	wantSilence(t, server)

	lock, err := Attach(b.container)
	check(t, err)
	check(t, lock.Open())
	wantText(t, server, "late")
	check(t, lock.Remove())
	if got := tables(t, b.container); got != nil {
		t.Errorf("there are tables in families %v", got)
	}
}

func TestRemoveStale(t *testing.T) {
	b := newBed(t)
	check(t, RemoveStale(b.container))
	check(t, mustLock(t, NewLock, b.container).Close())
	check(t, mustLock(t, kinds["protocols"], b.container).Close())
	check(t, RemoveStale(b.container))
	check(t, RemoveStale(b.container))
	if got := tables(t, b.container); got != nil {
		t.Errorf("there are tables in families %v", got)
	}
	if _, err := Attach(b.container); !errors.Is(err, ErrNotLocked) {
		t.Errorf("Attach without a lock: %v, want %v", err, ErrNotLocked)
	}
}

func TestLockAgainReplacesOpenLock(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			server, client := b.connection(t, container4)
			check(t, mustLock(t, kind, b.container).Open())
			again := mustLock(t, kind, b.container)
			write(t, client, "held")
			wantSilence(t, server)
			check(t, again.Open())
			wantText(t, server, "held")
		})
	}
}

func TestOpenAfterAnInterfaceVanished(t *testing.T) {
	b := newBed(t)
	b.addPair(t, "eth1")
	server, client := b.connection(t, container4)
	lock := mustLock(t, NewLock, b.container)
	inside(t, b.container, func() error {
		link, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	write(t, client, "through the other")
	check(t, lock.Open())
	wantText(t, server, "through the other")
	check(t, lock.Remove())
}

// TestOpenAfterAChainVanished is the same for kernels that delete a chain with its interface.
func TestOpenAfterAChainVanished(t *testing.T) {
	b := newBed(t)
	b.addPair(t, "eth1")
	server, client := b.connection(t, container4)
	lock := mustLock(t, NewLock, b.container)
	r, err := openRuleset(b.container)
	check(t, err)
	defer r.close()
	r.conn.DelChain(lock.chains[len(lock.chains)-1])
	check(t, r.flush())
	write(t, client, "through the other")
	check(t, lock.Open())
	wantText(t, server, "through the other")
}

// TestUnknownHookMeansFallback asks for a hook beyond egress, which a kernel refuses as older ones refuse egress.
func TestUnknownHookMeansFallback(t *testing.T) {
	b := newBed(t)
	chain := lockChain(nftables.TableFamilyNetdev, "beyond", hookEgress+1)
	chain.Device = "eth0"
	lock, err := newLock(b.container, []*nftables.Chain{chain})
	if err == nil {
		lock.Close()
	}
	if err == nil || !noNetdev(err) {
		t.Errorf("got %v, want an error that leads to the fallback", err)
	}
	if got := tables(t, b.container); got != nil {
		t.Errorf("the refused lock left tables in families %v", got)
	}
}

func TestLockOfMissingNamespace(t *testing.T) {
	for name, call := range map[string]func(string) (*Lock, error){"NewLock": NewLock, "Prelock": Prelock, "Attach": Attach} {
		if _, err := call("/nowhere"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want %v", name, err, os.ErrNotExist)
		}
	}
}

func mustLock(t testing.TB, kind func(string) (*Lock, error), netns string) *Lock {
	t.Helper()
	lock, err := kind(netns)
	check(t, err)
	t.Cleanup(func() { lock.Close() })
	return lock
}

func tables(t testing.TB, netns string) []nftables.TableFamily {
	t.Helper()
	r, err := openRuleset(netns)
	check(t, err)
	defer r.close()
	list, err := r.families()
	check(t, err)
	return list
}

func write(t testing.TB, c net.Conn, text string) {
	t.Helper()
	_, err := c.Write([]byte(text))
	check(t, err)
}

func wantText(t testing.TB, c net.Conn, want string) {
	t.Helper()
	check(t, c.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	check(t, err)
	if got := string(buf[:n]); got != want {
		t.Errorf("read %q, want %q", got, want)
	}
}

func wantSilence(t testing.TB, c net.Conn) {
	t.Helper()
	check(t, c.SetReadDeadline(time.Now().Add(silence)))
	buf := make([]byte, 100)
	if n, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q, %v through the lock", buf[:n], err)
	}
}

func wantConnect(t testing.TB, netns, addr string) {
	t.Helper()
	c, err := dial(netns, addr, patience)
	if err != nil {
		t.Error(err)
		return
	}
	c.Close()
}

func TestRefuseNew(t *testing.T) {
	for name, prepare := range map[string]func(string) (*Lock, error){
		"interfaces": PrepareLock,
		"protocols": func(netns string) (*Lock, error) {
			lock, err := PrepareLock(netns)
			if err == nil {
				lock.chains = protocolChains()
			}
			return lock, err
		},
	} {
		both(t, func(t *testing.T, ip string) {
			t.Run(name, func(t *testing.T) {
				b := newBed(t)
				server, client := b.connection(t, ip)
				listener := listen(t, b.container, net.JoinHostPort(ip, "0"))
				lock := mustLock(t, prepare, b.container)
				wantConnect(t, b.peer, listener.Addr().String())
				check(t, lock.RefuseNew())
				var timeout net.Error
				if _, err := dial(b.peer, listener.Addr().String(), silence); !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("dial: %v, want a timeout", err)
				}
				wantConnect(t, b.container, listener.Addr().String())
				outside := listen(t, b.peer, net.JoinHostPort(map[string]string{container4: peer4, container6: peer6}[ip], "0"))
				wantConnect(t, b.container, outside.Addr().String())
				write(t, client, "passes")
				wantText(t, server, "passes")

				check(t, lock.Shut())
				write(t, client, "does not")
				wantSilence(t, server)
				wantConnect(t, b.container, listener.Addr().String()) // loopback
				check(t, lock.Open())
				wantText(t, server, "does not")
				wantConnect(t, b.peer, listener.Addr().String())
				check(t, lock.Remove())
				if got := tables(t, b.container); got != nil {
					t.Errorf("there are tables in families %v", got)
				}
			})
		})
	}
}

func TestPreparedLockLeavesNothing(t *testing.T) {
	b := newBed(t)
	lock := mustLock(t, PrepareLock, b.container)
	check(t, lock.Open())
	check(t, lock.Remove())
	wantNoTables(t, b.container)
	wantConnect(t, b.peer, listen(t, b.container, container4+":0").Addr().String())
}

func TestPrelockAnswersNoARP(t *testing.T) {
	b := bed{container: newNetns(t), peer: newNetns(t)}
	lock := mustLock(t, Prelock, b.container)
	b.connect(t)
	outer := newTap(t, b.peer)
	check(t, outer.send(whoHas("10.77.0.7")))
	check(t, lock.Open())
	check(t, outer.send(whoHas("10.77.0.8")))
	for _, f := range outer.read(t, isARPReplyTo("10.77.0.8")) {
		if isARPReplyTo("10.77.0.7")(f) {
			t.Error("the locked container answered")
		}
	}
}
