package network

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A lock drops what TCP sends where TCP sees it, so that it tries again every half a second and goes on at once when
// the lock is opened. Each try counts, though: after tcp_retries2 of them, 15 as a rule and so less than eight seconds, the
// kernel ends the connection without a word (net/ipv4/tcp_timer.c, tcp_write_timeout). While a namespace is locked it
// therefore has patientRetries, the most that the kernel takes, good for two minutes. The value before is kept in the name
// of an empty table, where also another process finds it.
const (
	retriesPath    = "/proc/sys/net/ipv4/tcp_retries2"
	patientRetries = 255
	markerPrefix   = TableName + "_retries_"
)

// bePatient raises tcp_retries2 and marks the namespace.
func (l *Lock) bePatient() error {
	var before int
	err := Do(l.netns, func() (err error) {
		if before, err = readRetries(); err != nil || before >= patientRetries {
			return err
		}
		return writeRetries(patientRetries)
	})
	if err != nil || before >= patientRetries {
		return err
	}
	l.rules.conn.AddTable(markerTable(before))
	return l.rules.flush()
}

// Settle ends the patience that a lock gave to the connections of a namespace, once all of them have got through again,
// or after limit. It is to be called after the lock was removed. A namespace without a lock's mark is left alone.
func Settle(netns string, limit time.Duration) error {
	if err := settle(netns, limit); err != nil {
		return fmt.Errorf("settle the connections of %s: %w", netns, err)
	}
	return nil
}

func settle(netns string, limit time.Duration) error {
	rules, err := openRuleset(netns)
	if err != nil {
		return err
	}
	defer rules.close()
	before, marked, err := rules.marker()
	if err != nil || !marked {
		return err
	}
	const poll = 50 * time.Millisecond
	err = Do(netns, func() error {
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(poll) {
			if still, err := retrying(before); err != nil || !still {
				break // what cannot be asked is given no more time
			}
		}
		return writeRetries(before)
	})
	if err != nil {
		return err
	}
	rules.conn.DelTable(markerTable(before))
	return rules.flush()
}

// retrying says whether a connection has tried more often than it may have once Settle is through.
func retrying(most int) (bool, error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := dump(func() ([]*netlink.InetDiagTCPInfoResp, error) { return netlink.SocketDiagTCPInfo(family) })
		if err != nil {
			return false, err
		}
		for _, s := range sockets {
			if s.TCPInfo != nil && (int(s.TCPInfo.Retransmits) >= most || int(s.TCPInfo.Probes) >= most) {
				return true, nil
			}
		}
	}
	return false, nil
}

// marker finds the value that was kept.
func (r *ruleset) marker() (before int, marked bool, err error) {
	tables, err := r.conn.ListTables()
	if err != nil {
		return 0, false, errors.Join(err, r.conn.CloseLasting())
	}
	for _, t := range tables {
		if rest, ok := strings.CutPrefix(t.Name, markerPrefix); ok {
			if before, err := strconv.Atoi(rest); err == nil && before > 0 && before < patientRetries {
				return before, true, nil
			}
		}
	}
	return 0, false, nil
}

func markerTable(before int) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: markerPrefix + strconv.Itoa(before)}
}

func readRetries() (int, error) {
	b, err := os.ReadFile(retriesPath)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func writeRetries(n int) error { return os.WriteFile(retriesPath, []byte(strconv.Itoa(n)), 0) }
