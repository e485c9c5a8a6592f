package criu

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	mm "github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	vma "github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func TestMendReservations(t *testing.T) {
	const private, counted = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	for name, tt := range map[string]struct {
		size              uint64
		prot, flags, want uint32
	}{
		"reserved":              {8 << 40, unix.PROT_NONE, private, counted},
		"reserved for reading":  {1 << 30, unix.PROT_READ, private, counted},
		"small":                 {1<<30 - 4096, unix.PROT_NONE, private, private},
		"can be written":        {8 << 40, unix.PROT_READ | unix.PROT_WRITE, private, private},
		"not reckoned with":     {8 << 40, unix.PROT_NONE, counted, counted},
		"of a file":             {8 << 40, unix.PROT_NONE, unix.MAP_PRIVATE, unix.MAP_PRIVATE},
		"shared with others":    {8 << 40, unix.PROT_NONE, unix.MAP_SHARED | unix.MAP_ANONYMOUS, unix.MAP_SHARED | unix.MAP_ANONYMOUS},
		"huge pages, taken":     {8 << 40, unix.PROT_NONE, private | unix.MAP_HUGETLB, private | unix.MAP_HUGETLB},
		"reserved, grows below": {8 << 40, unix.PROT_NONE, private | unix.MAP_GROWSDOWN, counted | unix.MAP_GROWSDOWN},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mm-7.img")
			other := &vma.VmaEntry{Start: proto.Uint64(4096), End: proto.Uint64(8192), Prot: proto.Uint32(1), Flags: proto.Uint32(private)}
			v := &vma.VmaEntry{Start: proto.Uint64(1 << 30), End: proto.Uint64(1<<30 + tt.size), Prot: &tt.prot, Flags: &tt.flags}
			if err := writeImage(path, mmMagic, &mm.MmEntry{MmStartCode: proto.Uint64(77), Vmas: []*vma.VmaEntry{other, v}}); err != nil {
				t.Fatal(err)
			}
			if err := MendReservations(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			var got mm.MmEntry
			if err := readImage(path, mmMagic, &got); err != nil {
				t.Fatal(err)
			}
			if f := got.Vmas[1].GetFlags(); f != tt.want || got.GetMmStartCode() != 77 || !proto.Equal(got.Vmas[0], other) {
				t.Errorf("flags are %#x, want %#x; all: %v", f, tt.want, &got)
			}
		})
	}
}

func TestMendReservationsOfBadImages(t *testing.T) {
	dir := t.TempDir()
	if err := MendReservations(dir); err != nil {
		t.Errorf("without address spaces: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mm-1.img"), []byte("no image at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MendReservations(dir); !errors.Is(err, ErrImageSet) {
		t.Errorf("got %v", err)
	}
}
