package shmem

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/track"
)

const p = track.PageSize

// find looks through this process, which may have other shared memory as well.
func find(t *testing.T, s *Set, id uint64) *Object {
	t.Helper()
	list, err := s.Find([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b *Object) int { return int(a.ID) - int(b.ID) }) {
		t.Error("not ascending")
	}
	for _, o := range list {
		if o.ID == id {
			return o
		}
	}
	return nil
}

func newSet(t *testing.T) *Set {
	t.Helper()
	s, err := NewSet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func memfd(t *testing.T, size int64) (fd int, id uint64) {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return fd, st.Ino
}

func ranges(list ...uint64) (out []track.Range) {
	for i := 0; i < len(list); i += 2 {
		out = append(out, track.Range{Start: list[i] * p, End: list[i+1] * p})
	}
	return out
}

// A file that is only open is found, read without bringing its holes into being, and let go of once nobody has it.
func TestOpenFile(t *testing.T) {
	s := newSet(t)
	fd, id := memfd(t, 40*p+100)
	for _, off := range []int64{3 * p, 4 * p, 40*p + 50} {
		if _, err := unix.Pwrite(fd, []byte{byte(off / p)}, off); err != nil {
			t.Fatal(err)
		}
	}
	o := find(t, s, id)
	if o == nil {
		t.Fatal("not found")
	}
	if vpid, _ := track.VPid(os.Getpid()); o.Handle != (Handle{VPid: vpid, FD: fd}) || len(o.Windows) > 0 {
		t.Errorf("%+v", o)
	}
	want := ranges(3, 5, 40, 41)
	if data, size, err := o.Data(); err != nil || size != 40*p+100 || !slices.Equal(data, want) {
		t.Errorf("data %v, size %d, %v", data, size, err)
	}
	buf := make([]byte, 50*p)
	if n, err := o.ReadPages(buf, 0); err != nil || n != 41*p || buf[3*p] != 3 || buf[4*p] != 4 || buf[40*p+50] != 40 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := o.ReadPages(buf[:p], 60*p); err != nil || n != 0 {
		t.Errorf("behind the end: %d bytes, %v", n, err)
	}
	if data, _, err := o.Data(); err != nil || !slices.Equal(data, want) {
		t.Errorf("after reading: data %v, %v", data, err)
	}
	// this process would have it as long as the set does
	if list, err := s.Find(nil); err != nil || len(list) > 0 {
		t.Errorf("without any process %d are found, %v", len(list), err)
	}
	if _, _, err := o.Data(); !errors.Is(err, unix.EBADF) && !errors.Is(err, os.ErrClosed) {
		t.Errorf("it is still held: %v", err)
	}
}

// What lies behind the end in the last page shows to those who map it.
func TestLastPage(t *testing.T) {
	s := newSet(t)
	fd, id := memfd(t, 10)
	data, err := unix.Mmap(fd, 0, p, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(data) }()
	copy(data, bytes.Repeat([]byte{7}, p))
	o := find(t, s, id)
	buf := make([]byte, p)
	if n, err := o.ReadPages(buf, 0); err != nil || n != p || !bytes.Equal(buf, data) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// anonymous maps shared memory that has no name.
func anonymous(t *testing.T, pages int) (data []byte, id uint64) {
	t.Helper()
	data, err := unix.Mmap(-1, 0, pages*p, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(data) })
	m, err := mappingAt(os.Getpid(), addressOf(data))
	if err != nil {
		t.Fatal(err)
	}
	return data, m.key.ino
}

func TestMapping(t *testing.T) {
	s := newSet(t)
	data, id := anonymous(t, 16)
	data[5*p] = 5
	// what is not writable is no window, and what is mapped apart is another one
	if err := unix.Mprotect(data[8*p:9*p], unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	o := find(t, s, id)
	if o == nil {
		t.Fatal("not found")
	}
	vpid, _ := track.VPid(os.Getpid())
	at := addressOf(data)
	want := []Window{{vpid, at, 0, 8 * p}, {vpid, at + 9*p, 9 * p, 7 * p}}
	if o.Handle != (Handle{VPid: vpid, Addr: at}) || !slices.Equal(o.Windows, want) {
		t.Errorf("%+v", o)
	}
	if found, _, err := o.Data(); err != nil || !slices.Equal(found, ranges(5, 6)) {
		t.Errorf("data %v, %v", found, err)
	}
	if err := Write(os.Getpid(), at+7*p-2, []byte("abcd")); err != nil {
		t.Fatal(err)
	}
	again, err := Open(os.Getpid(), id, o.Handle)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	buf := make([]byte, 2*p)
	if n, err := again.ReadPages(buf, 6*p); err != nil || n != 2*p || string(buf[p-2:p+2]) != "abcd" {
		t.Errorf("%q, %v", buf[p-2:p+2], err)
	}
	if err := Write(os.Getpid(), at+8*p, []byte("x")); err == nil {
		t.Error("a page was written that may not be")
	}
}

// A segment that nobody has attached is found by its identifier, and is not attached afterwards either.
func TestSegment(t *testing.T) {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 3*p, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	data, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newSet(t)
	data[p] = 9
	if o := find(t, s, uint64(id)); o == nil || len(o.Windows) != 1 {
		t.Errorf("attached: %+v", o)
	}
	if err := unix.SysvShmDetach(data); err != nil {
		t.Fatal(err)
	}
	if find(t, s, uint64(id)) != nil {
		t.Error("found, and nobody has it")
	}
	o, err := OpenSegment(os.Getpid(), uint64(id))
	if errors.Is(err, unix.EPERM) {
		t.Skip("SKIPPED: this process may not enter an IPC namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	buf := make([]byte, 3*p)
	if n, err := o.ReadPages(buf, 0); err != nil || n != 3*p || buf[p] != 9 {
		t.Errorf("%d bytes, %v", n, err)
	}
	var ds unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &ds); err != nil || ds.Nattch != 0 {
		t.Errorf("attached %d times, %v", ds.Nattch, err)
	}
}

func TestAmbiguous(t *testing.T) {
	var e *AmbiguousError
	if err := ambiguous([]*Object{{ID: 5}, {ID: 5}}); !errors.As(err, &e) || e.ID != 5 {
		t.Error(err)
	}
	if err := ambiguous([]*Object{{ID: 5}, {ID: 5 + 1<<31}}); err == nil {
		t.Error("numbers that share a space")
	}
	if err := ambiguous([]*Object{{ID: 5}, {ID: 6}}); err != nil {
		t.Error(err)
	}
	if Space(0) != -1 || Space(1<<31-1) >= 0 {
		t.Error("spaces are to be negative")
	}
}

func TestCover(t *testing.T) {
	got := cover([]Window{{3, 0x9000, 4 * p, 4 * p}, {1, 0x1000, 0, 3 * p}, {2, 0x5000, p, p}, {1, 0x2000, 2 * p, 3 * p}})
	want := []Window{{1, 0x1000, 0, 3 * p}, {1, 0x2000 + p, 3 * p, 2 * p}, {3, 0x9000 + p, 5 * p, 3 * p}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestSplit(t *testing.T) {
	windows := []Window{{1, 0x10000, 2 * p, 3 * p}, {2, 0x90000, 6 * p, p}}
	var got []string
	err := Split(ranges(0, 3, 4, 9, 12, 13), windows,
		func(w Window) error {
			got = append(got, fmt.Sprintf("%d:%#x %d+%d", w.VPid, w.Addr, w.Offset/p, w.Len/p))
			return nil
		},
		func(r track.Range) error { got = append(got, fmt.Sprintf("%d-%d", r.Start/p, r.End/p)); return nil })
	want := []string{"0-2", "1:0x10000 2+1", "1:0x12000 4+1", "5-6", "2:0x90000 6+1", "7-9", "12-13"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	broken := errors.New("broken")
	if err := Split(ranges(0, 9), windows, func(Window) error { return broken }, func(track.Range) error { return nil }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestParseMapping(t *testing.T) {
	m, ok, err := parseMapping("7f00-9f00 rw-s 00003000 00:01 4711   /memfd:a b (deleted)")
	want := mapping{start: 0x7f00, end: 0x9f00, shared: true, writable: true, offset: 0x3000, key: key{"00:01", 4711}}
	if err != nil || !ok || m != want {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
	if m, _, err := parseMapping("7f00-9f00 rw-s 0 00:0f 9 /[aio] (deleted)"); err != nil || !m.ring {
		t.Errorf("%+v, %v", m, err)
	}
	if _, ok, err := parseMapping("7f00-9f00 rw-p 00000000 00:00 0 [heap]"); err != nil || ok {
		t.Errorf("%v, %v", ok, err)
	}
	if m, ok, err := parseMapping("7f00-9f00 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)"); err != nil || !ok || m.key.ino != 0 {
		t.Errorf("the first segment: %+v, %v, %v", m, ok, err)
	}
	for _, bad := range []string{"", "7f00 rw-s 0 00:01 1", "7f00-x rw-s 0 00:01 1", "7f00-9f00 rw 0 00:01 1", "7f00-9f00 rw-s 0 00:01"} {
		if _, _, err := parseMapping(bad); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}
