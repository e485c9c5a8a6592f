package layers

// magic starts every stream; the last byte is the version.
const magic = "MGLAYER\x01"

// Record types. See docs/LAYERSTREAM.md for the order in which they may come.
const (
	recSlot     = 'S' // put a file aside for a later ENTRY
	recRemove   = 'R' // remove a path and all below it
	recEntry    = 'E' // create or change an entry
	recData     = 'D' // content of the file of the last ENTRY
	recHole     = 'H' // a range of that file that is a hole
	recFileEnd  = 'F' // that file's size; its metadata are set now
	recLink     = 'L' // a further name of a file
	recWhiteout = 'W' // a whiteout
	recDirTime  = 'T' // a directory's mtime
	recEnd      = 'Z'
)

// headerLen is the length of a record's type and length field.
const headerLen = 5

// endLen is the payload of END: entries, bytes, hash.
const endLen = 8 + 8 + 32

// Kinds of entry.
const (
	kindFile    = 1
	kindDir     = 2
	kindSymlink = 3
	kindFIFO    = 4
	kindSocket  = 5
	kindChar    = 6
	kindBlock   = 7
)

// Flags of an ENTRY.
const (
	entryNew  = 1 << 0 // must not exist yet; without it, it must exist with this kind
	entrySlot = 1 << 1 // starts from the file that slot holds; only files, only with entryNew
)

// noID is what chown takes for "leave as it is".
const noID = 1<<32 - 1

// entry is an ENTRY record.
type entry struct {
	kind   uint8
	flags  uint8
	mode   uint32 // permission, setuid, setgid and sticky bits only
	uid    uint32
	gid    uint32
	mtime  stamp
	major  uint32 // device nodes
	minor  uint32
	slot   uint32
	path   string
	target string // symbolic links
	attrs  attrs
}

// record is any record as the decoder hands it out; which fields are set depends
// on typ.
type record struct {
	typ    byte
	offset int64  // of the record in the stream
	path   string // R, S, L, W, T
	target string // L: path of the file to link to
	slot   uint32 // S
	mtime  stamp  // T
	at     int64  // D, H: offset in the file
	length int64  // H: bytes; F: size of the file
	data   []byte // D: valid until the next record
	entry  entry  // E
}
