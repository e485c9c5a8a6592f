package main

import (
	"context"
	"fmt"
	"strings"

	"migrate/testbed/matrix"
)

// stock is what hosts and agents have when nothing is under way.
type stock struct {
	hosts      map[string]matrix.Census
	goroutines map[string]int
}

// warmUps are rows of which stock is taken after the first that the engine moves: hosts and agents make some things once, for the
// first container and at the first move. The first row has a network of its own, which some engines cannot move.
const warmUps = "go-http,epoll"

// takeStock moves something first.
func takeStock(ctx context.Context, lab *matrix.Lab) (s stock, err error) {
	if err := warm(ctx, lab); err != nil {
		return s, err
	}
	if s.goroutines, err = lab.Goroutines(ctx); err != nil {
		return s, err
	}
	if err := warm(ctx, lab); err != nil { // the agents are others now
		return s, err
	}
	s.hosts, err = lab.Census(ctx)
	return s, err
}

func warm(ctx context.Context, lab *matrix.Lab) error {
	rows, err := matrix.Choose(matrix.Rows(), warmUps, 0)
	if err != nil {
		return err
	}
	var last matrix.Result
	for _, row := range rows {
		if last = lab.Run(ctx, row); last.Result != matrix.Refused {
			break
		}
	}
	if last.Result != matrix.Moved {
		return fmt.Errorf("first move: %s: %s", last.Result, last.Reason)
	}
	return ctx.Err()
}

// compare is an error if there is more than before.
func (s stock) compare(ctx context.Context, lab *matrix.Lab) error {
	left, err := lab.Leaks(ctx, s.hosts)
	if err != nil {
		return err
	}
	now, err := lab.Goroutines(ctx)
	if err != nil {
		return err
	}
	for host, n := range now {
		if n > s.goroutines[host] {
			left = append(left, fmt.Sprintf("host %s: %d goroutines of the agent, %d before", host, n, s.goroutines[host]))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("something is left:\n  %s", strings.Join(left, "\n  "))
	}
	return nil
}
