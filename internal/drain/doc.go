// Package drain reads what a container writes while nobody is attached to it.
//
// A container that was started with FIFOs (by `ctr run`, say) had a client that read them. The client stays behind at the
// source. At the destination the container gets FIFOs again, so that a client can attach to it; and since a full FIFO would
// stop the container, a process of ours stands in for the client: it reads and appends to a log file, steps aside as long
// as somebody else has a FIFO open for reading, and ends when the container has closed its end. Only one of two readers
// gets a given byte, which is why it has to step aside.
//
// Who else reads is found in /proc when inotify tells that the FIFO was opened or closed. The shim keeps both ends open
// (containerd, cmd/containerd-shim-runc-v2/process/io.go, copyPipes) and so does not count: a reader is a process that has
// the FIFO open for nothing but reading.
package drain
