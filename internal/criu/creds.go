package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"google.golang.org/protobuf/proto"
)

// Credentials are what one thread of an image set will have when CRIU has restored it.
type Credentials struct {
	File    string // of the image set
	Caps    uint64 // capabilities by number, all sets together, the bounding set included
	Seccomp bool   // a seccomp filter is in force
}

// Magic numbers of images (criu/include/magic.h).
const (
	commonMagic  = 0x54564319
	coreMagic    = 0x55053847
	seccompMagic = 0x64413049
	maxCore      = 8 << 20 // bytes of one core image; they are a few KiB
	seccompOff   = 0
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
	shared, err := sharedFilters(dir)
	if err != nil {
		return nil, err
	}
	var all []Credentials
	for _, path := range files {
		entry, err := readCore(path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
		}
		if creds := entry.GetThreadCore().GetCreds(); creds != nil {
			c := Credentials{File: filepath.Base(path), Seccomp: filtered(entry) || shared[filepath.Base(path)]}
			for _, set := range [][]uint32{creds.CapInh, creds.CapPrm, creds.CapEff, creds.CapBnd} {
				c.Caps |= mask(set)
			}
			all = append(all, c)
		}
	}
	return all, nil
}

func filtered(entry *core.CoreEntry) bool {
	return uint32(entry.GetThreadCore().GetSeccompMode()) != seccompOff || uint32(entry.GetTc().GetOldSeccompMode()) != seccompOff
}

// tsync is SECCOMP_FILTER_FLAG_TSYNC: the kernel puts the filter on all threads of a process.
const tsync = 1

// sharedFilters names the core images of threads that have no filter of their own because that of their process's first thread is
// put on all of them (criu/seccomp.c, try_use_tsync).
func sharedFilters(dir string) (map[string]bool, error) {
	var filters seccomp.SeccompEntry
	if err := readImage(filepath.Join(dir, "seccomp.img"), seccompMagic, &filters); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	threads, err := readThreads(dir)
	if err != nil {
		return nil, err
	}
	shared := map[string]bool{}
	for pid, all := range threads {
		leader, err := readCore(filepath.Join(dir, coreName(pid)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a zombie without threads, or CRIU will say so
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", coreName(pid), err)
		}
		n := leader.GetThreadCore().GetSeccompFilter()
		if !filtered(leader) || uint64(n) >= uint64(len(filters.SeccompFilters)) || filters.SeccompFilters[n].GetFlags()&tsync == 0 {
			continue
		}
		for _, t := range all {
			shared[coreName(t)] = true
		}
	}
	return shared, nil
}

func coreName(pid uint32) string { return fmt.Sprintf("core-%d.img", pid) }

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
