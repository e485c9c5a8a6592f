package preflight

import "strings"

// Kind is a kind of finding, and a kind of failure that CRIU reports.
type Kind struct {
	Code     string // stable: programs that read JSON may depend on it
	Severity Severity
	Reason   string
	Remedy   string
	Said     []string // what CRIU's log says when it meets this, in the order in which they are tried
	Link     string   // where CRIU's developers discuss it
}

const criuIssues = "https://github.com/checkpoint-restore/criu/issues/"

// Lookup finds a kind by its code.
func Lookup(code string) (Kind, bool) {
	for _, k := range kinds {
		if k.Code == code {
			return k, true
		}
	}
	return Kind{}, false
}

// Kinds lists the table.
func Kinds() []Kind { return append([]Kind(nil), kinds...) }

// Explain finds the kind that a line of CRIU's log tells of.
func Explain(line string) (Kind, bool) {
	for _, k := range kinds {
		for _, s := range k.Said {
			if strings.Contains(line, s) {
				return k, true
			}
		}
	}
	return Kind{}, false
}

// kinds in the order in which Explain tries them: what is special before what is general.
var kinds = []Kind{
	// sockets
	{
		Code: "socket-mptcp", Severity: Blocks, Reason: "CRIU cannot dump MPTCP sockets; listeners of Go programs are such since Go 1.24",
		Remedy: "start the program with GODEBUG=multipathtcp=0, or switch MPTCP off in its configuration",
		Said:   []string{"Unsupported proto 262"}, Link: criuIssues + "2655",
	},
	{
		Code: "socket-protocol", Severity: Blocks, Reason: "CRIU cannot dump sockets of this protocol",
		Remedy: "let the program close the socket, or use another protocol", Said: []string{"Unsupported proto", "Unsupported socket family"}, Link: criuIssues + "974",
	},
	{
		Code: "socket-family", Severity: Blocks, Reason: "CRIU cannot dump sockets of this family",
		Remedy: "let the program close the socket", Said: []string{"Unknown socket collected"},
	},
	{
		Code: "netlink-waiting", Severity: Blocks, Reason: "messages wait in a netlink socket to be read, which CRIU cannot dump",
		Remedy: "try again; if it stays, the program asks the kernel for something and does not read the answer: restart it", Said: []string{"The socket has data to read"},
	},
	{
		Code: "netlink-groups", Severity: Blocks, Reason: "CRIU cannot dump a netlink socket in such multicast groups",
		Remedy: "let the program close the socket", Said: []string{"has more than 32 groups", "is bound to groups but not to portid"},
	},
	{
		Code: "udp-corked", Severity: Blocks, Reason: "a datagram is held back in the socket (UDP_CORK), which CRIU cannot dump",
		Remedy: "let the program send it, or restart the program", Said: []string{"Can't dump corked dgram socket"}, Link: criuIssues + "409",
	},
	{
		Code: "tcp-waiting", Severity: Blocks, Reason: "connections wait to be accepted and the program does not accept them; CRIU cannot dump them",
		Remedy: "try again when the program is less busy", Said: []string{"In-flight connection"},
	},
	{
		Code: "tcp-lost", Severity: Blocks, Reason: "established connections cannot move where the container's addresses do not: they belong to this host, to another container, or are given out by the engine",
		Remedy: "choose --tcp close, or give the container a network of its own with an address of its own", Said: []string{"Connected TCP socket"},
	},
	{
		Code: "tcp-network", Severity: Blocks, Reason: "an established connection cannot go along to another network (--network): its address stays behind",
		Remedy: "choose --tcp close, or keep the network",
	},
	{
		Code: "address-bound", Severity: Blocks, Reason: "a socket is bound to an address that stays behind when the container goes to another network (--network)",
		Remedy: "let the program listen on all addresses (0.0.0.0 or ::), or keep the network",
	},
	{
		Code: "tcp-translated", Severity: Degrades,
		Reason: "established connections are translated by this host (port mapping, masquerading) and cannot follow the container: their other ends know this host's address",
		Remedy: "choose --tcp close to end them at once, or let clients connect to the container's own address",
	},
	{
		Code: "tcp-address", Severity: Blocks, Reason: "the container's address is not there or the port is taken at the destination",
		Remedy: "check the destination's network configuration", Said: []string{"Can't bind inet socket"}, Link: criuIssues + "312",
	},
	{
		Code: "unix-outside", Severity: Blocks, Reason: "the other end of a unix socket is outside the container, and would be left behind",
		Remedy: "end that connection first: stop what holds the other end, or let the program close it",
		Said:   []string{"External socket is used", "without peer", "with unreachable peer", "Can't dump half of stream unix connection", "name-less external socket"}, Link: criuIssues + "1200",
	},
	{
		Code: "unix-waiting", Severity: Blocks, Reason: "a unix socket has a connection that waits to be accepted, with data on it or closed already; CRIU cannot dump it",
		Remedy: "try again; if it stays, the program does not accept connections: restart it",
		Said:   []string{"Non-empty write queue on an in-flight socket", "Found a closed in-flight socket", "Dangling connection"},
	},
	{Code: "scm-rights", Severity: Blocks, Reason: "a message with descriptors or credentials waits in a unix socket in a way that CRIU cannot dump", Remedy: "try again",
		Said: []string{"Control messages in queue", "More than 1 SCM is not possible", "Unexpected 2nd SCM_RIGHTS"}},

	// descriptors
	{
		Code: "io-uring", Severity: Blocks, Reason: "CRIU cannot dump io_uring",
		Remedy: "switch io_uring off in the program's configuration, or forbid it with sysctl kernel.io_uring_disabled=2 or seccomp and restart the program",
		Said:   []string{"io_uring", "Can't retrieve FDs from socket"}, Link: criuIssues + "2131",
	},
	{
		Code: "pidfd-outside", Severity: Blocks, Reason: "a pidfd refers to a process outside the container",
		Remedy: "let the program close it", Said: []string{"is not a part of process tree"},
	},
	{Code: "pidfd-thread", Severity: Blocks, Reason: "CRIU cannot dump a pidfd of a thread", Remedy: "let the program close it", Said: []string{"PIDFD_THREAD flag"}},
	{
		Code: "bpf-map", Severity: Blocks, Reason: "CRIU cannot dump BPF maps of this type",
		Remedy: "let the program close it", Said: []string{"does not currently support dumping BPF map type"},
	},
	{
		Code: "kernel-object", Severity: Blocks, Reason: "CRIU cannot dump descriptors of this kind, whose state is in the kernel",
		Remedy: "let the program close it, or run it without the feature that needs it",
		Said:   []string{"] (anon ", "] (reg ", "Unknown shit"},
	},
	{
		Code: "device", Severity: Blocks, Reason: "CRIU cannot dump an open device: its state is in this host's driver",
		Remedy: "let the program close it, or run the container without the device", Said: []string{"] (chr ", "] (unknown ", "Can't handle non-regular mapping"},
	},
	{
		Code: "fsnotify", Severity: Blocks, Reason: "inotify and fanotify cannot be dumped on overlay file systems and proc: CRIU cannot tell what is watched",
		Remedy: "let the program poll instead of watching, or watch a directory that is a mount of its own (tmpfs or bind)",
		Said:   []string{"Can't dump that handle", "Can't find suitable path for handle", "Unable to lookup a mount by dev"}, Link: criuIssues + "2854",
	},
	{
		Code: "secret-memory", Severity: Blocks, Reason: "CRIU cannot dump secret memory (memfd_secret), which nobody but the program may read",
		Remedy: "run the program without the feature that needs it", Said: []string{"/secretmem"},
	},
	{
		Code: "file-outside", Severity: Blocks, Reason: "an open file lies on a mount that is not in the container: a standard stream or descriptor that was handed in from outside, or a POSIX message queue",
		Remedy: "start the container with a log URI instead of a file as its output, or let the program close the file",
		Said:   []string{"Can't lookup mount"},
	},
	{
		Code: "file-proc", Severity: Blocks, Reason: "the directory of a process in /proc is open, which CRIU cannot open again",
		Remedy: "let the program close it", Said: []string{"Can't open file proc/"},
	},
	{
		Code: "file-hidden", Severity: Blocks, Reason: "another file system was mounted over an open file",
		Remedy: "unmount it, or let the program close the file", Said: []string{"Open files on overmounted mounts"},
	},
	{
		Code: "file-deleted-large", Severity: Blocks, Reason: "a deleted file that is still open is too large to travel in the image",
		Remedy: "restart the program, or truncate the file through /proc/PID/fd", Said: []string{"Can't dump ghost file"},
	},
	{
		Code: "file-changed", Severity: Blocks, Reason: "a file is another one at the destination than it was when the container was dumped",
		Remedy: "make sure that mounts have the same content on both hosts; if it is a file of the container itself, report this",
		Said:   []string{"has bad size", "has bad mode", "has bad build-ID"}, Link: criuIssues + "948",
	},
	{
		Code: "lease", Severity: Blocks, Reason: "a program has a write lease on a file: to read the file is to break the lease, for which it has 45 seconds, also while it stands still",
		Remedy: "let the program give up the lease", Said: []string{"Incorrect lease type", "Invalid file lease type", "Conflicting lease"},
	},
	{Code: "lock", Severity: Blocks, Reason: "a file lock is held by a process that is not in the container", Remedy: "end what holds it", Said: []string{"Unresolved lock found", "Dump file lock failed"}},
	{
		Code: "lock-mapped", Severity: Blocks, Reason: "a process holds a POSIX lock on a file that it has mapped: CRIU takes the lock before it maps the file, and loses it when it closes the file again, so that others would get it",
		Remedy: "with SQLite in WAL mode, set PRAGMA locking_mode=EXCLUSIVE first of all, or another journal mode; other programs can use OFD locks",
	},
	{
		Code: "pipe-packet", Severity: Blocks, Reason: "CRIU cannot dump a pipe in packet mode (O_DIRECT)",
		Remedy: "let the program close it", Said: []string{"packetized mode for pipes"},
	},
	{
		Code: "pipe-outside", Severity: Degrades, Reason: "the other end of a pipe is outside the container, and is left behind: the pipe ends for the container",
		Remedy: "end what holds the other end, such as an exec session, first",
	},
	{
		Code: "terminal-outside", Severity: Blocks, Reason: "an open terminal is not of the container",
		Remedy: "end the session that it belongs to", Said: []string{"dangling tty", "ctty inheritance detected", "Found slave peer index", "Unable to find a master for"},
	},

	// processes
	{
		Code: "exec-session", Severity: Blocks, Reason: "it came into the container by exec, and is no descendant of its first process: CRIU would not see it, and it would be ended",
		Remedy: "end the exec session first, or have it ended with --exec-sessions end", Said: []string{"is outside of its pid namespace"},
	},
	{
		Code: "exec-ended", Severity: Degrades, Reason: "it came into the container by exec, and is ended right before the container stops (--exec-sessions end)",
		Remedy: "end the exec session first",
	},
	{
		Code: "uninterruptible", Severity: Blocks, Reason: "the process waits in the kernel and cannot be stopped",
		Remedy: "find what it waits for (/proc/PID/stack), such as a disk or network file system that does not answer",
		Said:   []string{"found, state D", "Unable to freeze cgroup"},
	},
	{
		Code: "traced", Severity: Blocks, Reason: "a debugger or tracer is attached to the process, which CRIU would have to do itself",
		Remedy: "end the tracer", Said: []string{"Unseizable non-zombie", "found while seizing"},
	},
	{
		Code: "stopped", Severity: Blocks, Reason: "the process is stopped (SIGSTOP, SIGTSTP); with cgroup v1 CRIU waits for it for ever",
		Remedy: "continue it (SIGCONT) or end it",
	},
	{
		Code: "vfork", Severity: Blocks, Reason: "two processes share their memory, as after vfork until the child runs another program; CRIU cannot dump that",
		Remedy: "try again; if it stays, restart the program", Said: []string{"Can't make VM id"},
	},
	{
		Code: "zombie-threads", Severity: Blocks, Reason: "the first thread of a process has ended and others go on, which CRIU cannot dump",
		Remedy: "restart the program", Said: []string{"Zombies with threads", "Zombie thread not supported", "Zombie with children"},
	},
	{
		Code: "stopped-threads", Severity: Blocks, Reason: "some threads of a process are stopped and others are not",
		Remedy: "continue the process (SIGCONT)", Said: []string{"Individually stopped threads"},
	},
	{
		Code: "nested-namespace", Severity: Blocks, Reason: "a process is in a namespace of its own within the container, of a type that CRIU cannot dump nested",
		Remedy: "end the process, such as a sandbox or a container in the container", Said: []string{"Can't dump nested"},
	},
	{
		Code: "uprobe", Severity: Blocks, Reason: "a tracing tool has put probes (uprobes) into the process",
		Remedy: "end the tracing tool (perf, bpftrace) and restart the program", Said: []string{"has uprobes vma"},
	},
	{
		Code: "mapping", Severity: Blocks, Reason: "memory is mapped from something that CRIU cannot dump",
		Remedy: "run the program without the feature that needs it", Said: []string{"Unsupported mapping found", "Bogus mapping", "Strange file mapped"},
	},
	{
		Code: "mount-type", Severity: Blocks, Reason: "a file system is mounted in the container whose type CRIU does not know",
		Remedy: "unmount it in the container, or mount it on the host and bind it into the container",
		Said:   []string{"unsupported id", "doesn't have a proper root mount"},
	},
	{
		Code: "mount-missing", Severity: Blocks, Reason: "a mount's source is missing at the destination",
		Remedy: "create it there, with the contents that the container expects", Said: []string{"Can't mount at"}, Link: criuIssues + "249",
	},

	// the container as it was made
	{
		Code: "shared-namespace", Severity: Blocks, Reason: "it shares a namespace with the host or another container, which would be torn apart",
		Remedy: "move containers that have namespaces of their own, or share only the network's",
	},
	{Code: "user-namespace", Severity: Blocks, Reason: "it has a user namespace, which cannot be moved yet", Remedy: "run it without user namespace"},
	{
		Code: "seccomp-notify", Severity: Blocks, Reason: "its seccomp filter reports to a program outside the container, which would be left behind",
		Remedy: "run it without seccomp notification", Said: []string{"seccomp notify"},
	},
	{
		Code: "security-profile", Severity: Blocks, Reason: "its security profile is not there at the destination",
		Remedy: "load the profile at the destination", Said: []string{"can't write lsm profile", "lsm profile"},
	},
	{Code: "no-freezer", Severity: Blocks, Reason: "its cgroup has no freezer, without which two copies could run", Remedy: "give the container a cgroup of its own on a host with the freezer controller"},

	// hosts
	{Code: "criu-missing", Severity: Blocks, Reason: "CRIU was not found in the agent's PATH", Remedy: "install criu 4.2 or newer"},
	{
		Code: "criu-old", Severity: Blocks, Reason: "CRIU is too old for this kernel", Remedy: "install criu 4.2 or newer",
		Said: []string{"Can't get 1:16 opt", "opt: Operation not supported"}, Link: criuIssues + "2705",
	},
	{Code: "criu-check", Severity: Degrades, Reason: "`criu check` is not content with this host", Remedy: "see what it says, and whether the kernel has what it asks for"},
	{Code: "runc-missing", Severity: Blocks, Reason: "runc was not found in the agent's PATH", Remedy: "install runc 1.3 or newer"},
	{Code: "runc-old", Severity: Blocks, Reason: "runc is too old to restore containers as needed", Remedy: "install runc 1.1 or newer"},
	{
		Code: "cap-sys-resource", Severity: Degrades, Reason: "the agent lacks CAP_SYS_RESOURCE: CRIU may not be able to dump processes of other users",
		Remedy: "run the agent with all capabilities", Said: []string{"Can't get rlimit"},
	},
	{Code: "not-root", Severity: Blocks, Reason: "checkpoint and restore need root", Remedy: "run it with sudo, or as root"},
	{
		Code: "open-files", Severity: Degrades, Reason: "the limit of open files is too low for so much memory to be left in place: all of it is copied while the container stands still",
		Remedy: "raise the limit (ulimit -n, LimitNOFILE=)", Said: []string{"Can't make pipe for page-pipe"},
	},
	{Code: "write-tracking", Severity: Note, Reason: "this kernel cannot tell which memory was written (userfaultfd, Linux 6.7): contents are compared instead, which costs downtime", Remedy: "use Linux 6.7 or newer"},
	{Code: "kernel-older", Severity: Note, Reason: "the destination's kernel is older than the source's: what only the newer one has cannot be restored", Remedy: "use the same kernel on both hosts"},
	{Code: "tool-older", Severity: Note, Reason: "the destination's tools are older than the source's", Remedy: "use the same versions on both hosts"},
	{Code: "restore-way", Severity: Note, Reason: "how containers are restored depends on the engine's version and its shim", Remedy: "see docs/DOCKER.md"},
	{Code: "arch", Severity: Blocks, Reason: "the two hosts have different architectures", Remedy: "choose a destination of the same architecture"},
	{
		Code: "cpu-features", Severity: Blocks, Reason: "the destination's CPU lacks what the source's has, and what programs may have chosen to use",
		Remedy: "choose a destination with the same CPU; or, if no program uses them, say --ignore cpu-features", Said: []string{"CPU capabilities", "cpu: Unknown", "instruction capabilities do not match"},
	},
	{Code: "cgroup-version", Severity: Degrades, Reason: "one host has cgroup v1 and the other v2: limits may not be the same, and groups that the container has made below its own are not made again", Remedy: "use the same version on both hosts", Said: []string{"cg: Failed", "cg: failed"}},
	{Code: "cgroup-mount", Severity: Blocks, Reason: "it has control groups mounted, of a version that the destination does not have", Remedy: "use the same version on both hosts, or run it without that mount"},
	{Code: "cgroup-controller", Severity: Degrades, Reason: "the destination lacks a cgroup controller for which the container has limits: it goes on without them", Remedy: "enable the controller there"},
	{
		Code: "memory", Severity: Blocks, Reason: "there is not enough free memory", Remedy: "free memory, or choose another destination",
		Said: []string{"No space left on device", "Can't allocate memory", "Cannot allocate memory"},
	},
	{Code: "disk", Severity: Blocks, Reason: "there is not enough free disk", Remedy: "free disk at the destination"},
	{Code: "policy", Severity: Blocks, Reason: "the destination does not take such containers", Remedy: "see the destination agent's flags"},
	{Code: "taken", Severity: Blocks, Reason: "the destination cannot take it as it is now", Remedy: "see the reason"},
	{Code: "canary", Severity: Blocks, Reason: "a tiny container could not be dumped and restored", Remedy: "see the reason, and `criu check`"},
	{Code: "unsupported", Severity: Blocks, Reason: "the container cannot be moved", Remedy: "see the reason"},
}
