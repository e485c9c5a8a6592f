package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"

	"migrate/testbed/internal/cgroup"
	"migrate/testbed/internal/child"
	"migrate/testbed/internal/lan"
	"migrate/testbed/rootfs"
)

// ErrRunning is returned for a testbed that is up already.
var ErrRunning = errors.New("testbed is running")

// ErrNone is returned for a testbed that does not exist.
var ErrNone = errors.New("no such testbed")

// A Testbed is a set of hosts on one network.
type Testbed struct {
	Name string

	log   *slog.Logger
	place place
	state *state
	hosts []*Host
}

// Up makes a testbed and returns when its hosts are ready. If that fails, or ctx
// is cancelled, nothing of it is left.
func Up(ctx context.Context, options Options) (*Testbed, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	root, err := rootfs.Build(ctx, theCache(), options.root(), options.Logger)
	if err != nil {
		return nil, err
	}
	archives, err := buildImages(ctx, root, Images{Names: options.Images, Workload: options.Workload}, options.Logger)
	if err != nil {
		return nil, err
	}
	options, done, err := options.withShim(ctx)
	if err != nil {
		return nil, err
	}
	defer done() // hosts have copies
	at := place{options.Name}
	unlock, err := lockDir(ctx, at.run())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := makeRoom(ctx, at, options); err != nil {
		return nil, err
	}
	t, err := raise(ctx, at, root, options)
	if err == nil {
		err = importAll(ctx, t.hosts, archives)
	}
	if err != nil {
		return nil, errors.Join(err, remove(context.WithoutCancel(ctx), at))
	}
	return t, nil
}

// makeRoom takes away what has the name already, unless it is in use.
func makeRoom(ctx context.Context, at place, options Options) error {
	old, err := readState(at.state())
	if err == nil && old.Complete && old.Switch.alive() && !options.Replace {
		return fmt.Errorf("testbed %s: %w: take it down first", at.name, ErrRunning)
	}
	return clear(ctx, at)
}

// raise makes the testbed itself.
func raise(ctx context.Context, at place, root string, options Options) (*Testbed, error) {
	s := &state{Name: at.name, Root: root, Docker: options.Docker}
	rate, err := lan.ParseRate(options.Link)
	if err != nil {
		return nil, err
	}
	for i, name := range options.Hosts {
		s.Hosts = append(s.Hosts, &hostState{Name: name, Index: i, Rate: rate, InContainerd: slices.Contains(options.InContainerd, name)})
	}
	if err := reserve(ctx, s); err != nil {
		return nil, err
	}
	t := newTestbed(s, options.Logger)
	if err := t.startSwitch(); err != nil {
		return nil, err
	}
	keys, err := newKeys()
	if err != nil {
		return nil, err
	}
	var hosts errgroup.Group
	for _, h := range t.hosts {
		hosts.Go(func() error {
			if err := h.raise(ctx, options, keys); err != nil {
				return fmt.Errorf("host %s: %w", h.Name, err)
			}
			return nil
		})
	}
	if err := hosts.Wait(); err != nil {
		return nil, err
	}
	s.Complete = true
	return t, s.save()
}

func newTestbed(s *state, log *slog.Logger) *Testbed {
	t := &Testbed{Name: s.Name, log: log, place: place{s.Name}, state: s}
	for _, hs := range s.Hosts {
		t.hosts = append(t.hosts, &Host{Name: hs.Name, bed: t, state: hs})
	}
	return t
}

func (t *Testbed) startSwitch() error {
	group := t.place.subgroup(switchName)
	tree, err := cgroup.At(group)
	if err != nil {
		return err
	}
	if err := tree.Create(); err != nil {
		return err
	}
	pid, err := child.StartSwitch(group)
	if err != nil {
		return err
	}
	if err := tree.Join(pid); err != nil {
		return err
	}
	if t.state.Switch, err = processOf(pid); err != nil {
		return fmt.Errorf("start the switch: %w", err)
	}
	if err := t.state.save(); err != nil {
		return err
	}
	return lan.MakeSwitch(pid)
}

// Open finds a testbed that another program made.
func Open(name string, log *slog.Logger) (*Testbed, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := readState(place{name}.state())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("testbed %s: %w: bring it up first", name, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	if !s.Complete || !s.Switch.alive() {
		return nil, fmt.Errorf("testbed %s is not complete or has crashed: take it down and bring it up again", name)
	}
	return newTestbed(s, log), nil
}

// Hosts are all hosts, in the order they were asked for.
func (t *Testbed) Hosts() []*Host { return t.hosts }

// Host is the host of that name, or nil.
func (t *Testbed) Host(name string) *Host {
	for _, h := range t.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Docker is the generation of Docker that the hosts have.
func (t *Testbed) Docker() Docker { return t.state.Docker }

// Subnet is the network that all hosts and containers share.
func (t *Testbed) Subnet() string { return subnetV4(t.state.Network).String() }
