// Package criu drives CRIU through the container runtime: a dump that is held at CRIU's post-dump hook with the tasks
// stopped, a restore that is held at the post-restore hook before the tasks run, the configuration file that arranges
// both, image sets as they are written and as they arrive, and logs turned into causes.
//
// # How a dump is held
//
// The runtime (runc) runs beside the engine in a process of ours, the guard, which has a mount namespace of its own:
// there the file from which the runtime makes CRIU read its configuration is replaced by ours, so that nothing of the
// host's configuration changes. The configuration names an action script. CRIU calls it for pre-dump before it touches
// anything, which is where it waits for the freeze, and for post-dump when the images are complete and the tasks still
// stopped. Each time the script tells the agent and waits for its verdict:
//
//	agent ──begin──▶ guard ──▶ runc checkpoint ──▶ criu ──▶ script: said ◀─ "pre-dump"
//	                                                               verdict ─▶ "go": CRIU dumps
//	                                                               said ◀─ "post-dump"
//	                                                               verdict ─▶ "go": CRIU lets the frozen tasks go, to be killed
//	                                                                          else: CRIU undoes what it did
//
// A lazy dump writes down where the tasks' private memory is, but leaves its content where it is, to be read from the tasks
// while they are held; package pagemap says what was left. There CRIU is always refused, since it would let go of that memory
// only to whoever asks it for the pages, and the tasks are killed before it lets them go: see lazy.go.
//
// The verdict's pipe has one writer, the agent: when the agent dies, the script reads end-of-file and the dump is undone.
package criu
