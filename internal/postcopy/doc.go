// Package postcopy brings memory to a container that runs at the destination already, from the frozen processes that it left at
// the source: what the container waits for first, everything else beside that. It knows nothing of processes, sessions or files;
// whoever reads memory, carries bytes and puts pages in place uses it from either side.
//
//	source: Server                          destination: Fetcher
//	            ◀──── ask, acknowledge ────   Talk      what a task waits for, what has arrived
//	answer      ───── urgent pages ───────▶   Take      a stream of their own, flushed one by one
//	push        ═════ all other pages ════▶   Take      as many as the link takes without a queue
//
// Both know which pages these are, and number them alike: the runs that were left out of what was sent before. Each page is sent
// once as long as the link holds. A link that breaks takes with it what was under way and had not been acknowledged; on the next
// one the destination asks again for what it waits for, and the source sends again what was not acknowledged. A page that
// comes twice counts once.
//
// # Why a fault does not wait
//
// A page that was asked for overtakes everything inside the source: it has a stream of its own. What it cannot overtake are bytes
// that the network has taken already. So no more is pushed than keeps the link busy: a window bounds what was pushed and not
// acknowledged, it grows while acknowledgements come without delay and shrinks when they do not, and while the container waits
// for pages only a part of it is used. What is pushed next are the neighbours of what was asked for last.
//
// # Streams
//
// Integers are little-endian. Pages come in records, without anything between them:
//
//	PAGES  u8 1, process i32, page u64, n u16 (1 to 256), n × 4096 bytes
//	ZERO   u8 2, process i32, page u64, n u32 (at least 1)
//
// and what the destination says is
//
//	ASK    u8 1, process i32, page u64
//	ACK    u8 2, process i32, page u64, n u32 (at least 1)
//
// A process is named by its pid in its own namespace; a page is its address divided by 4096. A stream ends after a record. All pages
// of a record must be among those that were left out.
package postcopy
