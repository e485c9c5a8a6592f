package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	pstree "github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/rseq"
	"google.golang.org/protobuf/proto"

	"migrate/internal/track"
)

// writeTree writes an image of processes and their threads. One that has threads has memory as well, unless the first of them is not itself.
func writeTree(t *testing.T, dir string, tasks ...*pstree.PstreeEntry) {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, commonMagic)
	b = binary.LittleEndian.AppendUint32(b, pstreeMagic)
	for _, e := range tasks {
		record, err := proto.MarshalOptions{AllowPartial: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
		if tids := e.GetThreads(); len(tids) == 0 || tids[0] != e.GetPid() {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("mm-%d.img", e.GetPid())), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pstree.img"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// zombie is a process that has ended, with the thread that CRIU notes of it.
func zombie(pid uint32) *pstree.PstreeEntry {
	return &pstree.PstreeEntry{Pid: &pid, Threads: []uint32{495876752}}
}

func writeThread(t *testing.T, dir string, tid uint32, area *rseq.RseqEntry) {
	t.Helper()
	entry := &core.CoreEntry{ThreadCore: &core.ThreadCoreEntry{RseqEntry: area}}
	if err := writeImage(filepath.Join(dir, coreFile(tid)), coreMagic, entry); err != nil {
		t.Fatal(err)
	}
}

func areaAt(at uint64, size uint32) *rseq.RseqEntry {
	return &rseq.RseqEntry{RseqAbiPointer: &at, RseqAbiSize: &size, Signature: proto.Uint32(1)}
}

func TestKernelWrites(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, dir, &pstree.PstreeEntry{Pid: proto.Uint32(7), Threads: []uint32{7, 8, 9}}, &pstree.PstreeEntry{Pid: proto.Uint32(12), Threads: []uint32{12}},
		&pstree.PstreeEntry{Pid: proto.Uint32(13), Threads: []uint32{13, 14}}, zombie(15))
	writeThread(t, dir, 7, areaAt(0x9060, 32))
	writeThread(t, dir, 8, areaAt(0x5060, 32))
	writeThread(t, dir, 9, areaAt(0, 0)) // has registered none
	writeThread(t, dir, 12, nil)
	writeThread(t, dir, 13, areaAt(0x7fe0, 20)) // as the first of them were
	writeThread(t, dir, 14, areaAt(^uint64(0)-8, 32))
	got, err := KernelWrites(dir)
	want := map[int][]track.Range{
		7:  {{Start: 0x5060, End: 0x5068}, {Start: 0x5074, End: 0x507c}, {Start: 0x9060, End: 0x9068}, {Start: 0x9074, End: 0x907c}},
		13: {{Start: 0x7fe0, End: 0x7fe8}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, %v\nwant %x", got, err, want)
	}
}

func TestKernelWritesOfBadImages(t *testing.T) {
	dir := t.TempDir()
	if _, err := KernelWrites(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no processes: %v", err)
	}
	writeTree(t, dir, &pstree.PstreeEntry{Pid: proto.Uint32(7), Threads: []uint32{7}})
	if _, err := KernelWrites(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no thread: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, coreFile(7)), []byte("no image at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KernelWrites(dir); !errors.Is(err, ErrImageSet) {
		t.Errorf("a bad image: %v", err)
	}
}
