package layers

// maxDroppedNames bounds Stats.DroppedXattrs.
const maxDroppedNames = 32

// Stats counts what a round sent (WriteDelta) or did (Apply).
type Stats struct {
	Scanned int64 // entries looked at, by WriteDelta only
	Entries int64 // entries created or changed
	Files   int64 // of which regular files
	Dirs    int64 // of which directories
	Links   int64 // of which further names of a file
	Removed int64 // paths removed, each with all below it
	Moved   int64 // files moved instead of sent again

	Bytes        int64 // file content bytes sent or written
	BytesSkipped int64 // content bytes read and found equal, by WriteDelta only
	BlocksSame   int64 // blocks read and found equal, by WriteDelta only
	StreamBytes  int64 // length of the stream

	Unsettled int64 // entries that changed under the reader and are compared again in the next round

	// DroppedXattrs counts attributes that are not carried, by name; at most 32
	// names, the rest under "…". nil when none was dropped.
	DroppedXattrs map[string]int64
}

func (s *Stats) drop(name string) {
	if s.DroppedXattrs == nil {
		s.DroppedXattrs = make(map[string]int64)
	}
	if _, ok := s.DroppedXattrs[name]; !ok && len(s.DroppedXattrs) >= maxDroppedNames {
		name = "…"
	}
	s.DroppedXattrs[name]++
}

// Usage is what a tree takes on disk.
type Usage struct {
	Bytes   int64 // allocated, files with several names counted once
	Entries int64 // names, the upper directory itself included
}
