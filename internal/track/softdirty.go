package track

import (
	"context"
	"errors"
	"log/slog"
	"os"
)

// clearSoftDirty is what clears the marks when written to /proc/PID/clear_refs.
const clearSoftDirty = "4"

func newSoftDirtyMethods(*slog.Logger) (methods, error) {
	return &softDirtyMethods{hashMethods{newHasher(), newLister()}}, nil
}

// softDirtyMethods tracks by content, but only what the kernel has marked as written since the process was adopted.
type softDirtyMethods struct{ hashMethods }

// adopt clears the marks before anything is copied. From then on a page without mark has the content that the first copy found,
// and so have all copies. New mappings are marked as a whole, a moved page is marked by the move, and pages that a device is
// writing to keep their mark (since Linux 5.11).
func (h *softDirtyMethods) adopt(_ context.Context, p *process, _ space) (method, error) {
	m := &hashMethod{p: p, lister: h.lister, sums: newSums(h.hasher), quiet: true}
	if err := clearMarks(p.pid); err != nil {
		return nil, err
	}
	return m, nil
}

func clearMarks(pid int) error {
	f, err := os.OpenFile(procPath(pid, "clear_refs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(clearSoftDirty)
	return errors.Join(err, f.Close())
}

// checkSoftDirty tries on memory of our own: kernels without the feature accept the order to clear, and mark nothing.
func checkSoftDirty() *UnavailableError {
	unavailable := func(why string) *UnavailableError {
		return &UnavailableError{SoftDirty, why, "use a kernel with CONFIG_MEM_SOFT_DIRTY, or another tracker"}
	}
	page, err := mapPages(1)
	if err != nil {
		return unavailable("cannot map memory to try it on: " + err.Error())
	}
	defer unmapPages(page)
	page[0] = 1
	quiet := func() bool {
		f, err := os.Open("/proc/self/pagemap")
		if err != nil {
			return false
		}
		defer f.Close()
		is := false
		err = newLister().list(f, rangeOf(page), func(r found) { is = r.quiet })
		return err == nil && is
	}
	if err := clearMarks(os.Getpid()); err != nil {
		return unavailable("cannot clear marks: " + err.Error())
	}
	before := quiet()
	page[0] = 2
	if !before || quiet() {
		return unavailable("this kernel does not mark written pages")
	}
	return nil
}
