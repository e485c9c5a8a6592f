package network

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ErrNotLocked says that a namespace holds no lock.
var ErrNotLocked = errors.New("network is not locked")

// A Lock keeps packets from entering and leaving a network namespace, loopback excepted. Its methods may be called
// concurrently and repeatedly.
//
// A Lock keeps the namespace alive, with the interfaces in it, until Remove or Close.
type Lock struct {
	netns string // as given, for errors

	mu       sync.Mutex
	rules    *ruleset // nil once removed or closed, and where there is nothing to lock
	chains   []*nftables.Chain
	families []nftables.TableFamily // of the tables that the lock has made; none yet before RefuseNew or Shut
	shut     bool
	open     bool
}

// NewLock locks the namespace as it is: nothing enters or leaves by any of its interfaces, ARP and packet sockets'
// frames included. Packet sockets still see what arrives, and TCP sees its segments dropped and sends them again
// later. A lock that is there already is replaced.
//
// Connections outlive two minutes of it; call Settle when the lock was removed and the namespace lives on.
//
// Interfaces added later are not locked, see Prelock. Without any interface but loopback there is nothing to lock.
//
// Kernels without a hook on egress (before 5.16) get a lock on IPv4, IPv6 and ARP instead; packet sockets can then send.
func NewLock(netns string) (*Lock, error) {
	lock, err := PrepareLock(netns)
	if err != nil {
		return nil, err
	}
	if err := lock.Shut(); err != nil {
		return nil, errors.Join(err, lock.Remove())
	}
	return lock, nil
}

// PrepareLock does what can be done ahead of NewLock, so that Shut has little left to do. Everything passes until then.
// The lock is for the interfaces that there are now.
func PrepareLock(netns string) (*Lock, error) {
	var list []Interface
	err := Do(netns, func() (err error) {
		list, err = links()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lock network of %s: %w", netns, err)
	}
	if len(list) == 0 {
		return &Lock{netns: netns}, nil
	}
	rules, err := openRuleset(netns)
	if err != nil {
		return nil, fmt.Errorf("lock network of %s: %w", netns, err)
	}
	return &Lock{netns: netns, rules: rules, chains: netdevChains(list)}, nil
}

// RefuseNew drops the first segment of connections that peers open, and lets everything else pass. While the container
// still runs, those that are about to be accepted can so be, see Drain, and no others follow. The peers' TCP sends the
// segment again after a second. It makes Shut faster, too.
func (l *Lock) RefuseNew() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules == nil || l.families != nil {
		return nil
	}
	if err := l.make(refusing); err != nil {
		return fmt.Errorf("refuse new connections to %s: %w", l.netns, err)
	}
	return nil
}

// Shut lets nothing pass any more. A lock that was opened again stays open.
func (l *Lock) Shut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules == nil || l.shut || l.open {
		return nil
	}
	var err error
	if l.families == nil {
		err = l.make(dropping)
	} else {
		err = l.change(l.rules.drop)
	}
	if err != nil {
		return fmt.Errorf("lock network of %s: %w", l.netns, err)
	}
	l.shut = true
	return nil
}

// Prelock locks a namespace before its interfaces exist: IPv4, IPv6 and ARP are dropped on whatever interface comes, so
// that the namespace also draws nothing to itself. Packet sockets can send. Kernels whose nftables know no ARP leave
// ARP to be answered.
func Prelock(netns string) (*Lock, error) {
	lock, err := newLock(netns, protocolChains())
	if err != nil && noFamily(err) {
		return newLock(netns, inetChains())
	}
	return lock, err
}

// Attach picks up the lock that an earlier process left in the namespace, or returns ErrNotLocked.
func Attach(netns string) (*Lock, error) {
	rules, err := openRuleset(netns)
	if err != nil {
		return nil, fmt.Errorf("attach to lock of %s: %w", netns, err)
	}
	lock, err := attach(netns, rules)
	if err != nil {
		rules.close()
		return nil, fmt.Errorf("attach to lock of %s: %w", netns, err)
	}
	return lock, nil
}

// RemoveStale takes away whatever lock an earlier process left in the namespace. It is no error that there is none.
func RemoveStale(netns string) error {
	lock, err := Attach(netns)
	if errors.Is(err, ErrNotLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	return lock.Remove()
}

// Open lets everything pass, by a rule in front of the lock's: to delete the lock would take some ten times as long.
func (l *Lock) Open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules == nil || l.families == nil || l.open {
		return nil
	}
	if err := l.change(l.rules.accept); err != nil {
		return fmt.Errorf("open network of %s: %w", l.netns, err)
	}
	l.open = true
	return nil
}

// Remove opens the lock, if it is not open yet, and deletes it.
func (l *Lock) Remove() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules == nil || l.families == nil {
		return l.close()
	}
	if err := l.rules.remove(l.families); err != nil {
		return fmt.Errorf("remove lock of %s: %w", l.netns, err)
	}
	return l.close()
}

// Close lets go of the lock and leaves it in place, open or not. It is for a namespace that is to vanish with its lock.
func (l *Lock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

func (l *Lock) close() error {
	if l.rules == nil {
		return nil
	}
	rules := l.rules
	l.rules = nil
	return rules.close()
}

// make creates the chains and gives connections the time they need. Kernels that cannot lock interfaces lock protocols.
func (l *Lock) make(how function) error {
	err := l.rules.create(l.chains, how)
	if err != nil && noNetdev(err) {
		l.chains = protocolChains()
		if perr := l.rules.create(l.chains, how); perr != nil {
			return errors.Join(err, perr)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	l.families = families(l.chains)
	return l.bePatient()
}

// change adds a rule to all chains. It serves the case that an interface was taken away and its chains with it, too:
// the other chains of the transaction are as they were, and get the rule by themselves.
func (l *Lock) change(add func([]*nftables.Chain) error) error {
	err := add(l.chains)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	chains, err := l.rules.chains()
	if err != nil || len(chains) == 0 {
		return err
	}
	l.chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool {
		return !slices.Contains(l.families, c.Table.Family)
	})
	return add(l.chains)
}

// newLock makes a lock that is shut, of the given chains.
func newLock(netns string, chains []*nftables.Chain) (*Lock, error) {
	rules, err := openRuleset(netns)
	if err != nil {
		return nil, fmt.Errorf("lock network of %s: %w", netns, err)
	}
	if err := rules.create(chains, dropping); err != nil {
		rules.close()
		return nil, fmt.Errorf("lock network of %s: %w", netns, err)
	}
	return &Lock{netns: netns, rules: rules, chains: chains, families: families(chains), shut: true}, nil
}

func attach(netns string, rules *ruleset) (*Lock, error) {
	list, err := rules.families()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, ErrNotLocked
	}
	chains, err := rules.chains()
	if err != nil {
		return nil, err
	}
	return &Lock{netns: netns, rules: rules, chains: chains, families: list, shut: true}, nil
}

// noNetdev tells a kernel that lacks the netdev family or its egress hook. The error depends on the version and on
// what is missing, and is also that of an interface which vanished meanwhile; the other lock fits both.
func noNetdev(err error) bool {
	return noFamily(err) || isAny(err, unix.EINVAL, unix.ENODEV)
}

// noFamily tells a kernel that lacks a family of nftables, such as arp.
func noFamily(err error) bool {
	return isAny(err, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT)
}

func isAny(err error, errnos ...error) bool {
	return slices.ContainsFunc(errnos, func(errno error) bool { return errors.Is(err, errno) })
}
