package preflight

import "net/netip"

// Container is a running container as its host sees it.
type Container struct {
	Init       int                // pid of the first process
	Procs      []*Process         // all of its processes, those that joined from outside too
	Sockets    map[uint64]*Socket // of its network namespace, by inode
	Mounts     map[uint64]*Mount  // by mount id, of all mount namespaces of its processes
	Passed     []string           // the pipes that the runtime hands over anew, as /proc shows them: "pipe:[123]"
	Binds      []string           // destinations of its bind mounts, which the runtime declares to CRIU
	Leases     map[int][]uint64   // inodes of files with a write lease, by the pid of the holder
	GhostLimit int64              // bytes up to which deleted files travel
	Memory     int64              // bytes; 0 where it is known to be below LazyLimit
	LazyLimit  int64              // bytes of memory that CRIU can leave in place
	Resource   bool               // CRIU has CAP_SYS_RESOURCE
	Cgroup     int                // version
	UID        int                // of the agent
	Leaving    []netip.Addr       // addresses that the container has no more at the destination
	// EndSessions says that exec sessions are ended before the container stops.
	EndSessions bool
	CloseTCP    bool // established connections are not to be kept
	Spec        Spec
}

// Spec is what matters of the container's specification.
type Spec struct {
	Joined      map[string]string // namespaces that are given by path, by type
	Own         []string          // types of all namespaces that it does not share with the host
	UserMapping bool
	Notify      bool // its seccomp filter reports to a socket
	Terminal    bool
	CgroupMount string // where it has control groups mounted; ""
}

// Process is one process.
type Process struct {
	Pid, VPid, PPid int
	Comm            string
	State           byte // as in /proc/PID/stat, after a second look where the first one could be chance
	UID             int
	Tracer          int
	Threads         int
	Resident        int64 // bytes of memory that is no file's, shared or not; roughly
	Shares          int   // pid of the parent that it shares its memory with, as after vfork; 0 if it does not
	Namespaces      map[string]uint64
	FDs             []Descriptor
	Maps            []Mapping
	Locked          []string // paths of files that it has mapped and holds a POSIX lock of
}

// Descriptor is an open file.
type Descriptor struct {
	FD   int
	Link string // as /proc/PID/fd shows it; may be "" for a file that is known to be ordinary by the rest

	// of files with a path or a device behind them
	Mount  uint64 // id of the mount
	Mode   uint32 // as in stat
	Dev    Dev    // that it is, for device files
	Inode  uint64
	Blocks int64 // of 512 bytes
	Links  uint32

	Flags   int     // open flags; only read for pipes and pidfds
	Hangup  bool    // a pipe nobody is at the other end of; only looked for when no process of the container is
	Target  int     // pid that a pidfd refers to, -1 when that has ended
	Watches []Watch // of an inotify or fanotify descriptor
	BPFType int     // of a BPF map
}

// Dev is a device number.
type Dev struct{ Major, Minor uint32 }

// Watch is one mark of a notification descriptor.
type Watch struct{ Dev Dev }

// Mapping is a part of a process's memory that is backed by something unusual.
type Mapping struct {
	Start uint64
	Path  string // as /proc/PID/maps shows it
}

// Mount is a mounted file system in the container.
type Mount struct {
	ID, Parent uint64
	Dev        Dev
	Root       string
	Point      string
	Type       string
	Hidden     bool // another one is mounted over it
}

// Socket is a socket in the container's network namespace.
type Socket struct {
	Inode      uint64
	Family     int
	Type       int
	Protocol   int
	State      uint8  // as TCP's, also for unix sockets
	ReadQ      uint32 // bytes; of a listening socket, connections that wait to be accepted
	WriteQ     uint32
	Name       string // addresses, or the path
	Local      netip.Addr
	Peer       uint64   // inode of a unix socket's peer
	Waiting    []uint64 // inodes of the unix sockets that wait to be accepted; 0 for one that was closed meanwhile
	Shut       bool     // a unix socket whose other end was closed
	Groups     uint64   // of a netlink socket
	WideGroups bool     // it is in groups above 32
	Port       uint32   // of a netlink socket
	Corked     bool
}

func (p *Process) thing() Thing { return Thing{Pid: p.Pid, VPid: p.VPid, Comm: p.Comm} }

func (p *Process) at(d *Descriptor) Thing {
	t := p.thing()
	fd := d.FD
	t.FD, t.Path = &fd, d.Link
	return t
}
