package matrix

import "migrate/testbed"

// feature is a row of `workload feature`, whose programs say themselves what they check.
func feature(name, about string, flags ...string) Row {
	start := "exec workload feature --kind " + name
	for _, f := range flags {
		start += " " + f
	}
	return Row{Name: name, About: about, Image: testbed.ImageTools, Ticks: true, Start: start}
}

// called is the row under another name.
func (r Row) called(name string) Row {
	r.Name = name
	return r
}

// refused is the row as one that is refused.
func (r Row) refused(why Refusal) Row {
	r.Refused = &why
	return r
}

// capable is the row with a further capability.
func (r Row) capable(name string) Row {
	r.Caps = append(r.Caps, name)
	return r
}

// overlayLink is CRIU's mending of it, which no release has yet.
const overlayLink = "https://github.com/checkpoint-restore/criu/pull/3043"

var kernel = []Row{
	feature("epoll", "eventfd, timerfd and signalfd behind one epoll; a count and a signal are always pending"),
	feature("timerfd", "a periodic and an absolute timerfd; periods stay, and none expires more often than time allows"),
	feature("posixtimer", "a POSIX timer that queues signals with a value and overruns"),
	feature("sysv", "System V shared memory, semaphores and a message queue between two processes; a message is always queued"),
	feature("posixshm", "a file of /dev/shm mapped by two processes, with futexes in it"),
	feature("memfd", "a sealed memfd, mapped and read"),
	feature("locks", "flock, POSIX and OFD locks that another process must not get until it may"),
	feature("scm", "unix stream, datagram and seqpacket pairs; a message that carries a descriptor is always under way in each"),
	feature("deleted", "a deleted file of 64 KiB, open twice with an offset"),
	feature("deleted", "a deleted file of 100 MiB, open twice with an offset", "--mib 100").called("deleted-100mib"),
	feature("family", "five zombies, whose statuses are asked for one after another, and an orphan that answers through a pipe"),
	feature("processes", "500 processes in a chain of pipes, three numbers under way in it"),
	feature("files", "5,000 open files in seven processes, each file with an offset of its own"),
	feature("threads", "100 threads in a ring of pipes, each bound to its goroutine"),
	feature("pty", "a shell on a pseudo-terminal of its own, with a window size"),
	feature("inotify", "watches of a directory and a file in /dev/shm", "--dir /dev/shm"),
	feature("inotify", "watches of a directory and a file in the RW layer").called("inotify-overlay").refused(Refusal{
		Words: "inotify",
		Why:   "CRIU finds what is watched by file handle, which overlayfs does not give out",
		Link:  overlayLink,
	}),
	feature("fanotify", "a mark on a directory in the RW layer").called("fanotify-overlay").capable("CAP_SYS_ADMIN").refused(Refusal{
		Words: "fanotify",
		Why:   "CRIU finds what is marked by file handle, which overlayfs does not give out",
		Link:  overlayLink,
	}),
	feature("fanotify", "a mark on a directory in /dev/shm", "--dir /dev/shm").capable("CAP_SYS_ADMIN"),
}
