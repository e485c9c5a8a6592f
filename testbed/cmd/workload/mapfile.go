package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// mapFileCommand writes to a file through memory alone, which leaves no trace in its times, and compares what it reads
// with what it remembers.
func mapFileCommand() *cli.Command {
	return &cli.Command{
		Name:  "mapfile",
		Usage: "write to a file through a shared mapping, and check all the while that it holds what was written",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", Required: true, Usage: "file to make and map"},
			&cli.IntFlag{Name: "mib", Value: 4, Usage: "its size"},
			&cli.DurationFlag{Name: "duration", Usage: "0: until a signal"},
		},
		Action: func(c *cli.Context) error {
			ctx := c.Context
			if d := c.Duration("duration"); d > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, d)
				defer cancel()
			}
			return mapFile(ctx, c.String("file"), c.Int("mib"), c.App.Writer)
		},
	}
}

// mapFileResult is what mapfile prints at its end.
type mapFileResult struct {
	Writes uint64 `json:"writes"`
	Bad    int    `json:"bad"`   // pages that held something else than what was written
	First  int    `json:"first"` // of them
}

func mapFile(ctx context.Context, path string, mib int, out io.Writer) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make the file to map: %w", err)
	}
	defer f.Close()
	size := mib << 20
	if err := f.Truncate(int64(size)); err != nil {
		return fmt.Errorf("size the file to map: %w", err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the file: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(data)) }()
	generations := make([]uint64, size/pageSize)
	var r mapFileResult
	for i := 0; ctx.Err() == nil; i = (i + 1) % len(generations) {
		page := data[i*pageSize : (i+1)*pageSize]
		if !holdsGeneration(page, i, generations[i]) {
			if r.Bad++; r.Bad == 1 {
				r.First = i
			}
		}
		if r.Bad > 0 && i == len(generations)-1 {
			break // all were looked at since
		}
		generations[i]++
		writeGeneration(page, i, generations[i])
		r.Writes++
		if i%256 == 255 {
			time.Sleep(time.Millisecond)
		}
	}
	return report(out, r, r.Bad == 0)
}

// writeGeneration fills a page with what belongs there after so many writes; before the first it holds zeros.
func writeGeneration(page []byte, i int, generation uint64) {
	for at := 0; at < len(page); at += 8 {
		binary.LittleEndian.PutUint64(page[at:], generation<<32|uint64(i)<<12|uint64(at))
	}
}

func holdsGeneration(page []byte, i int, generation uint64) bool {
	for at := 0; at < len(page); at += 8 {
		want := generation<<32 | uint64(i)<<12 | uint64(at)
		if generation == 0 {
			want = 0
		}
		if binary.LittleEndian.Uint64(page[at:]) != want {
			return false
		}
	}
	return true
}
