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

// warmUp is the row after which stock is taken: hosts and agents make some things once, at the first move. It has a network of its own.
const warmUp = "go-http"

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
	rows, err := matrix.Choose(matrix.Rows(), warmUp, 0)
	if err != nil {
		return err
	}
	if r := lab.Run(ctx, rows[0]); r.Result != matrix.Moved {
		return fmt.Errorf("first move: %s", r.Reason)
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
