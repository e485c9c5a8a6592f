package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"time"

	"golang.org/x/sync/errgroup"
)

// FileSize is one file of an image set.
type FileSize struct {
	Name string
	Size int64
}

// Placer takes pieces of one file, in any order. A piece belongs to the caller again when Place returns.
type Placer interface {
	Place(p []byte, off int64) error
	Close() error
}

const (
	chunkSize = 1 << 20 // bytes that are sent at once
	pollEvery = time.Millisecond
)

// pagesFile names the files that hold memory. CRIU only ever appends to them (criu/page-xfer.c), so that they may be
// read while they grow; all other images are read when CRIU is done.
var pagesFile = regexp.MustCompile(`^pages-[0-9]+\.img$`)

type chunk struct {
	name string
	off  int64
	n    int
}

// Follow sends the memory of an image set in dir while CRIU writes it: workers take pieces as they become complete and
// put them on streams of their own, made with open once per worker and file. It returns, with the files' final
// sizes, when complete was closed and everything was sent, or with the first error.
func Follow(ctx context.Context, dir string, workers int, complete <-chan struct{}, open func(name string) (Placer, error)) ([]FileSize, error) {
	g, ctx := errgroup.WithContext(ctx)
	chunks := make(chan chunk, 4*workers)
	sizes := map[string]int64{}
	g.Go(func() error {
		defer close(chunks)
		return watch(ctx, dir, complete, sizes, chunks)
	})
	for range workers {
		g.Go(func() error {
			return sendChunks(dir, chunks, open)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	list := make([]FileSize, 0, len(sizes))
	for n, s := range sizes {
		list = append(list, FileSize{n, s})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, nil
}

// watch cuts growing files into chunks. Whole chunks are handed out while CRIU writes, the rest when it is done.
func watch(ctx context.Context, dir string, complete <-chan struct{}, sizes map[string]int64, chunks chan<- chunk) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-complete:
			last = true
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := cut(ctx, dir, last, sizes, chunks); err != nil {
			return err
		}
	}
	return nil
}

func cut(ctx context.Context, dir string, last bool, sizes map[string]int64, chunks chan<- chunk) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("follow the image set: %w", err)
	}
	for _, e := range entries {
		if !pagesFile.MatchString(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("follow the image set: %w", err)
		}
		off := sizes[e.Name()]
		for off < info.Size() {
			n := min(info.Size()-off, chunkSize)
			if n < chunkSize && !last {
				break
			}
			select {
			case chunks <- chunk{e.Name(), off, int(n)}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			off += n
		}
		sizes[e.Name()] = off
	}
	return nil
}

// maxOutlets is how many files a worker has open at once. A session has room for a limited number of streams, an image set
// has a file for every process, and CRIU writes one after another.
const maxOutlets = 4

// outlets are a worker's open files with their streams, the one that was opened first at the front.
type outlets struct {
	dir  string
	open func(name string) (Placer, error)
	list []outlet
}

type outlet struct {
	name string
	f    *os.File
	p    Placer
}

// of returns the outlet of a file. A file that had to make room for others gets another stream.
func (o *outlets) of(name string) (outlet, error) {
	if i := slices.IndexFunc(o.list, func(e outlet) bool { return e.name == name }); i >= 0 {
		return o.list[i], nil
	}
	if len(o.list) == maxOutlets {
		if err := o.closeFirst(); err != nil {
			return outlet{}, err
		}
	}
	f, err := os.Open(filepath.Join(o.dir, name))
	if err != nil {
		return outlet{}, fmt.Errorf("read the image set: %w", err)
	}
	p, err := o.open(name)
	if err != nil {
		f.Close()
		return outlet{}, err
	}
	o.list = append(o.list, outlet{name, f, p})
	return o.list[len(o.list)-1], nil
}

func (o *outlets) closeFirst() error {
	first := o.list[0]
	o.list = o.list[1:]
	first.f.Close()
	if err := first.p.Close(); err != nil {
		return fmt.Errorf("send %s: %w", first.name, err)
	}
	return nil
}

// finish closes all. After a failure streams are left to whoever ends the session.
func (o *outlets) finish(err error) error {
	for len(o.list) > 0 {
		if err == nil {
			err = o.closeFirst()
			continue
		}
		o.list[0].f.Close()
		o.list = o.list[1:]
	}
	return err
}

// sendChunks is one worker.
func sendChunks(dir string, chunks <-chan chunk, open func(string) (Placer, error)) (err error) {
	out := outlets{dir: dir, open: open}
	defer func() { err = out.finish(err) }()
	buf := make([]byte, chunkSize)
	for c := range chunks {
		e, err := out.of(c.name)
		if err != nil {
			return err
		}
		if _, err := e.f.ReadAt(buf[:c.n], c.off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s at %d: %w", c.name, c.off, err)
		}
		if err := e.p.Place(buf[:c.n], c.off); err != nil {
			return fmt.Errorf("send %s: %w", c.name, err)
		}
	}
	return nil
}
