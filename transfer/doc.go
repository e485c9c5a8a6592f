// Package transfer carries a migration between two agents: one authenticated
// session with typed control messages and bulk data streams. It knows nothing
// of containers; what messages and streams mean is its callers' business.
//
// # Sessions and lanes
//
// A session runs over 1 to 16 lanes, each an ordered byte stream: TLS 1.3
// connections, or the single pipe pair of a child process such as ssh.
//
//	source                                   destination
//	  control ────────── lane 0 ──────────────► RecvControl
//	  stream 1, 3 … ──── lane 1 ──────────────► Accept, Next
//	  stream 2, 4 … ──── lane 2 ──────────────► Accept, Next
//
// Lane 0 carries control messages. With several lanes data stays off lane 0,
// so that a control message never queues behind megabytes; with one lane,
// control frames overtake queued data frames. Control messages are therefore
// not ordered relative to streams, only among themselves; data of one stream
// arrives in order.
//
// # Getting a session
//
//	Dial          source, over TLS, the destination pinned by key or token
//	Listen        destination, over TLS, sources on an allow-list or with a token
//	DialCommand   source, over a command's stdin and stdout (see SSHCommand)
//	Stdio         either side of a pipe pair
//
// There is no unauthenticated mode: over TLS both keys are verified, over a
// command the command brings its own trust.
//
// # Using it
//
// SendControl and RecvControl exchange small messages. OpenStream returns a
// StreamWriter whose Close sends the length and BLAKE3 hash of all that was
// written; the StreamReader that Accept returns at the peer ends with io.EOF
// only when both match.
//
// # Back-pressure, and the rule that prevents deadlock
//
// A stream holds few frames in memory. When its consumer is slow, the lane's
// reader stops, then the kernel's buffers fill, then the writer at the peer
// blocks. A stopped lane stops everything on it, so: whoever consumes a stream
// must not wait for a control message or for another stream while doing so,
// and every stream must be accepted and consumed (or discarded) as it comes.
//
// # Failure
//
// The first failure of any lane ends the session. Every blocked and later
// call returns an error that names the lane and the cause and that matches
// one of the sentinel errors (ErrDead, ErrProtocol, …) with errors.Is.
// Messages that had arrived completely before the failure are still delivered.
//
// The bytes on the wire are described in docs/PROTOCOL.md.
package transfer
