package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"migrate/testbed/cmd/workload/internal/traffic"
)

// The protocol is lines. A client numbers its requests from 1:
//
//	seq 17    →  seq 17           or: error want 16
//	verify    →  verify {"pages":…}
//	ping      →  pong
//
// Further requests take the whole connection, see package traffic.
const (
	requestSeq    = "seq"
	requestVerify = "verify"
	requestPing   = "ping"
	replyError    = "error"
)

// tickInterval is the time between two lines of the server's output, unless another is asked for.
const tickInterval = 100 * time.Millisecond

// maxLine bounds a request and a reply.
const maxLine = 4096

func serverCommand() *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "answer requests, hold memory, and print a numbered line every so often",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: ":7000", Usage: "address; empty: none"},
			&cli.IntFlag{Name: "memory-mib", Value: 16, Usage: "memory that is filled and checked"},
			&cli.StringFlag{Name: "memory-kind", Value: kindPrivate, Usage: "what the memory is: " + strings.Join(memoryKinds, ", ")},
			&cli.IntFlag{Name: "dirty-pages-per-sec", Usage: "pages of 4 KiB that are rewritten"},
			&cli.Float64Flag{Name: "compressible", Value: 0.5, Usage: "part of the memory that compresses to nothing, 0 to 1"},
			&cli.DurationFlag{Name: "tick-interval", Value: tickInterval, Usage: "time between two lines of output"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "what the memory's content follows from"},
		},
		Action: runServer,
	}
}

func runServer(c *cli.Context) error {
	if part := c.Float64("compressible"); part < 0 || part > 1 {
		return fmt.Errorf("compressible %v: want 0 to 1", part)
	}
	every := c.Duration("tick-interval")
	if every <= 0 {
		return fmt.Errorf("tick-interval %v is not positive", every)
	}
	held, err := newMemory(c.String("memory-kind"), c.Int("memory-mib"), c.Uint64("seed"), c.Float64("compressible"))
	if err != nil {
		return err
	}
	s := &server{memory: held}
	work, ctx := errgroup.WithContext(c.Context)
	work.Go(func() error { return tick(ctx, os.Stdout, every) })
	work.Go(func() error { s.memory.dirty(ctx, c.Int("dirty-pages-per-sec")); return nil })
	if address := c.String("listen"); address != "" {
		work.Go(func() error { return s.serve(ctx, address) })
	}
	return work.Wait()
}

type server struct {
	memory *memory
}

// listen makes a plain TCP listener: CRIU cannot dump MPTCP sockets, which Go uses
// otherwise.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

func (s *server) serve(ctx context.Context, address string) error {
	listener, err := listen(ctx, address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go s.talk(conn)
	}
}

// talk answers one client until it goes.
func (s *server) talk(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, maxLine)
	var last uint64
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		request := strings.TrimSpace(string(line))
		if traffic.Serve(conn, in, request) {
			return
		}
		if _, err := io.WriteString(conn, s.answer(request, &last)+"\n"); err != nil {
			return
		}
	}
}

func (s *server) answer(request string, last *uint64) string {
	kind, argument, _ := strings.Cut(request, " ")
	switch kind {
	case requestPing:
		return "pong"
	case requestVerify:
		result, err := json.Marshal(s.memory.verify())
		if err != nil {
			return replyError + " " + err.Error()
		}
		return requestVerify + " " + string(result)
	case requestSeq:
		n, err := strconv.ParseUint(argument, 10, 64)
		if err != nil || n != *last+1 {
			return fmt.Sprintf("%s want %d", replyError, *last+1)
		}
		*last = n
		return request
	}
	return replyError + " unknown request"
}

// tick prints a line with the next number every interval. A number that is missing
// or there twice in the log tells of lost or repeated output.
func tick(ctx context.Context, w io.Writer, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for n := uint64(1); ; n++ {
		if _, err := fmt.Fprintf(w, "tick %d %s\n", n, time.Now().UTC().Format("15:04:05.000")); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
