package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// Credentials are what one thread of an image set will have when CRIU has restored it.
type Credentials struct {
	File    string // of the image set
	Caps    uint64 // capabilities by number, all sets together, the bounding set included
	Seccomp bool   // a seccomp filter is in force
}

// Magic numbers of a core image (criu/include/magic.h).
const (
	commonMagic = 0x54564319
	coreMagic   = 0x55053847

	seccompMagic = 0x64413049

	maxCore    = 8 << 20 // bytes of one core image; they are a few KiB
	seccompOff = 0
)

// ReadCredentials reads the credentials of all threads in an image set. Zombies have none.
func ReadCredentials(dir string) ([]Credentials, error) {
	files, err := filepath.Glob(filepath.Join(dir, "core-*.img"))
	if err != nil {
		return nil, fmt.Errorf("list the image set: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no core image", ErrImageSet)
	}
	var all []Credentials
	cores := map[string]*core.CoreEntry{}
	for _, path := range files {
		entry, err := readCore(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
		}
		cores[filepath.Base(path)] = entry
		if creds := entry.GetThreadCore().GetCreds(); creds != nil {
			c := Credentials{File: filepath.Base(path)}
			for _, set := range [][]uint32{creds.CapInh, creds.CapPrm, creds.CapEff, creds.CapBnd} {
				c.Caps |= mask(set)
			}
			c.Seccomp = uint32(entry.GetThreadCore().GetSeccompMode()) != seccompOff || uint32(entry.GetTc().GetOldSeccompMode()) != seccompOff
			all = append(all, c)
		}
	}
	return all, shareFilters(dir, all, cores)
}

// shareFilters: when all threads of a process have the same filters, CRIU notes them at its first thread only, to be applied to all of
// them (criu/seccomp.c, try_use_tsync).
func shareFilters(dir string, all []Credentials, cores map[string]*core.CoreEntry) error {
	filtered := func(c Credentials) bool { return c.Seccomp }
	if !slices.ContainsFunc(all, filtered) || !slices.ContainsFunc(all, func(c Credentials) bool { return !c.Seccomp }) {
		return nil
	}
	threads, err := readThreads(dir)
	if err != nil {
		return err
	}
	var filters seccomp.SeccompEntry
	if err := readImage(filepath.Join(dir, "seccomp.img"), seccompMagic, &filters); err != nil {
		return err
	}
	for pid, tids := range threads {
		if !syncs(cores[coreFile(pid)], filters.GetSeccompFilters()) {
			continue
		}
		for i := range all {
			if slices.ContainsFunc(tids, func(tid uint32) bool { return coreFile(tid) == all[i].File }) {
				all[i].Seccomp = true
			}
		}
	}
	return nil
}

func coreFile(id uint32) string { return fmt.Sprintf("core-%d.img", id) }

// syncs says whether a process's first thread brings its newest filter to the others.
func syncs(leader *core.CoreEntry, filters []*seccomp.SeccompFilter) bool {
	tc := leader.GetThreadCore()
	i := tc.GetSeccompFilter()
	return tc.GetSeccompMode() == core.SeccompMode_filter && int64(i) < int64(len(filters)) && filters[i].GetFlags()&unix.SECCOMP_FILTER_FLAG_TSYNC != 0
}

// mask joins the 32-bit words of a capability set, lowest first.
func mask(words []uint32) (m uint64) {
	for i, w := range words {
		if i < 2 {
			m |= uint64(w) << (32 * i)
		}
	}
	return m
}

// readCore decodes a core image: two magic numbers and one record, a u32 length before it (criu/protobuf.c).
func readCore(path string) (*core.CoreEntry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxCore {
		return nil, fmt.Errorf("%w: %d bytes", ErrImageSet, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) < 12 || binary.LittleEndian.Uint32(b) != commonMagic || binary.LittleEndian.Uint32(b[4:]) != coreMagic {
		return nil, fmt.Errorf("%w: not a core image", ErrImageSet)
	}
	if n := binary.LittleEndian.Uint32(b[8:]); uint64(n) != uint64(len(b)-12) {
		return nil, fmt.Errorf("%w: a record of %d bytes in %d", ErrImageSet, n, len(b))
	}
	entry := &core.CoreEntry{}
	// whether all is there that a restore needs is for CRIU to say
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(b[12:], entry); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	return entry, nil
}
