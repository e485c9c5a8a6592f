package restore

import (
	"context"

	"migrate/internal/criu"
	"migrate/internal/pager"
)

// Pager brings memory into the processes of one container while they run, see package pager. Its methods are those of a *pager.Pager.
type Pager interface {
	SetPlan(*pager.Plan) error
	// Guard names the container, by its first process, that is to be ended if its memory is lost.
	Guard(init int) error
	Commit() error
	Fill() error
	Requests() <-chan pager.Request
	Arrived(...pager.Arrival) error
	Lose(cause string) error
	Filled(context.Context) (pager.Stats, error)
	Abort()
}

// processes is a pager that consists of two processes of its own.
type processes struct{ *pager.Pager }

// startPager starts them with self, which is how to run this program as a pager.
func startPager(ctx context.Context, self []string, job pager.Job) (Pager, error) {
	p, err := pager.Start(ctx, self, job)
	if err != nil {
		return nil, err
	}
	return processes{p}, nil
}

// Guard implements Pager.
func (p processes) Guard(init int) error {
	freezer, err := criu.FreezerOf(init)
	if err != nil {
		return err
	}
	return p.SetContainer(freezer, init)
}
