package pager

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// family is what a task of the plan shares with all that descend from it: the sources of their missing pages.
//
// Remote pages are numbered in the order of the plan. The number stays with a page wherever mremap takes it and is inherited by
// forked children, so that an arrival reaches all of them.
type family struct {
	vpid   int
	store  *store
	absent *atomic.Int64 // of the whole pager: remote pages that are missing somewhere and have not arrived
	here   atomic.Int64  // remote pages that are missing somewhere and have arrived

	first *pageMap // of the task itself, until it connects

	remote []remoteRun // ascending by address and by number
	mu     sync.Mutex
	pages  []remotePage // by number
}

type remoteRun struct {
	addr  uint64
	pages uint32
	first uint32 // number of the first page
}

type remotePage struct {
	users uint32 // address spaces in which it is missing
	slot  uint32 // RemoteSlot until it arrives
	asked bool
}

// newFamily makes the map of a planned task, with which it is a user of all the slots that it names.
func newFamily(t TaskPlan, st *store, absent *atomic.Int64) (*family, error) {
	f := &family{vpid: t.VPID, store: st, absent: absent}
	ext := make([]extent, 0, len(t.Extents))
	var bit, number uint32
	for _, e := range t.Extents {
		src := source{first: e.Slot}
		switch e.Slot {
		case ZeroSlot:
			continue // what is in no map reads as zeros
		case RemoteSlot:
			f.remote = append(f.remote, remoteRun{e.Addr, e.Pages, number})
			src = source{number, true}
			number += e.Pages
		default:
			if err := st.use(e.Slot, e.Pages); err != nil {
				return nil, fmt.Errorf("plan of vpid %d: %w", t.VPID, err)
			}
		}
		ext = append(ext, extent{e.Addr, e.Pages, bit, src})
		bit += e.Pages
	}
	f.pages = make([]remotePage, number)
	for i := range f.pages {
		f.pages[i] = remotePage{users: 1, slot: RemoteSlot}
	}
	absent.Add(int64(number))
	f.first = newPageMap(ext)
	return f, nil
}

// slot tells in which slot a page is; false: it has not arrived.
func (f *family) slot(src source) (uint32, bool) {
	if !src.remote {
		return src.first, true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.pages[src.first].slot
	return s, s != RemoteSlot
}

// use makes another address space a user of n pages.
func (f *family) use(src source, n uint32) error {
	if !src.remote {
		return f.store.use(src.first, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := src.first; i < src.first+n; i++ {
		f.pages[i].users++
	}
	return nil
}

// drop is called when n pages are not missing any more in an address space.
func (f *family) drop(src source, n uint32) {
	if !src.remote {
		f.store.drop(src.first, n)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := src.first; i < src.first+n; i++ {
		p := &f.pages[i]
		if p.users--; p.users > 0 {
			continue
		}
		if p.slot == RemoteSlot {
			f.absent.Add(-1)
			continue
		}
		f.here.Add(-1)
		if p.slot != ZeroSlot {
			f.store.drop(p.slot, 1)
		}
	}
}

// ask tells the planned address of a remote page, the first time that it is asked for.
func (f *family) ask(src source) (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := &f.pages[src.first]; p.asked || p.slot != RemoteSlot {
		return 0, false
	} else {
		p.asked = true
	}
	i := sort.Search(len(f.remote), func(i int) bool { return f.remote[i].first+f.remote[i].pages > src.first })
	r := f.remote[i]
	return r.addr + uint64(src.first-r.first)*pageSize, true
}

// arrive notes where remote pages are now. A page that came before stays where it was.
func (f *family) arrive(a Arrival) error {
	end := a.Addr + uint64(a.Pages)*pageSize
	f.mu.Lock()
	defer f.mu.Unlock()
	i := sort.Search(len(f.remote), func(i int) bool { r := f.remote[i]; return r.addr+uint64(r.pages)*pageSize > a.Addr })
	for addr := a.Addr; addr < end; addr += pageSize {
		for i < len(f.remote) && f.remote[i].addr+uint64(f.remote[i].pages)*pageSize <= addr {
			i++
		}
		if i == len(f.remote) || f.remote[i].addr > addr {
			return fmt.Errorf("page %#x of vpid %d is not remote", addr, f.vpid)
		}
		number := f.remote[i].first + uint32((addr-f.remote[i].addr)/pageSize)
		slot := a.Slot
		if slot != ZeroSlot {
			slot += uint32((addr - a.Addr) / pageSize)
		}
		if err := f.arriveOne(&f.pages[number], slot); err != nil {
			return fmt.Errorf("page %#x of vpid %d: %w", addr, f.vpid, err)
		}
	}
	return nil
}

func (f *family) arriveOne(p *remotePage, slot uint32) error {
	if p.slot != RemoteSlot {
		return nil
	}
	if slot != ZeroSlot {
		if err := f.store.use(slot, 1); err != nil {
			return err
		}
	}
	p.slot = slot
	switch {
	case p.users > 0:
		f.here.Add(1)
		f.absent.Add(-1)
	case slot != ZeroSlot:
		f.store.drop(slot, 1)
	}
	return nil
}
