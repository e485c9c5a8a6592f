// Package canary proves that a host can dump and restore: it starts a tiny container beside the engine, with the runtime alone, dumps
// it with CRIU, restores it, and sees it run. What it needs it makes below one directory, and takes away again.
//
// The container is this very program, holding still: a process of several threads, with memory, pipes and an epoll descriptor, in
// namespaces and a cgroup of its own.
package canary
