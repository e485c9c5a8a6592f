package main

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
)

func webCommand() *cli.Command {
	return &cli.Command{
		Name:  "web",
		Usage: "a web server as Go makes it: /next is the next number, /lines many lines of numbers",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: ":8080", Usage: "address"},
			&cli.IntFlag{Name: "lines", Value: 20_000_000, Usage: "of the long page"},
		},
		Action: runWeb,
	}
}

// runWeb listens as Go does by default, which is through MPTCP unless GODEBUG=multipathtcp=0.
func runWeb(c *cli.Context) error {
	const patience = time.Minute
	server := &http.Server{Addr: c.String("listen"), Handler: pages(c.Int("lines")), ReadHeaderTimeout: patience}
	go func() {
		<-c.Context.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); c.Context.Err() == nil {
		return err
	}
	return nil
}

// pages are a counter, and a page with so many lines.
func pages(lines int) http.Handler {
	var last atomic.Uint64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /next", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, last.Add(1)) })
	mux.HandleFunc("GET /lines", func(w http.ResponseWriter, r *http.Request) {
		for n := 1; n <= lines && r.Context().Err() == nil; n++ {
			if _, err := fmt.Fprintln(w, n); err != nil {
				return // the client has gone
			}
		}
	})
	return mux
}
