// Package proto holds the control messages that a source agent and a destination agent exchange, and the kinds of bulk
// streams between them. Messages are JSON inside the session's control frames; docs/PROTOCOL.md lists them in order.
//
//	source                                destination
//	OFFER            ──────────────▶      check, reserve
//	                 ◀──────────────      PREPARED (blobs that are missing)
//	blobs, SENT      ══════════════▶      store, unpack, make the root file system
//	                 ◀──────────────      SYNCED
//	RW-layer round   ══════════════▶      apply
//	                 ◀──────────────      APPLIED            (once a round)
//	memory round     ══════════════▶      store
//	                 ◀──────────────      STORED             (once a round)
//	FROZEN           ──────────────▶      make the network
//	last rounds, image set ════════▶
//	SEALED           ──────────────▶      verify, restore, hold
//	                 ◀──────────────      READY
//	GO               ──────────────▶      resume
//	                 ◀──────────────      COMMITTED
//	RELEASED         ──────────────▶      fill memory, tidy up
//	                 ◀──────────────      DONE
//
// In the modes in which memory stays at the source it follows on streams of its own from SEALED on, and the destination says FETCHED
// before RELEASED. A source whose link broke meanwhile begins a new session with RESUME, is answered with RESUMED, and goes on.
//
// Either side may send ABORT before GO; after it the sender considers the migration over and cleans up. After GO the
// destination answers COMMITTED or ABORT (nothing of the container is left there), and a source that lost the link asks
// with QUERY on a new session and is answered with OUTCOME. CHECK, answered with CHECKED, asks on a session of its own what
// would stand in the way.
package proto

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/network"
	"migrate/internal/preflight"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/storage"
)

// Kind numbers a control message.
type Kind uint16

// The control messages.
const (
	Offer     Kind = 1
	Prepared  Kind = 2
	Sent      Kind = 3
	Synced    Kind = 4
	Applied   Kind = 5
	Frozen    Kind = 6
	Sealed    Kind = 7
	Ready     Kind = 8
	Go        Kind = 9
	Committed Kind = 10
	Released  Kind = 11
	Done      Kind = 12
	Abort     Kind = 13
	Query     Kind = 14
	Outcome   Kind = 15
	Stored    Kind = 16
	Fetched   Kind = 17
	Resume    Kind = 18
	Resumed   Kind = 19
	Check     Kind = 20
	Checked   Kind = 21
)

var names = map[Kind]string{
	Offer: "OFFER", Prepared: "PREPARED", Sent: "SENT", Synced: "SYNCED", Applied: "APPLIED", Frozen: "FROZEN",
	Sealed: "SEALED", Ready: "READY", Go: "GO", Committed: "COMMITTED", Released: "RELEASED", Done: "DONE",
	Abort: "ABORT", Query: "QUERY", Outcome: "OUTCOME", Stored: "STORED", Fetched: "FETCHED", Resume: "RESUME", Resumed: "RESUMED",
	Check: "CHECK", Checked: "CHECKED",
}

func (k Kind) String() string {
	if s, ok := names[k]; ok {
		return s
	}
	return fmt.Sprintf("message %d", uint16(k))
}

// The kinds of bulk streams.
const (
	StreamBlob  uint16 = 1 // an image blob; the metadata is an engine.Blob
	StreamRW    uint16 = 2 // one round of RW-layer changes; the metadata is a RoundMeta
	StreamPages uint16 = 3 // placed data of one file of the image set; the metadata is a FileMeta
	StreamFiles uint16 = 4 // the small files of the image set, one after another
	// StreamMemory is a part of one round of memory; the metadata is a MemoryMeta, the content that of package pages.
	StreamMemory uint16 = 5
	StreamCheck  uint16 = 6 // hashes of all pages, to compare with what was restored
	// StreamPackets has frames that came while the container stood still, as network.WriteFrames writes them. It is not part of
	// the seal, and may go on until RELEASED.
	StreamPackets uint16 = 7
	// StreamRemote has pages that stayed at the source, and StreamRequests, which the destination opens, what it says about them, both
	// as package postcopy writes them. They are not part of the seal.
	StreamRemote   uint16 = 8
	StreamRequests uint16 = 9
	// StreamVolume is one round of changes to a volume; the metadata is a VolumeMeta, the content that of package layers.
	StreamVolume uint16 = 10
)

// Modes of a migration.
const (
	ModeStop     = "stop"     // memory is dumped, sent and restored while the container stands still
	ModePrecopy  = "precopy"  // memory is sent in rounds while the container runs, and filled in after it was resumed
	ModePostcopy = "postcopy" // memory stays at the source, and is sent after the container was resumed
	ModeHybrid   = "hybrid"   // what rounds have sent and was not written since does not stay
)

// KnownMode says whether there is such a mode.
func KnownMode(mode string) bool { return mode == ModeStop || InPlace(mode) }

// InPlace says whether the dump leaves memory in the frozen processes.
func InPlace(mode string) bool { return mode == ModePrecopy || Stays(mode) }

// Rounds says whether memory is sent in rounds while the container runs.
func Rounds(mode string) bool { return mode == ModePrecopy || mode == ModeHybrid }

// Stays says whether memory stays at the source until the container runs at the destination.
func Stays(mode string) bool { return mode == ModePostcopy || mode == ModeHybrid }

// Limits on what a peer may announce.
const (
	MaxMemoryStreams = 64      // in one round of memory
	MaxFiles         = 1 << 16 // files in an image set
	MaxBlobs         = 4096    // blobs in an image
	MaxShared        = 1 << 14 // pieces of shared memory
	MaxWindows       = 1 << 16 // of all of them
)

// OfferMsg opens a migration.
type OfferMsg struct {
	ID        string           `json:"id"`    // of the migration, 32 hex digits
	Epoch     uint64           `json:"epoch"` // counts attempts to move the same container
	Container engine.Container `json:"container"`
	Name      string           `json:"name,omitempty"` // id at the destination, if another one
	Source    engine.Info      `json:"source"`
	Host      string           `json:"host"`             // the source's host name, for messages
	Memory    int64            `json:"memory"`           // bytes the image set may take
	Files     int64            `json:"files"`            // bytes of the RW layer
	Entries   int64            `json:"entries"`          // entries of the RW layer
	CloseTCP  bool             `json:"close_tcp"`        // restore established connections as closed
	HoldLimit time.Duration    `json:"hold_limit"`       // how long the destination may hold before it gives up, ns
	Lanes     int              `json:"lanes,omitempty"`  // for messages
	Mode      string           `json:"mode"`             // one of the modes
	Eager     bool             `json:"eager,omitempty"`  // put all memory in place before the container is resumed
	Verify    bool             `json:"verify,omitempty"` // a StreamCheck follows, to compare with what was restored
	// Recover is how long a link may stay broken, in ns, while memory is still at the source.
	Recover time.Duration `json:"recover_limit,omitempty"`

	Volumes []storage.Volume `json:"volumes,omitempty"` // what is mounted beside the root file system
	Facts   preflight.Host   `json:"facts"`             // of the source's host, which the destination compares with its own
	Ignore  []string         `json:"ignore,omitempty"`  // codes of findings that are not to stand in the way
}

// PreparedMsg answers an offer.
type PreparedMsg struct {
	Destination engine.Info   `json:"destination"`
	Host        string        `json:"host"`
	ID          string        `json:"container_id"` // the container's id here
	Missing     []engine.Blob `json:"missing"`
	Store       int64         `json:"store"` // bytes that memory may take there, unless it is ModeStop

	// Probes ask whether what is in the way of volumes is the very storage that they come from. They are answered before SENT.
	Probes   []storage.Probe     `json:"probes,omitempty"`
	Findings []preflight.Finding `json:"findings,omitempty"` // none that blocks
}

// SyncedMsg says that image and root file system are in place.
type SyncedMsg struct {
	BlobsStored int   `json:"blobs_stored"`
	BlobBytes   int64 `json:"blob_bytes"`
	Shared      []int `json:"shared,omitempty"` // volumes whose probes were found: they are there, and are not sent
}

// RoundMeta is the metadata of a StreamRW.
type RoundMeta struct {
	Round  int  `json:"round"`
	Frozen bool `json:"frozen"` // the container stands still; part of the seal
}

// VolumeMeta is the metadata of a StreamVolume.
type VolumeMeta struct {
	Volume int  `json:"volume"` // index in the offer
	Round  int  `json:"round"`
	Frozen bool `json:"frozen"` // the container stands still; part of the seal
}

// AppliedMsg ends a round at the destination, of the RW layer or of a volume.
type AppliedMsg struct {
	Round int `json:"round"`
}

// FileMeta is the metadata of a StreamPages.
type FileMeta struct {
	Name string `json:"name"`
}

// FileSize is one file of the image set as it must stand at the destination.
type FileSize struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// FrozenMsg says that the container stands still.
type FrozenMsg struct {
	Neighbours []network.Neighbour `json:"neighbours,omitempty"` // whom it knows on its links
}

// MemoryMeta is the metadata of a StreamMemory.
type MemoryMeta struct {
	Round   int `json:"round"`   // counts from 1 without gaps
	Streams int `json:"streams"` // that the round consists of
	// Key of 16 bytes is what the hash of the stream is computed with, see package pages.
	Key []byte `json:"key"`
}

// StoredMsg says that a round of memory is stored.
type StoredMsg struct {
	Round int `json:"round"`
}

// SealedMsg closes the content: everything was sent, and Root is the hash over all of it.
type SealedMsg struct {
	Files   []FileSize `json:"files"`
	Streams int        `json:"streams"`          // bulk streams opened since FROZEN, and all of memory
	Root    []byte     `json:"root"`             // see Root
	Remote  int64      `json:"remote,omitempty"` // pages that stay at the source
	Shared  []Shared   `json:"shared,omitempty"`
}

// Shared is a piece of shared memory whose content came in rounds: pages that the image set names without holding them.
type Shared struct {
	ID uint64 `json:"id"` // as in the name of its image, pagemap-shmem-ID.img
	// Handle says which process has it, for a check of its content; its VPid is 0 when none does.
	Handle  shmem.Handle   `json:"handle"`
	Windows []shmem.Window `json:"windows,omitempty"` // through which its content may be put in once it is restored
}

// ReadyMsg says that the container is restored and held.
type ReadyMsg struct {
	RestoreMS float64 `json:"restore_ms"`               // SEALED verified until held
	Verified  int64   `json:"verified_pages,omitempty"` // compared with the source's, all equal
}

// CommittedMsg says that the container runs at the destination.
type CommittedMsg struct {
	Pid        int                `json:"pid"`
	SinceGoMS  float64            `json:"since_go_ms"`         // GO received until the processes ran
	LagMS      float64            `json:"lag_ms"`              // processes ran until this message was sent
	StepsMS    map[string]float64 `json:"steps_ms"`            // parts of the restore, for the report
	LogsKeptAt string             `json:"logs_kept_at"`        // CRIU's logs
	Addresses  []string           `json:"addresses,omitempty"` // that the container got here, with prefix length; none if it kept its own
}

// FetchedMsg says that no more memory is needed from the source: all has come, or what has not is lost.
type FetchedMsg struct {
	Fetch *report.Fetch `json:"fetch,omitempty"`
	Lost  string        `json:"lost,omitempty"` // why the container had to be ended
}

// ReleasedMsg says that nothing is left of the container at the source.
type ReleasedMsg struct {
	Lost string `json:"lost,omitempty"` // why memory that stayed there will not come, before FETCHED
}

// ResumeMsg opens a session that goes on with a migration whose link broke while memory was still at the source.
type ResumeMsg struct {
	ID    string `json:"id"`
	Epoch uint64 `json:"epoch"`
}

// What becomes of a migration that a source wants to go on with.
const (
	FetchGoesOn = "fetching" // it goes on, on this session
	FetchOver   = "fetched"  // all memory had come before
	FetchLost   = "lost"     // the container was ended
	FetchBusy   = "busy"     // not now: ask again
)

// ResumedMsg answers RESUME.
type ResumedMsg struct {
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
}

// DoneMsg says that the destination needs the source for nothing any more.
type DoneMsg struct {
	Fill *report.Fill `json:"fill,omitempty"` // of ModePrecopy, since the container was resumed
	Lost string       `json:"lost,omitempty"` // why the container's memory could not be filled, so that it was ended
}

// QueryMsg asks what became of a migration.
type QueryMsg struct {
	ID    string `json:"id"`
	Epoch uint64 `json:"epoch"`
}

// CheckMsg asks what would stand in the way of a migration, which does not begin.
type CheckMsg struct {
	Offer  OfferMsg `json:"offer"`  // as it would be made; id and epoch mean nothing
	Canary bool     `json:"canary"` // dump and restore a tiny container there
}

// CheckedMsg answers a CheckMsg.
type CheckedMsg struct {
	Destination engine.Info         `json:"destination"`
	Host        string              `json:"host"`
	ID          string              `json:"container_id"` // the container's id there
	Facts       preflight.Host      `json:"facts"`
	Findings    []preflight.Finding `json:"findings,omitempty"`
}

// Outcomes of a migration at the destination.
const (
	OutcomeCommitted = "committed" // the container runs, or ran, at the destination
	OutcomeAborted   = "aborted"   // nothing is left of it there, and it will never run there
	OutcomePending   = "pending"   // GO was received and the restore is not over
)

// OutcomeMsg answers a query.
type OutcomeMsg struct {
	ID     string       `json:"id"`
	Result string       `json:"result"`
	Commit CommittedMsg `json:"commit"`
	// Fetch says, of a container that runs or ran at the destination, whether its memory has come; "" if none stayed at the source.
	Fetch string `json:"fetch,omitempty"`
}

// Pipe carries control messages; a transfer session is one.
type Pipe interface {
	SendControl(ctx context.Context, kind uint16, payload []byte) error
	RecvControl(ctx context.Context) (kind uint16, payload []byte, err error)
}

// Send encodes and sends a message; m may be nil.
func Send(ctx context.Context, p Pipe, k Kind, m any) error {
	b := []byte("{}")
	if m != nil {
		var err error
		if b, err = json.Marshal(m); err != nil {
			return fmt.Errorf("encode %v: %w", k, err)
		}
	}
	if err := p.SendControl(ctx, uint16(k), b); err != nil {
		return fmt.Errorf("send %v: %w", k, err)
	}
	return nil
}

// Inbox receives control messages. It reads ahead, so that an ABORT is noticed at once, whatever this side is doing.
type Inbox struct {
	msgs   chan message
	closed chan struct{} // closed after cause is set
	cause  error
}

type message struct {
	kind    Kind
	payload []byte
}

// maxAhead is how many messages may wait in an Inbox; the protocol never has more than two under way.
const maxAhead = 8

// NewInbox starts reading from p, until the peer ends its side: a migration that was cancelled here still listens. The
// returned context ends with ctx, and with an *AbortError as its cause when the peer gives up, or the session's error
// when that fails.
func NewInbox(ctx context.Context, p Pipe) (*Inbox, context.Context, context.CancelCauseFunc) {
	read := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	in := &Inbox{msgs: make(chan message, maxAhead), closed: make(chan struct{})}
	go func() {
		in.cause = in.read(read, p)
		close(in.closed)
		cancel(in.cause)
	}()
	return in, ctx, cancel
}

// Closed is closed when nothing more can come: the peer has ended its side, given up, or the session failed.
func (in *Inbox) Closed() <-chan struct{} { return in.closed }

// Cause is why nothing more can come, or nil.
func (in *Inbox) Cause() error {
	select {
	case <-in.closed:
		return in.cause
	default:
		return nil
	}
}

// read returns why it ended, never nil.
func (in *Inbox) read(ctx context.Context, p Pipe) error {
	for {
		k, b, err := p.RecvControl(ctx)
		if err != nil {
			return fmt.Errorf("receive from the peer: %w", err)
		}
		if Kind(k) == Abort {
			return decodeAbort(b)
		}
		select {
		case in.msgs <- message{Kind(k), b}:
		default:
			return fmt.Errorf("protocol error: %v comes too early", Kind(k))
		}
	}
}

// Recv waits for a message of the kind given and decodes it into m, which may be nil. It fails with the cause that ended
// ctx or the inbox; messages that came before are delivered first.
func (in *Inbox) Recv(ctx context.Context, want Kind, m any) error {
	select {
	case msg := <-in.msgs:
		return decode(msg, want, m)
	case <-ctx.Done():
	case <-in.closed:
	}
	select {
	case msg := <-in.msgs:
		return decode(msg, want, m)
	default:
	}
	if cause := in.Cause(); cause != nil {
		return fmt.Errorf("wait for %v: %w", want, cause)
	}
	return fmt.Errorf("wait for %v: %w", want, context.Cause(ctx))
}

func decode(msg message, want Kind, m any) error {
	if msg.kind != want {
		return fmt.Errorf("protocol error: %v where %v was expected", msg.kind, want)
	}
	if m == nil {
		return nil
	}
	if err := json.Unmarshal(msg.payload, m); err != nil {
		return fmt.Errorf("decode %v: %w", want, err)
	}
	return nil
}

// AbortError is the peer's ABORT.
type AbortError struct{ Fault *fail.Fault }

func (e *AbortError) Error() string { return "peer gave up: " + e.Fault.Error() }

// Unwrap gives the peer's fault.
func (e *AbortError) Unwrap() error { return e.Fault }

func decodeAbort(b []byte) error {
	f := &fail.Fault{}
	if err := json.Unmarshal(b, f); err != nil {
		return fmt.Errorf("decode ABORT: %w", err)
	}
	if !f.Code.FromPeer() {
		f.Code = fail.Restore
	}
	f.State = "" // where the container is, this side knows better
	for _, text := range []*string{&f.What, &f.Where, &f.Why, &f.Remedy, &f.Log} {
		*text = printable(*text)
	}
	return &AbortError{Fault: f}
}

// Findings makes what a peer found safe to show: it says for itself that it is the peer's, and steers no terminal.
func Findings(fs []preflight.Finding) []preflight.Finding {
	const most = 1000
	var kept []preflight.Finding
	for _, f := range fs[:min(len(fs), most)] {
		f.Side = preflight.Destination
		for _, text := range []*string{&f.Code, &f.Thing.Comm, &f.Thing.Path, &f.Thing.Socket, &f.Reason, &f.Remedy, &f.Link, &f.State} {
			*text = printable(*text)
		}
		if _, known := preflight.Lookup(f.Code); !known || !slices.Contains([]preflight.Severity{preflight.Blocks, preflight.Degrades, preflight.Note}, f.Severity) {
			f.Severity = preflight.Blocks // of a newer version: better safe
		}
		kept = append(kept, f)
	}
	return kept
}

// printable replaces what could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// SendAbort tells the peer why the migration ends.
func SendAbort(ctx context.Context, p Pipe, f *fail.Fault) error { return Send(ctx, p, Abort, f) }

// First receives the message that opens a session, whatever it is.
func First(ctx context.Context, p Pipe) (Kind, []byte, error) {
	k, b, err := p.RecvControl(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("wait for the first message: %w", err)
	}
	return Kind(k), b, nil
}
