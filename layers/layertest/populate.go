package layertest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Populate makes about n entries of every kind below dir, which exists. The same
// seed gives the same tree, but for the times of entries that it does not set.
func Populate(dir string, n int, seed uint64) error {
	m := NewMutator(dir, seed)
	for range n {
		if err := m.create(); err != nil {
			return fmt.Errorf("populate %s: %w", dir, err)
		}
	}
	return nil
}

// Mutator changes a tree at random, in every way that a container can. All
// symbolic links it makes dangle, and nothing it does follows one: it runs as
// root. One Mutator at a time may work on a tree.
type Mutator struct {
	dir  string
	rng  *rand.Rand
	seed uint64
}

// NewMutator returns a Mutator for the tree below dir.
func NewMutator(dir string, seed uint64) *Mutator {
	return &Mutator{dir: dir, rng: rand.New(rand.NewPCG(seed, 7)), seed: seed}
}

// Mutate makes n changes. What a change meets is left to chance: one that the
// file system refuses, such as a directory moved into itself, counts too.
func (m *Mutator) Mutate(n int) error {
	changes := []func() error{
		m.create, m.create, m.write, m.write, m.truncate, m.punch, m.remove, m.rename, m.rename,
		m.link, m.relink, m.metadata, m.metadata, m.attribute, m.replace, m.sneak, m.swap,
	}
	for range n {
		if err := changes[m.rng.IntN(len(changes))](); err != nil && !harmless(err) {
			return fmt.Errorf("mutate %s: %w", m.dir, err)
		}
	}
	return nil
}

// harmless says that a change met something it does not fit.
func harmless(err error) bool {
	for _, e := range []error{fs.ErrNotExist, fs.ErrExist, unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY,
		unix.EINVAL, unix.ELOOP, unix.EBUSY, unix.ENXIO, unix.EPERM, unix.ENODATA, unix.ENAMETOOLONG, errNone} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var errNone = errors.New("no entry of that kind")

var oddNames = []string{
	"..foo", "...", " ", "new\nline", "\xff\xfe", "-rf", "a\\b", "'\"", strings.Repeat("x", 255), "\x01", "über", "*",
}

func (m *Mutator) name() string {
	if m.rng.IntN(4) == 0 {
		return oddNames[m.rng.IntN(len(oddNames))]
	}
	return fmt.Sprintf("%c%d", 'a'+rune(m.rng.IntN(6)), m.rng.IntN(40))
}

// pick returns a path that fits, at random.
func (m *Mutator) pick(fits func(fs.FileMode) bool) (string, error) {
	var found []string
	err := filepath.WalkDir(m.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if p != m.dir && fits(d.Type()) {
			found = append(found, p)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = errNone
	}
	if err != nil {
		return "", err
	}
	return found[m.rng.IntN(len(found))], nil
}

func isFile(t fs.FileMode) bool { return t.IsRegular() }
func isDir(t fs.FileMode) bool  { return t.IsDir() }
func isAny(fs.FileMode) bool    { return true }

// place returns a free or taken path in a random directory.
func (m *Mutator) place() string {
	d, err := m.pick(isDir)
	if err != nil || m.rng.IntN(4) == 0 || len(d)-len(m.dir) > 900 {
		d = m.dir
	}
	return filepath.Join(d, m.name())
}

func (m *Mutator) create() error { return m.createAt(m.place()) }

func (m *Mutator) createAt(p string) error {
	var err error
	switch m.rng.IntN(14) {
	case 0, 1, 2:
		err = os.Mkdir(p, 0o755)
	case 3:
		err = os.Symlink([]string{"/nonexistent/layertest", "../nonexistent", "nowhere", strings.Repeat("y/", 900)}[m.rng.IntN(4)], p)
	case 4:
		err = unix.Mkfifo(p, 0o640)
	case 5:
		err = unix.Mknod(p, unix.S_IFSOCK|0o666, 0)
	case 6:
		err = unix.Mknod(p, unix.S_IFCHR, 0)
	case 7:
		err = m.createSparse(p)
	case 8:
		err = m.linkTo(p)
	default:
		err = m.createFile(p)
	}
	if err == nil {
		err = m.decorate(p)
	}
	if harmless(err) {
		return nil
	}
	return err
}

func (m *Mutator) size() int {
	switch m.rng.IntN(8) {
	case 0:
		return 0
	case 1:
		return m.rng.IntN(300 << 10)
	case 2:
		return 64 << 10
	}
	return m.rng.IntN(9000)
}

func (m *Mutator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	return b
}

// createFile makes a new file. Never os.WriteFile here, nor any other open
// without O_EXCL or O_NOFOLLOW: the name may be taken by a link to anywhere, and
// this runs as root.
func (m *Mutator) createFile(p string) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(m.bytes(m.size()))
	return err
}

func (m *Mutator) createSparse(p string) error {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for range m.rng.IntN(5) {
		if _, err := f.WriteAt(m.bytes(1+m.rng.IntN(9000)), int64(m.rng.IntN(4<<20))); err != nil {
			return err
		}
	}
	return f.Truncate(int64(m.rng.IntN(5 << 20)))
}

func (m *Mutator) linkTo(p string) error {
	from, err := m.pick(isFile)
	if err != nil {
		return err
	}
	return os.Link(from, p)
}

// decorate gives some entries an owner, a mode, attributes, an mtime.
func (m *Mutator) decorate(p string) error {
	for range m.rng.IntN(3) {
		if err := m.change(p); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mutator) change(p string) error {
	st, err := os.Lstat(p)
	if err != nil {
		return err
	}
	switch m.rng.IntN(5) {
	case 0:
		return os.Lchown(p, m.rng.IntN(70000), m.rng.IntN(70000))
	case 1:
		if st.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		return chmod(p, uint32(m.rng.IntN(0o10000)))
	case 2:
		ts := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Sec: int64(m.rng.Uint32()), Nsec: int64(m.rng.IntN(1e9))}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	}
	return m.attributeOf(p, st.Mode())
}

// chmod does not follow a link that has taken the name since it was looked at.
func chmod(p string, mode uint32) error {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
	if err == unix.EOPNOTSUPP { // a link after all
		return nil
	}
	return err
}

func (m *Mutator) attributeOf(p string, mode fs.FileMode) error {
	type attr struct{ name, value string }
	var choice []attr
	switch {
	case mode.IsDir():
		choice = []attr{{"trusted.overlay.opaque", "y"}, {"trusted.overlay.redirect", "/some/where"},
			{"trusted.overlay.origin", "handle"}, {"system.posix_acl_default", acl()}, {"user.overlay.opaque", "x"},
			{"trusted.overlay.impure", "y"}, {"user.d", m.name()}}
	case mode.IsRegular():
		choice = []attr{{"user.f", string(m.bytes(m.rng.IntN(200)))}, {"security.capability", capability()},
			{"system.posix_acl_access", acl()}, {"trusted.other", "dropped"}, {"trusted.overlay.metacopy", ""},
			{"trusted.overlay.overlay.opaque", "y"}}
	default:
		return nil
	}
	a := choice[m.rng.IntN(len(choice))]
	if m.rng.IntN(3) == 0 {
		return unix.Lremovexattr(p, a.name)
	}
	return unix.Lsetxattr(p, a.name, []byte(a.value), 0)
}

// acl is a POSIX ACL with one named user, in the form of
// include/uapi/linux/posix_acl_xattr.h.
func acl() string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{0x01, 6, 0xffffffff}, {0x02, 4, 1234}, {0x04, 4, 0xffffffff}, {0x10, 6, 0xffffffff}, {0x20, 0, 0xffffffff}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

// capability is cap_net_raw=ep, struct vfs_cap_data version 2.
func capability() string {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = binary.LittleEndian.AppendUint32(b, 1<<13)
	return string(append(b, make([]byte, 12)...))
}

func (m *Mutator) metadata() error {
	p, err := m.pick(isAny)
	if err != nil {
		return err
	}
	return m.change(p)
}

func (m *Mutator) attribute() error {
	p, err := m.pick(isAny)
	if err != nil {
		return err
	}
	st, err := os.Lstat(p)
	if err != nil {
		return err
	}
	return m.attributeOf(p, st.Mode())
}

func (m *Mutator) open() (*os.File, int64, error) {
	p, err := m.pick(isFile)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(p, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, 0, errNone
	}
	return f, st.Size(), nil
}

func (m *Mutator) write() error {
	f, size, err := m.open()
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(m.bytes(1+m.rng.IntN(5000)), m.rng.Int64N(size+1))
	return err
}

func (m *Mutator) truncate() error {
	f, size, err := m.open()
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(m.rng.Int64N(size + size/3 + 100))
}

func (m *Mutator) punch() error {
	f, size, err := m.open()
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		m.rng.Int64N(size+1), 1+m.rng.Int64N(200<<10))
}

// sneak writes without a trace in size and mtime.
func (m *Mutator) sneak() error {
	f, size, err := m.open()
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || size == 0 {
		return err
	}
	if _, err := f.WriteAt(m.bytes(1), m.rng.Int64N(size)); err != nil {
		return err
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(st.ModTime().UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, f.Name(), ts, unix.AT_SYMLINK_NOFOLLOW)
}

func (m *Mutator) remove() error {
	p, err := m.pick(isAny)
	if err != nil {
		return err
	}
	if m.rng.IntN(4) > 0 {
		return unix.Unlink(p)
	}
	return os.RemoveAll(p)
}

func (m *Mutator) rename() error {
	p, err := m.pick(isAny)
	if err != nil {
		return err
	}
	return unix.Rename(p, m.place())
}

// swap exchanges two entries, of whatever kinds.
func (m *Mutator) swap() error {
	p, err := m.pick(isAny)
	if err != nil {
		return err
	}
	q, err := m.pick(isAny)
	if err != nil {
		return err
	}
	return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, q, unix.RENAME_EXCHANGE)
}

func (m *Mutator) link() error { return m.linkTo(m.place()) }

// relink breaks a file's links as editors do: a new file is renamed over it.
func (m *Mutator) relink() error {
	p, err := m.pick(isFile)
	if err != nil {
		return err
	}
	tmp := filepath.Join(m.dir, "relink.tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := m.createFile(tmp); err != nil {
		return err
	}
	return unix.Rename(tmp, p)
}

// replace puts something of another kind in an entry's place.
func (m *Mutator) replace() error {
	p, err := m.pick(isAny)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(p); err != nil {
		return err
	}
	return m.createAt(p)
}
