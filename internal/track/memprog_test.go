package track

import (
	"math/rand/v2"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryProgram does everything to memory that a tracker must not be confused by, each in a thread of its own.
func memoryProgram() {
	for _, f := range []func(r *rand.Rand){
		writers, writers, churn, hugePages, filePrivate, protections, heap, stack, forks, sparseHeap,
	} {
		go func() {
			runtime.LockOSThread()
			r := rand.New(rand.NewPCG(rand.Uint64(), 1))
			for {
				f(r)
				nap(r)
			}
		}()
	}
	still := mmap(0, 512*PageSize, readWrite, anonymous, -1)
	for i := range uintptr(512) {
		poke(still+i*PageSize, uint64(i))
	}
	ready()
	select {}
}

func nap(r *rand.Rand) { time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond) }

// page returns the address of a page of a region, chosen at random.
func pageOf(r *rand.Rand, base uintptr, pages int) uintptr {
	return base + uintptr(r.IntN(pages))*PageSize
}

// Places where the kernel maps nothing by itself, so that unmapping a part does not invite another thread.
const (
	churnPlace = 0x100000000000
	stackPlace = 0x110000000000
)

// rounds is how often a program's part does something before it starts afresh.
const rounds = 400

func writers(r *rand.Rand) {
	const n = 256
	p := mmap(0, n*PageSize, readWrite, anonymous, -1)
	for range rounds {
		for range r.IntN(20) {
			poke(pageOf(r, p, n)+uintptr(r.IntN(512))*8, r.Uint64())
		}
		// a value that comes back: what is copied in between must not pass for what is there
		lock := p + 8
		poke(lock, 1)
		nap(r)
		poke(lock, 0)
	}
	munmap(p, n*PageSize)
}

// churn maps, moves, grows and unmaps within a reserved place, so that addresses are used again.
func churn(r *rand.Rand) {
	const n = 128
	place := mmap(churnPlace, 2*n*PageSize, readWrite, anonymous|unix.MAP_FIXED, -1)
	for range rounds {
		k := uintptr(1 + r.IntN(16))
		from, to := pageOf(r, place, n-16), pageOf(r, place+n*PageSize, n-16)
		switch r.IntN(6) {
		case 0:
			munmap(from, k*PageSize)
		case 1, 2:
			mmap(from, k*PageSize, readWrite, anonymous|unix.MAP_FIXED, -1)
			for i := range k {
				if r.IntN(2) == 0 {
					poke(from+i*PageSize, r.Uint64())
				}
			}
		case 3:
			flags := uintptr(unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED)
			if r.IntN(3) == 0 {
				flags |= unix.MREMAP_DONTUNMAP
			}
			_, _, _ = unix.Syscall6(unix.SYS_MREMAP, from, k*PageSize, k*PageSize, flags, to, 0)
		case 4:
			_, _, _ = unix.Syscall6(unix.SYS_MREMAP, to, k*PageSize, k*PageSize, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, from, 0)
		case 5:
			_ = madvise(from, k*PageSize, unix.MADV_DONTNEED)
		}
		if r.IntN(4) == 0 {
			nap(r)
		}
	}
	munmap(place, 2*n*PageSize)
}

// hugePages gives parts of transparent huge pages back in both ways.
func hugePages(r *rand.Rand) {
	const huge, n = 2 << 20, 2
	p := mmap(0, (n+1)*huge, readWrite, anonymous, -1)
	base := (p + huge - 1) &^ (huge - 1)
	_ = madvise(base, n*huge, unix.MADV_HUGEPAGE)
	for range rounds {
		at := pageOf(r, base, n*512-64)
		k := uintptr(1 + r.IntN(64))
		switch r.IntN(16) {
		case 0:
			_ = madvise(at, k*PageSize, unix.MADV_FREE)
		case 1:
			_ = madvise(at, k*PageSize, unix.MADV_DONTNEED)
		case 2:
			_ = madvise(base, huge, unix.MADV_DONTNEED)
		default:
			poke(at, r.Uint64())
		}
		if r.IntN(4) == 0 {
			nap(r)
		}
	}
	munmap(p, (n+1)*huge)
}

// filePrivate writes to a private mapping of a file, and gets the file's pages back.
func filePrivate(r *rand.Rand) {
	const n = 64
	f := must(os.CreateTemp("", "track"))
	defer f.Close()
	_ = os.Remove(f.Name())
	must(0, f.Truncate(n*PageSize))
	for i := range int64(n) {
		must(f.WriteAt([]byte{byte(i + 1)}, i*PageSize+100))
	}
	p := mmap(0, n*PageSize, readWrite, unix.MAP_PRIVATE, int(f.Fd()))
	for range rounds {
		at := pageOf(r, p, n)
		if r.IntN(3) == 0 {
			_ = madvise(at, PageSize, unix.MADV_DONTNEED)
		} else {
			poke(at, r.Uint64())
		}
		if r.IntN(4) == 0 {
			nap(r)
		}
	}
	munmap(p, n*PageSize)
}

// protections takes the right to read away from memory that has content, and gives it back.
func protections(r *rand.Rand) {
	const n = 64
	p := mmap(0, n*PageSize, readWrite, anonymous, -1)
	for range rounds {
		at := pageOf(r, p, n)
		poke(at, r.Uint64())
		_, _, _ = unix.Syscall(unix.SYS_MPROTECT, at, PageSize, unix.PROT_NONE)
		nap(r)
		if r.IntN(2) == 0 {
			_, _, _ = unix.Syscall(unix.SYS_MPROTECT, p, n*PageSize, readWrite)
		} else {
			_, _, _ = unix.Syscall(unix.SYS_MPROTECT, at, PageSize, readWrite)
		}
		_, _, _ = unix.Syscall(unix.SYS_MPROTECT, p, n*PageSize, readWrite)
	}
	munmap(p, n*PageSize)
}

// heap moves the break, which no Go program uses otherwise.
func heap(r *rand.Rand) {
	old, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	old = (old + PageSize - 1) &^ (PageSize - 1)
	size := uintptr(0)
	for range rounds {
		size = uintptr(r.IntN(64)) * PageSize
		if now, _, _ := unix.Syscall(unix.SYS_BRK, old+size, 0, 0); now != old+size {
			must(0, unix.ENOMEM)
		}
		for a := uintptr(0); a < size; a += PageSize {
			if r.IntN(2) == 0 {
				poke(old+a, r.Uint64())
			}
		}
		nap(r)
	}
}

// stack has a mapping that grows downwards when it is written below its start.
func stack(r *rand.Rand) {
	const room, first = 256, 8
	end := uintptr(stackPlace)
	mmap(end-first*PageSize, first*PageSize, readWrite, anonymous|unix.MAP_GROWSDOWN|unix.MAP_FIXED, -1)
	for deep := first; deep < room; deep += r.IntN(2) {
		poke(end-uintptr(1+r.IntN(deep+1))*PageSize, r.Uint64())
		nap(r)
	}
	munmap(end-room*PageSize, room*PageSize)
}

// sparseHeap has a page here and there.
func sparseHeap(r *rand.Rand) {
	const size = 1 << 36
	p := mmap(0, size, readWrite, anonymous|unix.MAP_NORESERVE, -1)
	for range rounds / 4 {
		poke(p+uintptr(r.Uint64N(size))&^7, r.Uint64())
		nap(r)
	}
	munmap(p, size)
}

// forks has children that write to what they share with their parent, which goes on writing as well.
func forks(r *rand.Rand) {
	const n = 64
	p := mmap(0, n*PageSize, readWrite, anonymous, -1)
	for i := range uintptr(n) {
		poke(p+i*PageSize, uint64(i))
	}
	pid := forkWriter(p, n, r.Uint64(), int64(100+r.IntN(200)))
	for range 100 {
		poke(pageOf(r, p, n), r.Uint64())
		time.Sleep(time.Millisecond)
	}
	var ws unix.WaitStatus
	_, _ = unix.Wait4(pid, &ws, 0, nil)
	munmap(p, n*PageSize)
}

// forkWriter forks a process that writes to pages at random for a number of turns of half a millisecond, with a child of its own. Only
// one thread of the Go program exists in it, so nothing of Go's runtime may be used.
//
//go:norace
//go:noinline
func forkWriter(base uintptr, pages uint64, seed uint64, turns int64) int {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	grandchild, _, _ := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if grandchild == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
		seed += 77
	}
	pause := unix.Timespec{Nsec: 500_000}
	for ; turns > 0; turns-- {
		seed = seed*6364136223846793005 + 1442695040888963407
		poke(base+uintptr(seed>>33%pages)*PageSize, seed)
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
	if grandchild != 0 {
		_, _, _ = unix.RawSyscall6(unix.SYS_WAIT4, grandchild, 0, 0, 0, 0, 0)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return 0
}
