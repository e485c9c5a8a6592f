package testbed

import (
	"context"
	"fmt"

	"migrate/testbed/internal/lan"
)

// Cut has the network drop everything to and from the host, silently: links stay
// up, and connections learn of it only by waiting.
func (h *Host) Cut() error {
	if err := h.port().Cut(); err != nil {
		return err
	}
	return h.update(context.Background(), func(s *hostState) { s.Cut = true })
}

// Heal undoes Cut.
func (h *Host) Heal() error {
	if err := h.port().Heal(); err != nil {
		return err
	}
	return h.update(context.Background(), func(s *hostState) { s.Cut = false })
}

// IsCut tells whether the host is cut off.
func (h *Host) IsCut() bool { return h.state.Cut }

// SetRate changes the rate of the host's link in both directions: "none", or a
// rate such as "100mbit" or "10gbit".
func (h *Host) SetRate(rate string) error {
	r, err := lan.ParseRate(rate)
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	if err := h.port().SetRate(r); err != nil {
		return err
	}
	return h.update(context.Background(), func(s *hostState) { s.Rate = r })
}

// Rate is the rate of the host's link.
func (h *Host) Rate() string { return h.state.Rate.String() }
