package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"migrate/testbed/internal/lan"
)

// A state is what is written down of a testbed, from its beginning on, so that
// any program can find it, use it and take it away.
type state struct {
	Name     string
	Network  int  // number of the testbed's network, different for each testbed
	Complete bool // all hosts came up
	Root     string
	Docker   Docker
	Switch   process
	Hosts    []*hostState
}

type hostState struct {
	Name  string
	Index int // position in the testbed, from 0
	Init  process
	Rate  lan.Rate
	Cut   bool

	InContainerd bool // Docker's images are
}

func readState(path string) (*state, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &s, nil
}

// save replaces the state file in one step.
func (s *state) save() error {
	data, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	path := place{s.Name}.state()
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return fmt.Errorf("write the state of testbed %s: %w", s.Name, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write the state of testbed %s: %w", s.Name, err)
	}
	return nil
}

// update changes what is known of the host, here and in the state file, which other
// programs may change at the same time.
func (h *Host) update(ctx context.Context, change func(*hostState)) error {
	unlock, err := lockDir(ctx, runDir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := readState(h.bed.place.state())
	if err != nil {
		return fmt.Errorf("testbed %s: %w", h.bed.Name, err)
	}
	change(s.Hosts[h.state.Index])
	change(h.state)
	return s.save()
}

// reserve writes a new state with a network number that no other testbed has.
func reserve(ctx context.Context, s *state) error {
	unlock, err := lockDir(ctx, runDir)
	if err != nil {
		return err
	}
	defer unlock()
	taken, err := takenNetworks()
	if err != nil {
		return err
	}
	for s.Network = firstNetwork; taken[s.Network]; s.Network++ {
		if s.Network == lastNetwork {
			return fmt.Errorf("all %d networks are in use by testbeds: take one down", lastNetwork-firstNetwork+1)
		}
	}
	return s.save()
}

func takenNetworks() (map[int]bool, error) {
	taken := map[int]bool{}
	names, err := Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		other, err := readState(place{name}.state())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has not come that far
		}
		if err != nil {
			return nil, err
		}
		taken[other.Network] = true
	}
	return taken, nil
}

// Names lists the testbeds of this machine, unfinished ones included.
func Names() ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list testbeds: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, filepath.Base(entry.Name()))
		}
	}
	return names, nil
}
