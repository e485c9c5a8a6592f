package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ruleset changes the nftables of one namespace. It keeps that namespace alive until it is closed.
type ruleset struct {
	netns *os.File
	conn  *nftables.Conn
}

func openRuleset(path string) (*ruleset, error) {
	netns, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	// The connection is made now and kept, so that Open only has to send and to receive.
	conn, err := nftables.New(nftables.WithNetNSFd(int(netns.Fd())), nftables.AsLasting())
	if err != nil {
		netns.Close()
		return nil, fmt.Errorf("connect to nftables in %s: %w", path, err)
	}
	return &ruleset{netns: netns, conn: conn}, nil
}

func (r *ruleset) close() error {
	return errors.Join(r.conn.CloseLasting(), r.netns.Close())
}

// flush sends what was queued as one transaction. After a failure replies may be left on the connection, which is
// therefore given up; nftables.Conn then makes a new one in the same namespace for each call.
func (r *ruleset) flush() error {
	err := r.conn.Flush()
	if err != nil {
		err = errors.Join(err, r.conn.CloseLasting())
	}
	return err
}

// create makes the chains and their tables. Tables that are there already are replaced within one transaction, so
// that no packet slips through between the old lock and the new.
func (r *ruleset) create(chains []*nftables.Chain, how function) error {
	list := families(chains)
	for _, family := range list {
		r.conn.CreateTable(lockTable(family))
	}
	r.addChains(chains, how)
	err := r.flush()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	for _, family := range list {
		r.queueRemoval(family)
		r.conn.AddTable(lockTable(family))
	}
	r.addChains(chains, how)
	return r.flush()
}

func (r *ruleset) addChains(chains []*nftables.Chain, how function) {
	for _, chain := range chains {
		chain.Policy = how.policy()
		r.conn.AddChain(chain)
		for _, rule := range how.rules(chain) {
			r.conn.AddRule(rule)
		}
	}
}

// drop puts a rule behind all others of each chain that lets nothing pass.
func (r *ruleset) drop(chains []*nftables.Chain) error {
	for _, chain := range chains {
		r.conn.AddRule(dropRule(chain))
	}
	return r.flush()
}

// accept puts a rule in front of each chain that lets everything pass.
func (r *ruleset) accept(chains []*nftables.Chain) error {
	for _, chain := range chains {
		r.conn.InsertRule(acceptRule(chain))
	}
	return r.flush()
}

// remove deletes the tables of the given families, whether they exist or not.
func (r *ruleset) remove(list []nftables.TableFamily) error {
	for _, family := range list {
		r.queueRemoval(family)
	}
	return r.flush()
}

// queueRemoval adds the table first, so that deleting it cannot fail for want of it.
func (r *ruleset) queueRemoval(family nftables.TableFamily) {
	r.conn.AddTable(lockTable(family))
	r.conn.DelTable(lockTable(family))
}

// chains lists those that a lock left in the namespace, in any family.
func (r *ruleset) chains() ([]*nftables.Chain, error) {
	all, err := r.conn.ListChains()
	if err != nil {
		return nil, errors.Join(err, r.conn.CloseLasting())
	}
	var chains []*nftables.Chain
	for _, chain := range all {
		if chain.Table != nil && chain.Table.Name == TableName {
			chains = append(chains, chain)
		}
	}
	return chains, nil
}

// families lists those that hold a table of a lock, with or without chains.
func (r *ruleset) families() ([]nftables.TableFamily, error) {
	tables, err := r.conn.ListTables()
	if err != nil {
		return nil, errors.Join(err, r.conn.CloseLasting())
	}
	var list []nftables.TableFamily
	for _, table := range tables {
		if table.Name == TableName {
			list = append(list, table.Family)
		}
	}
	return list, nil
}
