package network

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// Written down byte by byte from RFC 826, 4861 and 5227, for containerMAC and the container's addresses.
const (
	wantARPRequest = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a4d0001 000000000000 0a4d0001"
	wantARPReply   = "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 0a4d0001 ffffffffffff 0a4d0001"
	wantRARP       = "ffffffffffff 020000000001 8035 0001 0800 06 04 0003 020000000001 00000000 020000000001 00000000"
	wantNeighbour  = "333300000001 020000000001 86dd 60000000 0020 3a ff fd770000000000000000000000000001" +
		"ff020000000000000000000000000001 88 00 59ad 20000000 fd770000000000000000000000000001 0201 020000000001"
)

func TestAnnouncements(t *testing.T) {
	prefixes := func(list ...string) (p []netip.Prefix) {
		for _, s := range list {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	eth := func(ips ...string) Interface { return Interface{MAC: containerMAC, IPs: prefixes(ips...), Up: true} }
	down, noARP, tun := eth("10.77.0.1/24"), eth("10.77.0.1/24"), eth("10.77.0.1/24")
	down.Up, noARP.noARP, tun.MAC = false, true, nil
	for name, c := range map[string]struct {
		itf  Interface
		want []string
	}{
		"both families":   {eth("10.77.0.1/24", "fd77::1/64", "fe80::1/64"), []string{wantARPRequest, wantARPReply, wantNeighbour}},
		"link-local only": {eth("fe80::1/64"), []string{wantRARP}},
		"no address":      {eth(), []string{wantRARP}},
		"down":            {down, nil},
		"no ARP":          {noARP, nil},
		"not Ethernet":    {tun, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := announcements(c.itf)
			if len(got) != len(c.want) {
				t.Fatalf("%d frames, want %d", len(got), len(c.want))
			}
			for i := range got {
				if !bytes.Equal(got[i], unhex(t, c.want[i])) {
					t.Errorf("frame %d\n%x, want\n%s", i, got[i], c.want[i])
				}
			}
		})
	}
}

func TestAnnounceReachesPeer(t *testing.T) {
	b := newBed(t)
	outer := newTap(t, b.peer)
	check(t, Announce(b.container))
	wantAnnouncements(t, outer)
}

func TestAnnounceRepeat(t *testing.T) {
	b := newBed(t)
	outer := newTap(t, b.peer)
	check(t, AnnounceRepeat(context.Background(), b.container))
	for range 1 + len(repeats) {
		wantAnnouncements(t, outer)
	}
}

// TestAnnounceUpdatesPeer shows that the kernel of a peer takes the frames for what they are.
func TestAnnounceUpdatesPeer(t *testing.T) {
	b := newBed(t)
	wantConnect(t, b.peer, listen(t, b.container, net.JoinHostPort(container4, "0")).Addr().String())
	wantConnect(t, b.peer, listen(t, b.container, net.JoinHostPort(container6, "0")).Addr().String())
	moved := Interface{MAC: append(containerMAC[:5:5], 9), Up: true, IPs: []netip.Prefix{
		netip.MustParsePrefix(container4 + "/24"), netip.MustParsePrefix(container6 + "/64")}}
	inner := newTap(t, b.container)
	for _, ip := range []string{container4, container6} {
		eventually(t, fmt.Sprintf("peer has %s at %s", ip, moved.MAC), func() bool {
			// Sent again each time: a kernel hears all-nodes multicast a little later than its link is up.
			for _, f := range announcements(moved) {
				check(t, inner.send(f))
			}
			return neighbour(t, b.peer, ip) == moved.MAC.String()
		})
	}
}

func TestAnnounceThroughShutLock(t *testing.T) {
	b := newBed(t)
	lock := mustLock(t, NewLock, b.container)
	if len(tables(t, b.container)) != 1 {
		t.Skip("SKIPPED: without egress hook packet sockets are not locked")
	}
	if Announce(b.container) == nil {
		t.Error("no error, though the lock is shut")
	}
	check(t, lock.Open())
	check(t, Announce(b.container))
}

func TestAnnounceWithoutInterfaces(t *testing.T) {
	check(t, Announce(newNetns(t)))
}

// wantAnnouncements expects the three frames in the order in which they are sent.
func wantAnnouncements(t *testing.T, p tap) {
	t.Helper()
	for _, want := range []string{wantARPRequest, wantARPReply, wantNeighbour} {
		p.read(t, func(b []byte) bool { return bytes.Equal(b, unhex(t, want)) })
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte(" "), nil)))
	check(t, err)
	return b
}
