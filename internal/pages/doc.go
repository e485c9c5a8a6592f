// Package pages is how the memory of a container travels and is kept before the container does: what it takes to send a
// page, and where the destination puts it. It knows nothing of processes; whoever reads pages and whoever fills them into
// a process uses it from either side.
//
// The destination has a [Store]: one file of slots of PageSize bytes each, slot i at offset i*PageSize, and for every
// space a table from page numbers to slots. A space is a process, by its innermost pid; negative numbers are objects of
// shared memory. A page number is an address divided by PageSize. Slot 0 is never stored: it stands for a page of zeros.
//
// The source has a [Table], which mirrors that: it knows which pages the destination has, in which slots, and what is in
// them. It alone decides slot numbers, so that equal pages share a slot, within a space and across spaces, and slots that
// nothing maps any longer are used again. An [Encoder] writes one stream, and [Store.Apply] takes it:
//
//	table := pages.NewTable(limit, pages.DefaultDeltaCache)
//	for range rounds {
//		table.BeginRound()
//		// for each worker
//		e := pages.NewEncoder(table, stream)
//		err := e.Pages(pid, address/pages.PageSize, content)
//		err = e.Drop(pid, first, n)
//		err = e.Close()
//	}
//
// # Rounds
//
// The streams of a round may be written and applied in any order and at the same time. A round begins only when all of
// the one before has been applied. So that the order within a round does not matter:
//
//   - within a round a slot is written at most once;
//   - a slot that becomes free in a round is used again only in a later one;
//   - only a slot that was written in an earlier round and that one page alone maps is written over or patched;
//   - what concerns one page goes to one Encoder within a round. This is up to the caller; the rest, Table sees to.
//
// What the store holds is of use only between rounds, since records refer to what other streams bring.
//
// # Stream
//
// A stream is a sequence of records without anything between them; numbers are little endian. The version is the
// protocol's that carries it. A record starts with a byte that tells its type.
//
// DATA is what slots hold from now on:
//
//	0  u8   1
//	1  u32  slot, at least 1
//	5  u16  n, 1 to 256
//	7       n*4096 bytes, for slots slot to slot+n-1
//
// MAP says where pages are:
//
//	0  u8   2
//	1  i32  space
//	5  u64  page; page+n is at most 1<<52
//	13 u32  n, at least 1
//	17 u32  slot: page+i is in slot slot+i; 0: all of them are zeros
//
// DROP says that nothing is known about pages any longer:
//
//	0  u8   3
//	1  i32  space
//	5  u64  page; page+n is at most 1<<52
//	13 u64  n; 0, with page 0, is the whole space
//
// DELTA changes what a slot holds:
//
//	0  u8   4
//	1  u32  slot, at least 1
//	5  u32  CRC-32C of the page that comes out
//	9  u16  n, 1 to 2048
//	11      n bytes: a patch
//
// A patch is a sequence of steps through the page in words of 8 bytes: a byte that tells how many words to skip, a byte
// that tells how many to replace, and the words to replace them by. What follows the last step stays.
//
// END is the last record, so that a shortened stream is noticed. Nothing follows it:
//
//	0  u8   5
//
// # Hash
//
// A stream has a hash of 32 bytes, by which both sides know that what was read is what was stored: BLAKE3 in key derivation
// mode, context "migrate pages 1 stream", over the stream with each page of content replaced by its sum of 16 bytes. The
// sum is GMAC (AES-128 in Galois/counter mode over no plaintext) of the page under the table's key and a nonce of zeros. It is the
// same by which the table knows equal pages, so that each side goes through a page once. Both sides of the comparison are
// trusted, and the key is not known to the container that chooses the content: what a sum has to detect is damage and
// what it has to resist is collisions chosen blindly.
package pages
