package filler

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"migrate/internal/track"
)

// The words of the filler.
const (
	wordReady = "ready"
	wordOK    = "ok"
)

const (
	// atOnce is how many pages one worker copies at once: what fits its processor's cache, so that content comes from memory once.
	atOnce = 64
	// maxWorkers is how many workers there are at most; more get in each other's way in the kernel.
	maxWorkers = 4
)

// Run is the filler: it does the job that comes and says how that went. The returned value is the process's exit status.
func Run(in io.Reader, out io.Writer) int {
	// before the process is accounted to the container, which has no use for these
	buffers := make([][]byte, min(runtime.GOMAXPROCS(0), maxWorkers))
	for i := range buffers {
		buffers[i] = track.NewBuffer(atOnce * track.PageSize)
	}
	fmt.Fprintln(out, wordReady)
	if err := work(in, buffers); err != nil {
		fmt.Fprintln(out, strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	fmt.Fprintln(out, wordOK)
	return 0
}

// files are those of a job.
type files struct {
	store   *os.File
	objects []*os.File
}

func (f *files) close() {
	for _, o := range f.objects {
		_ = o.Close() // a memory file holds nothing back
	}
	if f.store != nil {
		_ = f.store.Close()
	}
}

func open(job Job) (*files, error) {
	f := &files{}
	var err error
	if f.store, err = os.OpenFile(job.Store, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("open the page store: %w", err)
	}
	for _, path := range job.Objects {
		o, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			f.close()
			return nil, fmt.Errorf("open shared memory: %w", err)
		}
		f.objects = append(f.objects, o)
	}
	return f, nil
}

func work(in io.Reader, buffers [][]byte) error {
	job, pieces, err := readJob(in)
	if err != nil {
		return err
	}
	f, err := open(job)
	if err != nil {
		return err
	}
	defer f.close()
	g, ctx := errgroup.WithContext(context.Background())
	queue := make(chan Piece, 1024)
	g.Go(func() error {
		defer close(queue)
		return readPieces(pieces, atOnce, func(p Piece) error {
			select {
			case queue <- p:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	for _, buf := range buffers {
		g.Go(func() error {
			for p := range queue {
				if err := f.put(p, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// put copies one piece.
func (f *files) put(p Piece, buf []byte) error {
	if int(p.Object) >= len(f.objects) || p.Slot == 0 {
		return fmt.Errorf("fill slot %d into object %d of %d: there is no such thing", p.Slot, p.Object, len(f.objects))
	}
	buf = buf[:p.Pages*track.PageSize]
	from := int64(p.Slot) * track.PageSize
	if _, err := f.store.ReadAt(buf, from); err != nil {
		return fmt.Errorf("read %d slots from %d: %w", p.Pages, p.Slot, err)
	}
	if p.Last != 0 {
		if err := unix.Fallocate(int(f.store.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, int64(len(buf))); err != nil {
			return fmt.Errorf("give %d slots from %d back: %w", p.Pages, p.Slot, err)
		}
	}
	if _, err := f.objects[p.Object].WriteAt(buf, int64(p.Off)); err != nil {
		return fmt.Errorf("write shared memory at %#x: %w", p.Off, err)
	}
	return nil
}
