// Package precopy copies the memory of a running container in rounds, each of which sends what was written during the one
// before, until so little is left that the rest fits the downtime; then, with the container frozen, that rest.
//
//	round 1   all pages                     container runs
//	round 2   written during round 1        container runs
//	…         Next decides whether another round is worth it
//	frozen    written since                 while CRIU dumps everything but memory
//	rest      what CRIU lists as memory and the destination does not hold, after a last look
//
// What is at the destination is known from two sides: the tracker says which pages still are what was read of them last, the
// table of package pages which of them the destination has. Only a page of which both are true is not sent again; whatever
// goes wrong in between makes pages be sent once more, never once too few.
package precopy
