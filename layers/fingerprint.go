package layers

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/zeebo/blake3"
)

// Fingerprint identifies what a directory held when it was read: names, inodes, sizes, owners, modes and times of all that is in
// it, not of the directory itself. It changes with every change that leaves a ctime, so that equal ones mean that nothing has
// been touched. It means nothing on another file system, or after the entries were copied.
type Fingerprint [32]byte

// Fingerprint is that of the tree as it was sent. There is none, and ok is false, when an entry changed while it was read.
func (x *Index) Fingerprint() (f Fingerprint, ok bool) {
	if x.unsettled > 0 {
		return f, false
	}
	return x.root.fingerprint(), true
}

// ReadFingerprint is that of the directory as it is now. It reads no file. only is as in Options.
func ReadFingerprint(ctx context.Context, dir, only string) (Fingerprint, error) {
	t, err := openTree(dir)
	if err != nil {
		return Fingerprint{}, err
	}
	defer t.close()
	s := &scanner{ctx: ctx, final: true, racy: time.Duration(-1), only: only}
	root, err := s.scan(t)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint of %s: %w", dir, err)
	}
	return root.fingerprint(), nil
}

func (n *node) fingerprint() (f Fingerprint) {
	h := blake3.New()
	n.print(h)
	copy(f[:], h.Sum(nil))
	return f
}

// print hashes what is in a directory. Names end with a zero, which is in none, and directories with another.
func (n *node) print(h *blake3.Hasher) {
	for i := range n.dir.children {
		c := &n.dir.children[i]
		_, _ = h.WriteString(c.name) // a hash takes everything
		var b []byte
		b = append(b, 0)
		for _, v := range []uint64{c.id.ino, c.id.rdev, uint64(c.id.size), uint64(c.id.mtime.sec), uint64(c.id.mtime.nsec), uint64(c.id.ctime.sec), uint64(c.id.ctime.nsec)} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		for _, v := range []uint32{c.id.mode, c.id.uid, c.id.gid, c.id.nlink} {
			b = binary.BigEndian.AppendUint32(b, v)
		}
		_, _ = h.Write(b)
		if c.dir != nil {
			c.print(h)
		}
	}
	_, _ = h.Write([]byte{0})
}
