// Package layers streams the RW layer of a container, an overlayfs upper
// directory, from one host to another while the container keeps running. Any
// other directory that a container writes to can be sent the same way.
//
// The source calls [WriteDelta] once with a nil index, which sends everything,
// and then again with the index of the round before, which sends what changed
// since. The last call comes after the freeze, with Options.Final set. The
// destination calls [Apply] for each of those streams on one directory, which
// starts empty and is mounted nowhere while streams are applied:
//
//	idx, _, err := layers.WriteDelta(ctx, conn, upper, nil, layers.Options{})       // running
//	idx, _, err = layers.WriteDelta(ctx, conn, upper, idx, layers.Options{})        // running
//	_, _, err = layers.WriteDelta(ctx, conn, upper, idx, layers.Options{            // frozen
//		Final: true, Recheck: sharedMappings})
//
//	for range rounds {
//		_, err := layers.Apply(ctx, stream, upper, layers.Limits{})
//	}
//
// After the final round both directories are equal as overlayfs sees them:
// names, content, holes, owners, modes, modification times, extended
// attributes, symbolic and hard links, sockets, FIFOs, whiteouts, and
// opaque, redirected and metadata-only entries. Access times and change times
// are not carried.
//
// # What the source relies on
//
// A file is read again when its inode number, mode, owner, size, mtime, ctime,
// device or link count differ from the index. Four cases in which those do not
// tell are covered: a ctime so young that the clock could not have told a later
// change apart (Options.Racy), stores through shared mappings (see
// readContent), a file that changed while it was being read, and the paths in
// Options.Recheck. Such files are compared by content.
//
// # What the destination relies on
//
// Nothing in the stream. Names are resolved by openat2 with RESOLVE_BENEATH and
// RESOLVE_NO_SYMLINKS, so no record reaches outside the directory or through a
// link within it; this is stricter than [os.Root], which follows links inside
// the root and has neither mknod nor extended attributes. Every length is
// checked against a limit before memory is allocated. The hash at the end of a
// stream proves it whole, but only once it has been applied: after an error the
// directory holds a part of a round and must be discarded.
//
// The format is in docs/LAYERSTREAM.md.
package layers
