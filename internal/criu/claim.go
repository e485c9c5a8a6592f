package criu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	inventory "github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"migrate/internal/criu/pagemap"
	"migrate/internal/track"
)

// A dump with a claimed parent does not touch private memory at all. CRIU makes incremental dumps: of pages that an earlier image
// set, the parent, has, and that were not written since, it notes only where they are. It asks the kernel's soft-dirty marks which
// those are. A kernel without these marks (CONFIG_MEM_SOFT_DIRTY) shows no page as written, and CRIU therefore refuses to
// look at them; what has been written is known here from elsewhere. So CRIU is told that the kernel has the marks, and is given a
// parent that claims to have everything: all ranges of private memory, without any content.
//
// Compared with a lazy dump, in which CRIU takes a reference to every page, that saves some 150 ms a GiB of downtime, and
// the descriptors that hold the references. Should the kernel have the marks all the same, pages are left in the tasks as in a lazy dump,
// or are in the image set, each as CRIU says: nothing depends on the claim being true.
//
// What CRIU knows of the kernel is in a file, of which the guard shows it an altered copy, in its own mount namespace. Whether this
// CRIU keeps that fact where it is looked for is tried out: see claimTracking.

// trackingAt is where a CRIU keeps whether the kernel has soft-dirty marks: one byte behind two magic numbers (u32), a device number
// (u64), an int that is padded, and a u64 (criu/include/kerndat.h, struct kerndat_s, unchanged since CRIU 3.6).
const trackingAt = 32

// parentName is the claimed parent's directory, beside that of the image set.
const parentName = "known"

// errNoClaim says that this kernel or this CRIU does not let a parent be claimed.
var errNoClaim = errors.New("a parent cannot be claimed")

// forgeTracking returns what CRIU knows of the kernel, altered so that it has soft-dirty marks.
func forgeTracking(kdat []byte) ([]byte, error) {
	if len(kdat) <= trackingAt || kdat[trackingAt] != 0 {
		return nil, errNoClaim
	}
	forged := append([]byte(nil), kdat...)
	forged[trackingAt] = 1
	return forged, nil
}

// Claim tells a guard how to make CRIU claim a parent; without it, or where that fails, the dump is a lazy one.
type Claim struct {
	Kdat   string `json:"kdat"`   // what CRIU is to know of the kernel; "" for no claim
	Config string `json:"config"` // CRIU's configuration in place of GuardJob.Config
}

// prepareClaim writes what the guard and CRIU need before the freeze.
func (d *DumpRequest) prepareClaim(config Config) (Claim, error) {
	kdat, err := os.ReadFile(kdatPath)
	if errors.Is(err, os.ErrNotExist) {
		return Claim{}, errNoClaim
	}
	if err != nil {
		return Claim{}, fmt.Errorf("read what CRIU knows of the kernel: %w", err)
	}
	forged, err := forgeTracking(kdat)
	if err != nil {
		return Claim{}, err
	}
	if err := os.MkdirAll(d.parent(), 0o700); err != nil {
		return Claim{}, fmt.Errorf("make the claimed parent: %w", err)
	}
	if err := writeInventory(filepath.Join(d.parent(), "inventory.img")); err != nil {
		return Claim{}, err
	}
	c := Claim{Kdat: filepath.Join(d.HookDir, "kdat"), Config: filepath.Join(d.HookDir, "criu-claim.conf")}
	if err := os.WriteFile(c.Kdat, forged, 0o600); err != nil {
		return Claim{}, fmt.Errorf("write what CRIU is to know of the kernel: %w", err)
	}
	return c, config.Write(c.Config)
}

func (d *DumpRequest) parent() string { return filepath.Join(filepath.Dir(d.ImageDir), parentName) }

// claimTracking shows CRIU the altered file, in this process's mount namespace, and asks CRIU whether it now believes that the
// kernel has soft-dirty marks. If not it is as before.
func claimTracking(kdat string) error {
	if err := unix.Mount(kdat, kdatPath, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show CRIU what it is to know: %w", err)
	}
	err := exec.Command("criu", "check", "--feature", "mem_dirty_track").Run()
	if err == nil {
		return nil
	}
	return errors.Join(errNoClaim, err, unix.Unmount(kdatPath, unix.MNT_DETACH))
}

const (
	inventoryMagic = 0x58313116 // criu/include/magic.h
	imageVersion   = 1          // criu/include/image.h, CRTOOLS_IMAGES_V1
	// CRIU takes a process that was started after the parent was made for another one of the same pid (criu/mem.c,
	// detect_pid_reuse); the parent is made, in microseconds since boot, when nobody is left to be started.
	farFuture = 1 << 60
)

func writeInventory(path string) error {
	body, err := proto.Marshal(&inventory.InventoryEntry{ImgVersion: proto.Uint32(imageVersion), DumpUptime: proto.Uint64(farFuture)})
	if err != nil {
		return fmt.Errorf("encode the claimed parent's inventory: %w", err)
	}
	// it says which version the other images have, and so has no common magic number before its own (criu/image.c)
	b := binary.LittleEndian.AppendUint32(nil, inventoryMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	if err := os.WriteFile(path, append(b, body...), 0o600); err != nil {
		return fmt.Errorf("write the claimed parent's inventory: %w", err)
	}
	return nil
}

// claimMemory writes the claimed parent's pagemaps. The tasks are frozen.
func (d *DumpRequest) claimMemory() error {
	pids, err := NewFreezer(d.Freezer).Tasks()
	if err != nil {
		return fmt.Errorf("claim memory: %w", err)
	}
	for i, pid := range pids {
		vpid, err := track.VPid(pid)
		if err != nil {
			return fmt.Errorf("claim memory of process %d: %w", pid, err)
		}
		entries, err := privateRanges(pid)
		if err != nil {
			return fmt.Errorf("claim memory of process %d: %w", pid, err)
		}
		f := pagemap.File{PagesID: uint32(i + 1), Entries: entries}
		if err := f.WriteFile(pagemap.TaskPath(d.parent(), vpid)); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d.parent(), f.PagesName()), nil, 0o600); err != nil {
			return fmt.Errorf("claim memory of process %d: %w", pid, err)
		}
	}
	return nil
}

// privateRanges lists the private mappings of a process as entries of a pagemap.
func privateRanges(pid int) ([]pagemap.Entry, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []pagemap.Entry
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var start, end uint64
		var perm string
		if n, _ := fmt.Sscanf(sc.Text(), "%x-%x %s", &start, &end, &perm); n != 3 {
			return nil, fmt.Errorf("mapping not understood: %q", sc.Text())
		}
		if !strings.HasSuffix(perm, "p") || strings.HasSuffix(sc.Text(), "[vsyscall]") {
			continue
		}
		if n := len(list); n > 0 && list[n-1].End() == start {
			list[n-1].Pages += (end - start) / pagemap.PageSize
		} else {
			list = append(list, pagemap.Entry{Addr: start, Pages: (end - start) / pagemap.PageSize, Flags: pagemap.Present})
		}
	}
	return list, sc.Err()
}
