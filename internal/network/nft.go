package network

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the name of the tables that make a lock, in each family that a lock may use.
const TableName = "migrate_lock"

// priority comes before connection tracking (-400 for its defragmentation), which thus sees no packet that is dropped.
const priority = nftables.ChainPriority(-500)

// The kernel's hooks. Ingress and egress belong to the netdev family, input, forward and output to inet; arp has its
// own numbers (include/uapi/linux/netfilter_arp.h).
const (
	hookIngress = nftables.ChainHook(unix.NF_NETDEV_INGRESS)
	hookEgress  = nftables.ChainHook(unix.NF_NETDEV_EGRESS)
	hookInput   = nftables.ChainHook(unix.NF_INET_LOCAL_IN)
	hookForward = nftables.ChainHook(unix.NF_INET_FORWARD)
	hookOutput  = nftables.ChainHook(unix.NF_INET_LOCAL_OUT)
	hookARPIn   = nftables.ChainHook(0)
	hookARPOut  = nftables.ChainHook(1)
)

func lockTable(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Family: family, Name: TableName}
}

func lockChain(family nftables.TableFamily, name string, hook nftables.ChainHook) *nftables.Chain {
	prio := priority
	return &nftables.Chain{
		Name:     name,
		Table:    lockTable(family),
		Type:     nftables.ChainTypeFilter,
		Hooknum:  &hook,
		Priority: &prio,
	}
}

// A function is what chains do when they are made.
type function int

const (
	dropping function = iota // everything
	refusing                 // new connections
)

func (f function) policy() *nftables.ChainPolicy {
	policy := nftables.ChainPolicyDrop
	if f == refusing {
		policy = nftables.ChainPolicyAccept
	}
	return &policy
}

// rules are those that a chain begins with.
func (f function) rules(chain *nftables.Chain) []*nftables.Rule {
	rules := loopbackRules(chain)
	if f == refusing {
		rules = append(rules, refusingRules(chain)...)
	}
	return rules
}

// netdevChains stop every frame on the given interfaces, packet sockets' too. Chains are named by index, since an
// interface's name may hold what a chain's may not.
func netdevChains(list []Interface) []*nftables.Chain {
	var chains []*nftables.Chain
	for _, itf := range list {
		in := lockChain(nftables.TableFamilyNetdev, fmt.Sprintf("ingress-%d", itf.Index), hookIngress)
		out := lockChain(nftables.TableFamilyNetdev, fmt.Sprintf("egress-%d", itf.Index), hookEgress)
		in.Device, out.Device = itf.Name, itf.Name
		chains = append(chains, in, out)
	}
	return chains
}

// inetChains stop IPv4 and IPv6 on whatever interface there is or will be.
func inetChains() []*nftables.Chain {
	return []*nftables.Chain{
		lockChain(nftables.TableFamilyINet, "input", hookInput),
		lockChain(nftables.TableFamilyINet, "forward", hookForward),
		lockChain(nftables.TableFamilyINet, "output", hookOutput),
	}
}

// protocolChains stop what a lock is about on whatever interface.
func protocolChains() []*nftables.Chain { return append(inetChains(), arpChains()...) }

func arpChains() []*nftables.Chain {
	return []*nftables.Chain{
		lockChain(nftables.TableFamilyARP, "input", hookARPIn),
		lockChain(nftables.TableFamilyARP, "output", hookARPOut),
	}
}

// loopbackRules exempt loopback from a chain that is not bound to an interface. The interface's type is matched and
// not its name, which may be changed.
func loopbackRules(chain *nftables.Chain) []*nftables.Rule {
	if chain.Table.Family != nftables.TableFamilyINet {
		return nil
	}
	var key expr.MetaKey
	switch *chain.Hooknum {
	case hookInput:
		key = expr.MetaKeyIIFTYPE
	case hookOutput:
		key = expr.MetaKeyOIFTYPE
	default:
		return nil
	}
	return []*nftables.Rule{rule(chain,
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_LOOPBACK)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	)}
}

// refusingRules drop TCP segments that come in with SYN and without ACK.
func refusingRules(chain *nftables.Chain) []*nftables.Rule {
	netdev := chain.Table.Family == nftables.TableFamilyNetdev && *chain.Hooknum == hookIngress
	inet := chain.Table.Family == nftables.TableFamilyINet && *chain.Hooknum == hookInput
	if !netdev && !inet {
		return nil
	}
	return []*nftables.Rule{rule(chain,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpSYN | tcpACK}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcpSYN}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)}
}

// Of TCP's header, RFC 9293, 3.1.
const (
	tcpFlagsAt = 13
	tcpSYN     = 0x02
	tcpACK     = 0x10
)

func dropRule(chain *nftables.Chain) *nftables.Rule {
	return rule(chain, &expr.Verdict{Kind: expr.VerdictDrop})
}

func acceptRule(chain *nftables.Chain) *nftables.Rule {
	return rule(chain, &expr.Verdict{Kind: expr.VerdictAccept})
}

func rule(chain *nftables.Chain, exprs ...expr.Any) *nftables.Rule {
	return &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs}
}

// families lists those that the chains are in, each once.
func families(chains []*nftables.Chain) []nftables.TableFamily {
	var list []nftables.TableFamily
	seen := make(map[nftables.TableFamily]bool)
	for _, c := range chains {
		if !seen[c.Table.Family] {
			seen[c.Table.Family] = true
			list = append(list, c.Table.Family)
		}
	}
	return list
}
