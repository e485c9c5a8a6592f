package cni

import "errors"

// Errors that callers tell apart.
var (
	// ErrUnknownNetwork means that this host has no usable configuration of that name.
	ErrUnknownNetwork = errors.New("unknown CNI network")
	// ErrInUse means that a namespace or an address belongs to somebody else on this host.
	ErrInUse = errors.New("in use")
	// ErrNoPorts means that a network cannot map ports.
	ErrNoPorts = errors.New("no port mappings")
	// ErrForeign means that a namespace holds interfaces that no CNI cache entry explains.
	ErrForeign = errors.New("interfaces that CNI does not know of")
)
