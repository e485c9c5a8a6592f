// Package churn has programs that do to memory what a migration finds hard, and that check all the while that memory holds
// what they put there.
//
// A case is a few actors, each on a thread of its own. An actor acts again and again: it changes its memory in the case's
// way, and compares what it touches with a model of its own, which names the content of every page by a few numbers. A page
// that is not what the model says ends the program at once, with a JSON line that tells what was found where. Asked for it,
// every actor compares all of its memory.
//
// Everything lies outside of Go's heap, in mappings of the actors' own, so that Go's runtime does nothing to it. Cases with
// several processes fork without exec: see kid for how that can work in Go.
//
// Models are memory too and are moved with the rest. What a model can't see is all memory going back in time together; whoever
// moves the program sees that in its output's numbers.
package churn
