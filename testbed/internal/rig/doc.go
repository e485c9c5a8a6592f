// Package rig has what the programs share that try something out on hosts of a testbed of their own: how they begin and end,
// compile what they try, raise hosts, and run commands there.
package rig
