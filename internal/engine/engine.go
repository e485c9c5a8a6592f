// Package engine says what a migration needs of a container engine.
//
// A source agent asks an Engine to describe a container (Inspect), to freeze and thaw it (Pause, Resume), and, when
// the container has gone on elsewhere, to take the local copy away (Retire). A destination agent asks it what of an
// image is missing (MissingBlobs), stores it (IngestBlob, PrepareImage), and registers and starts the container step
// by step (Register, PrepareRootfs, SetupNetwork, PrepareTask, StartTask).
//
// Every registering step returns its Undo. The caller runs undos last-in first-out, with a context that the failure
// has not cancelled.
//
// The types here are plain and portable: nothing of an engine's own API shows, and what crosses the wire (Container
// and all it holds) is JSON. Engines live in sub-packages and never import each other; package enginetest holds the
// suite that all of them pass.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"
)

// Errors that an Engine returns, wrapped with what was attempted.
var (
	ErrNotFound    = errors.New("no such container")
	ErrExists      = errors.New("already exists")
	ErrNotRunning  = errors.New("container is not running")
	ErrPaused      = errors.New("container is paused")
	ErrBusy        = errors.New("container does not stop for the moment")
	ErrUnsupported = errors.New("not supported")
)

// Advice is an error that knows what a person can do about it.
type Advice struct {
	Err    error
	Remedy string
}

// Error implements error.
func (a *Advice) Error() string { return a.Err.Error() }

// Unwrap gives the error without its remedy.
func (a *Advice) Unwrap() error { return a.Err }

// RemedyOf is the remedy that an error knows, "" if it knows none.
func RemedyOf(err error) string {
	var a *Advice
	if errors.As(err, &a) {
		return a.Remedy
	}
	return ""
}

// Undo takes back one step. It is idempotent and tolerates that its object is gone.
type Undo func(ctx context.Context) error

// Info describes the engine and the tools beside it on this host.
type Info struct {
	Name        string `json:"name"`    // "containerd", "docker"
	Version     string `json:"version"` // of the daemon
	Runtime     string `json:"runtime"` // runc's version, "" when it is missing
	CRIU        string `json:"criu"`    // CRIU's version, "" when it is missing
	Snapshotter string `json:"snapshotter"`
	Kernel      string `json:"kernel"`
	Arch        string `json:"arch"`           // GOARCH
	Root        string `json:"root,omitempty"` // directory of the snapshotter's file systems, "" when unknown
}

// Status is what the engine says of a container's task.
type Status string

// The states an engine reports.
const (
	StatusRunning Status = "running"
	StatusPaused  Status = "paused"
	StatusStopped Status = "stopped"
	StatusCreated Status = "created"
)

// Blob is a piece of an image, addressed by digest.
type Blob struct {
	Digest    string `json:"digest"` // algorithm:hex
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"` // bytes
	// Diff is the digest of what a compressed layer unpacks to, where the engine needs to know.
	Diff string `json:"diff,omitempty"`
}

// Image is the image that a container was made from. Blobs lists, for the container's platform only, every blob the
// destination needs: index, manifest, config and layers, parents before what they refer to.
type Image struct {
	Name    string            `json:"name"`
	Target  Blob              `json:"target"` // what the name points to
	Labels  map[string]string `json:"labels,omitempty"`
	Blobs   []Blob            `json:"blobs"`
	ChainID string            `json:"chain_id"` // of all layers, the RW layer's parent
}

// TypedAny is a value whose type only the engine knows (runtime options, container extensions).
type TypedAny struct {
	TypeURL string `json:"type_url"`
	Value   []byte `json:"value"`
}

// Stdio is where a task's standard streams go.
type Stdio struct {
	Stdin    string `json:"stdin,omitempty"`
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
	Terminal bool   `json:"terminal,omitempty"`
}

// Container is the portable description of a container: everything the destination needs to register it anew.
type Container struct {
	Engine      string              `json:"engine"`
	Namespace   string              `json:"namespace"`
	ID          string              `json:"id"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Image       Image               `json:"image"`
	Runtime     string              `json:"runtime"` // e.g. io.containerd.runc.v2
	RuntimeOpts *TypedAny           `json:"runtime_options,omitempty"`
	Snapshotter string              `json:"snapshotter"`
	SnapshotKey string              `json:"snapshot_key"`
	SnapLabels  map[string]string   `json:"snapshot_labels,omitempty"`
	Spec        json.RawMessage     `json:"spec"` // OCI runtime specification
	Extensions  map[string]TypedAny `json:"extensions,omitempty"`
	Stdio       Stdio               `json:"stdio"`
	Network     Network             `json:"network"`
	Options     json.RawMessage     `json:"options,omitempty"` // what only an engine of the same kind understands
	Created     time.Time           `json:"created"`
}

// NetworkMode says who gives the container its network.
type NetworkMode string

// The network modes that can be moved.
const (
	NetworkNone    NetworkMode = "none"    // a namespace of its own, made by the runtime, loopback only
	NetworkHost    NetworkMode = "host"    // the host's namespace
	NetworkCNI     NetworkMode = "cni"     // a namespace given by path, attached by CNI plugins
	NetworkManaged NetworkMode = "managed" // a namespace that the runtime makes, attached by the engine while the task starts
	NetworkJoined  NetworkMode = "joined"  // the namespace of another container
)

// Network is how a container is attached.
type Network struct {
	Mode        NetworkMode       `json:"mode"`
	NetNS       string            `json:"netns,omitempty"` // path of the namespace, NetworkCNI only
	Attachments []Attachment      `json:"attachments,omitempty"`
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Owner       string            `json:"owner,omitempty"` // the other container, NetworkJoined only
	// Unnamed says that NetNS is the namespace's path for the time of the migration only: before and after, it is one that the
	// runtime made, and that ends with the container. NetworkCNI only.
	Unnamed bool `json:"unnamed,omitempty"`
	// Loose says that the destination's engine gives out addresses as it likes, so that no connection outlives the move.
	Loose bool `json:"loose,omitempty"`
}

// Own says whether the container has interfaces that nobody else uses, beyond loopback.
func (n Network) Own() bool { return n.Mode == NetworkCNI || n.Mode == NetworkManaged }

// Stays says whether the addresses, or the namespace with them, stay behind when the container leaves.
func (n Network) Stays() bool { return n.Mode == NetworkHost || n.Mode == NetworkJoined || n.Loose }

// Attachment is one interface that a CNI network, or one of the engine's, put into the namespace.
type Attachment struct {
	Network     string   `json:"network"`      // name of the CNI network configuration, or of the engine's network
	ContainerID string   `json:"container_id"` // what the plugins were told
	Interface   string   `json:"interface"`    // inside the container, e.g. eth0; "" when the engine chooses
	MAC         string   `json:"mac"`
	IPs         []string `json:"ips"` // with prefix length, 10.1.2.3/16
	MTU         int      `json:"mtu,omitempty"`
	Ports       []Port   `json:"ports,omitempty"` // of the host, that lead to the container
	Fresh       bool     `json:"fresh,omitempty"` // it is to another network than at the source, which gives addresses of its own
}

// Port is a port of the host that leads to one of the container.
type Port struct {
	Host      int    `json:"host"`
	Container int    `json:"container"`
	Protocol  string `json:"protocol"`          // tcp, udp or sctp
	HostIP    string `json:"host_ip,omitempty"` // "": all addresses of the host
}

// Handles is what a dump needs of a running container on this host. None of it crosses the wire.
type Handles struct {
	Status       Status
	Pid          int      // init process, in this process's pid namespace
	RuntimeRoot  string   // runc's --root
	RuntimeID    string   // the id runc knows
	RuntimePath  string   // the runtime binary
	Bundle       string   // OCI bundle directory
	Upper        string   // overlay upper directory: the RW layer
	NetNS        string   // path of the network namespace ("" for host networking)
	NetNSAt      string   // path at which the runtime looks for it, if it is not there any more; "" otherwise
	CgroupFreeze string   // freezer state file of the container's cgroup ("" when unknown)
	Pids         []int    // all processes of the container
	CRIUConfig   string   // configuration file that the runtime will hand to CRIU
	Mounts       []string // destinations of bind mounts, keyed as CRIU's external mounts
	Log          string   // file in which the engine keeps what the container prints, to move with it; "" if it keeps none
	Passed       []string // pipes that the runtime hands over anew at a restore, as /proc shows them: "pipe:[123]"
}

// Checkpoint is where a task is restored from. Both directories are the caller's and outlive StartTask.
type Checkpoint struct {
	ImagePath string // CRIU image set, as runc wrote it
	WorkPath  string // CRIU's log and sockets
	Stdio     Stdio
}

// Source is what a source agent needs.
type Source interface {
	Info(ctx context.Context) (Info, error)
	// RestoreWay says in a sentence how containers are restored on this host, "" where it is the same on every host.
	RestoreWay(ctx context.Context) (string, error)
	// Has says whether there is a container of that name, in whatever state. Inspect says why where it cannot be told: then it is true.
	Has(ctx context.Context, id string) bool
	// Inspect describes a container. ErrNotFound, ErrNotRunning and ErrPaused name why it cannot be moved; a
	// paused container is refused since its owner stopped it for a reason.
	Inspect(ctx context.Context, id string) (*Container, *Handles, error)
	// OpenBlob opens a blob of the container's image; the caller closes it.
	OpenBlob(ctx context.Context, b Blob) (io.ReadCloser, error)
	// Lock takes the container for one migration on this host; a second caller gets ErrExists. The lock ends with the returned
	// Undo, or with the process and all that inherit held from it: what cleans up after an agent that died must be through before
	// the next one begins. held is nil for an engine that has no processes, and not to be closed.
	Lock(ctx context.Context, id string) (held *os.File, unlock Undo, err error)
	// Shield hides the container from what the engine has to start dead containers again. It is to be called before one is frozen whose
	// copy may be left here when it goes on elsewhere. The Undo ends that, and so does Resume, for those who did not call
	// it and of engines that answer.
	Shield(ctx context.Context, id string) (Undo, error)
	// Pause freezes all processes; Resume lets them go on. Both are idempotent.
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	// Forsake keeps the engine from starting the container anew when its processes end, or when the engine itself is
	// started. It is called once the destination owns the container, before anything ends its processes. That the container is
	// gone is no error.
	Forsake(ctx context.Context, id string) error
	// Retire takes the local copy away after the destination owns the container: kills what is left of it,
	// deletes the task and its network, and, unless keep, container record and snapshot. It may be repeated; that
	// the container is gone is no error.
	Retire(ctx context.Context, id string, keep bool) error
}

// Shielder is a Source whose shields outlive the host's next start, so that it has to be told more of them.
type Shielder interface {
	// Unshield is the Undo of Shield for those who know only the container. That it is not shielded, or gone, is no error. A container that has
	// ended meanwhile is started anew, if the engine would have done that.
	Unshield(ctx context.Context, id string) error
	// Doubt notes, before GO can be given, that the container may become another host's.
	Doubt(ctx context.Context, id string) error
	// Reclaim ends the shields of all migrations that died here with everything that should have ended them, but of containers that may be
	// another host's.
	Reclaim(ctx context.Context) error
}

// Destination is what a destination agent needs.
type Destination interface {
	Info(ctx context.Context) (Info, error)
	RestoreWay(ctx context.Context) (string, error)
	// CheckFree returns ErrExists when a container, snapshot or address that c needs is taken, or another error
	// when this host cannot run c (unknown network, runtime or snapshotter); each says what to do about it.
	CheckFree(ctx context.Context, c *Container) error
	// MissingBlobs lists the blobs of the image that this host lacks, in the order of img.Blobs.
	MissingBlobs(ctx context.Context, img Image) ([]Blob, error)
	// Hold keeps everything registered by this migration from garbage collection until the Undo is run; use
	// the returned context for all later calls.
	Hold(ctx context.Context, id string) (context.Context, Undo, error)
	// IngestBlob stores a blob and verifies size and digest. It reads r to its end also when the blob is there.
	IngestBlob(ctx context.Context, b Blob, r io.Reader) error
	// PrepareImage registers the image unless it is there, and unpacks its layers. It changes c.Image.Name to the
	// name that the image has on this host, which the container then refers to.
	PrepareImage(ctx context.Context, c *Container) (Undo, error)
	// Register creates the container record with the given specification.
	Register(ctx context.Context, c *Container, spec json.RawMessage) (Undo, error)
	// PrepareRootfs makes the registered container's root file system on the image's layers, unless Register has made it, and
	// returns the directory that holds its RW layer, to be filled by the caller before PrepareTask. It is not mounted.
	PrepareRootfs(ctx context.Context, c *Container) (upper string, undo Undo, err error)
	// OutputLog is the file of a registered container in which the engine will keep what it prints, and to which what the
	// source kept may be brought before StartTask; "" if the engine keeps none.
	OutputLog(ctx context.Context, c *Container) (string, error)
	// SetupNetwork makes the container's network namespace at c.Network.NetNS with the attachments' addresses.
	// lock is called with the namespace's path after it exists and before any interface is in it; not at all for
	// the other modes, which have no namespace yet. With NetworkManaged the engine makes it in StartTask, and has filled it
	// when CRIU calls its action script for setup-namespaces, or, if it is empty then, will have for post-restore.
	SetupNetwork(ctx context.Context, c *Container, lock func(netns string) error) (Undo, error)
	// PrepareTask creates the task that StartTask restores.
	PrepareTask(ctx context.Context, c *Container, cp Checkpoint) (Undo, error)
	// StartTask restores and returns when the processes run, with the init pid. It blocks while a hook of the
	// CRIU configuration holds the restore, and the engine must not be asked about the container meanwhile.
	StartTask(ctx context.Context, c *Container) (pid int, err error)
	// Discard takes away what a migration registered whose agent died: everything of c that was made under the hold
	// with this id, and the hold. It is idempotent.
	Discard(ctx context.Context, c *Container, id string) error
	// Release ends the hold of a migration whose agent died after it was over.
	Release(ctx context.Context, id string) error
	// Adopt makes the record what it was at the source (spec without the migration's own annotations) once the
	// container runs here, and takes the path from a network namespace that is to have none.
	Adopt(ctx context.Context, c *Container) error
}

// Engine is both.
type Engine interface {
	Source
	Destination
	Close() error
}
