package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	mm "github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// minReservation is from which size on a reservation is mended, in bytes: no host with so little memory runs containers.
const minReservation = 1 << 30

// MendReservations alters the address space that processes have reserved without being able to write to it, in place, so that CRIU can
// map it: it maps everything writable at first (criu/mem.c, premap_private_vma), and the kernel refuses what is more than all memory of the
// host unless it is told not to reckon with it, as it never did with these. MariaDB reserves 8 TiB.
func MendReservations(dir string) error {
	images, err := filepath.Glob(filepath.Join(dir, "mm-*.img"))
	if err != nil {
		return fmt.Errorf("list the address spaces of the image set: %w", err)
	}
	for _, path := range images {
		if err := mendReservations(path); err != nil {
			return fmt.Errorf("address spaces of the image set: %w", err)
		}
	}
	return nil
}

func mendReservations(path string) error {
	var entry mm.MmEntry
	if err := readImage(path, mmMagic, &entry); err != nil {
		return err
	}
	changed := false
	for _, v := range entry.GetVmas() {
		const reserved = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
		if v.GetFlags()&(reserved|unix.MAP_NORESERVE|unix.MAP_HUGETLB) == reserved && v.GetProt()&unix.PROT_WRITE == 0 && v.GetEnd()-v.GetStart() >= minReservation {
			v.Flags = proto.Uint32(v.GetFlags() | unix.MAP_NORESERVE)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return writeImage(path, mmMagic, &entry)
}

// writeImage is the reverse of readImage. What it does not know of the image stays.
func writeImage(path string, magic uint32, m proto.Message) error {
	body, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
	if err != nil {
		return errors.Join(ErrImageSet, err)
	}
	b := binary.LittleEndian.AppendUint32(nil, commonMagic)
	b = binary.LittleEndian.AppendUint32(b, magic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return os.WriteFile(path, append(b, body...), 0o600)
}
