package layers

// Index is what the destination holds after a round: for each path the identity
// of the entry when it was sent, and hashes of its content blocks. Hand it to
// the next WriteDelta for the same pair of directories, and to nothing else: a
// round whose stream did not arrive whole leaves the destination in a state that
// no index describes.
//
// An Index takes about 200 bytes an entry and 24 bytes a content block. It is
// not safe for use by several goroutines, and WriteDelta may change flags in prev.
type Index struct {
	root      *node
	unsettled int64
	blockSize int
}

// Unsettled returns how many entries changed while they were read, and will be
// read again in the next round even if their times are equal.
func (x *Index) Unsettled() int64 { return x.unsettled }
