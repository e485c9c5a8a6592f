// Package shim is a shim of containerd for runc that restores a task from a checkpoint when the task is created, holds it, and lets
// it run when the task is started. Everything else it leaves to the stock shim, which it contains.
//
// The stock shim does nothing with a checkpoint until start. Engines that look for the task's network namespace in between, as
// Docker does from version 28 on, find no process. Here they find one, and its namespace; and what is wrong with a checkpoint is an
// error of create.
//
//	engine ──create──▶ shim ──▶ runc restore ──▶ CRIU ──▶ script: said ◀─ "setup-namespaces 42"
//	       ◀──pid 42──                                            │
//	engine connects /proc/42/ns/net                               │ holds
//	engine ──start───▶ shim                             verdict ─▶ "go": CRIU restores the rest
//	       ◀──pid 42── ◀── runc is done ◀─────────────── CRIU ends
//
// The script is that of package criu. Its verdict's pipe has one writer, the shim: when the shim dies, the script reads end-of-file, and
// CRIU takes back what it did. A configuration of CRIU that the container's specification names is kept, action scripts included.
//
// A restore is held when the namespaces exist and nothing in them, if the runtime makes the container a network namespace, which
// somebody has to fill; else when everything is restored but does not run yet. There other scripts
// that are configured are called by the shim's, before anything is said, and can prepare the namespace: when one fails, nobody hears of it. Here CRIU calls them
// after the shim's, since it calls the one that is configured last first.
//
// While a restore is held, or goes on after it was let go, the first process, CRIU and runc are watched: CRIU would wait for ever for a
// process that was killed, and without CRIU processes run on by themselves. What a restore that was cut off leaves, is taken away,
// also by the next shim when this one was killed: residue.go.
//
// Where things are:
//
//	main.go manager.go bootstrap.go   the program, and how containerd of any version starts it
//	service.go                        the task service: what is done differently while a restore is under way
//	restore.go watch.go               one restore, from create to the end of start
//	bundle.go residue.go process.go   its files, what it may leave, its processes
//	events.go usage.go options.go     events, cgroup, options
package shim
