// Package pace bounds what an agent takes of a host's CPUs while the container that it copies still runs.
//
// Work is done in small pieces, each between [Pacer.Enter] and the function that it returns. What the pieces cost is not what is
// counted, but the CPU time of the whole process: encryption, compression and collecting garbage go on beside them. The
// process may take CPU time at some rate: some hundredths of a second at a stretch, then work stands still until that is paid
// back. Much shorter ones would cost less latency and more throughput: a server and its clients, which do best when they find many
// requests waiting each time that they look, are thrown out of step by each interruption, however short.
//
// The rate is either fixed, or found by looking (see rate.go for the rule). From time to time all work stands still for some hundredths of a
// second. What the host's CPUs then do is what others want, and what is idle then is there to be taken. What the container
// takes then is what it takes undisturbed: compared with what it takes while there is work, this says directly what the work costs it, whatever
// the reason: CPUs, caches, or peers on the same host. Looks are rare as long as nothing changes, and there are none while the process takes next to nothing,
// as on a slow link.
//
// Less than a tenth of a CPU is never asked for, so that the work goes on whatever else there is; and more than the host leaves
// is taken when the work would otherwise not be through in time ([Pacer.Goal]).
package pace
