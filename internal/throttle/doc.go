// Package throttle slows down a container that writes memory faster than it can be sent, by its control group's limit of CPU time, in
// steps, and takes that back.
//
// The limit is set by a process of its own, the keeper, which the agent starts and talks to over its standard input and output. When
// that ends, because the agent is done or because it died, the keeper gives the container what it had before. Should the
// keeper die, the agent does.
//
//	agent                  keeper
//	                 ◀──── ready
//	limit 0.8        ────▶
//	                 ◀──── ok, or what went wrong
//	end of the input ────▶ gives back
//	                 ◀──── ok, or what went wrong
package throttle
