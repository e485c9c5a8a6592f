package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"migrate/internal/criu"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/storage"
	"migrate/layers"
)

// StorageOptions say what becomes of what the container has mounted.
type StorageOptions struct {
	Binds   map[string]string // paths here to the paths that the destination binds instead
	Copies  []string          // paths here whose content comes along
	KeepDNS bool              // resolv.conf comes along, instead of being made for the destination
	Left    string            // directory of notes on content that has left this host; "" keeps none
	Files   string            // directory in which a destination agent of this host keeps files of containers; "" for none
}

// volume is something that is mounted in the container, and how far its content is sent.
type volume struct {
	storage.Tree
	n     int
	view  *os.File      // the tree as the container sees it; nil unless its content is sent
	only  string        // the one name in view's directory that is sent; "" for all
	index *layers.Index // what the destination holds
	round int
	sent  report.Volume
}

// planStorage finds out what is mounted in the container, and refuses what cannot come along.
func (s *sender) planStorage(ctx context.Context) error {
	o := s.opt.Storage
	if s.c.Spec == nil {
		return nil
	}
	plan, err := storage.Make(storage.Request{Pid: s.h.Pid, Spec: s.c.Spec, Labels: s.c.Labels, Binds: o.Binds, Copies: o.Copies, KeepDNS: o.KeepDNS})
	if errors.Is(err, storage.ErrNoContent) {
		return fail.New(fail.Unsupported, "send the content of a bind mount", err).With("source, phase offer", "leave it out of --copy-bind: the destination's own is used then")
	}
	if err != nil {
		return err
	}
	if len(plan.Unused) > 0 {
		return s.notBound(plan)
	}
	s.c.Spec = plan.Spec
	s.push("let go of the container's volumes", func(context.Context) error { s.closeViews(); return nil })
	for i, t := range plan.Trees {
		s.volumes = append(s.volumes, &volume{Tree: t, n: i})
	}
	if s.h.Log != "" {
		v := storage.Volume{Mount: outputMount, How: storage.Output, Type: storage.File, Path: s.h.Log}
		s.volumes = append(s.volumes, &volume{Tree: storage.Tree{Volume: v, Source: s.h.Log}, n: len(s.volumes)})
	}
	for _, v := range s.volumes {
		if err := s.lookAt(ctx, v); err != nil {
			return err
		}
		s.offer.Volumes = append(s.offer.Volumes, v.Volume)
	}
	return nil
}

// outputMount stands in reports for what the container prints, which is nowhere mounted.
const outputMount = "/dev/stdout"

// notBound: a path that was misspelt must not pass for one that was taken care of.
func (s *sender) notBound(p *storage.Plan) error {
	var binds []string
	for _, t := range p.Trees {
		if t.How != storage.Memory {
			binds = append(binds, t.Source)
		}
	}
	f := &fail.Fault{Code: fail.Usage, What: fmt.Sprintf("--bind or --copy-bind names %s, which the container does not bind", strings.Join(p.Unused, ", ")),
		Where: "source, phase offer", Why: "it binds nothing"}
	if len(binds) > 0 {
		f.Why, f.Remedy = "it binds "+strings.Join(binds, ", "), "name the path on this host as the container's specification has it"
	}
	return f
}

// lookAt opens and measures what is to be sent of a volume.
func (s *sender) lookAt(ctx context.Context, v *volume) (err error) {
	if !v.Comes() {
		return nil
	}
	if v.How == storage.Copied {
		if err := s.mayCopy(v); err != nil {
			return err
		}
	}
	if v.Type == storage.File {
		// a file cannot be read as a directory, so it is read where the host has it
		if v.How != storage.Output {
			if err := s.sameFile(v); err != nil {
				return err
			}
		}
		v.only = filepath.Base(v.Source)
		v.File = v.only
		v.view, err = os.Open(filepath.Dir(v.Source))
	} else {
		v.view, err = storage.View(s.h.Pid, v.Real, v.Dev)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", &v.Volume, err)
	}
	use, err := layers.MeasureOnly(ctx, storage.PathOf(v.view), v.only)
	if err != nil {
		return fmt.Errorf("measure %s: %w", &v.Volume, err)
	}
	v.Bytes, v.Entries = use.Bytes, use.Entries
	if v.Name != "" {
		s.clock.Note(fmt.Sprintf("volume %q, mounted at %s, moves with the container (%d MiB)", v.Name, v.Mount, v.Bytes>>20))
	}
	return nil
}

// trees are the volumes' own mounts.
func (s *sender) trees() []storage.Tree {
	trees := make([]storage.Tree, len(s.volumes))
	for i, v := range s.volumes {
		trees[i] = v.Tree
	}
	return trees
}

func (s *sender) sameFile(v *volume) error {
	same, err := v.SameFile(s.h.Pid)
	if err == nil && same {
		return nil
	}
	f := &fail.Fault{Code: fail.Unsupported, What: "send the file that is bound at " + v.Mount, Where: "source, " + v.Source, Err: err,
		Why:    "it was replaced since the container bound it, so that the container has another file than the host",
		Remedy: "restart the container, or leave the file out of --copy-bind"}
	if err != nil {
		f.Why = err.Error()
	}
	return f
}

// mayCopy refuses content that is not the container's alone, and content that would be sent with holes in it.
func (s *sender) mayCopy(v *volume) error {
	below, err := storage.Below(s.h.Pid, s.trees(), v.Real)
	if err != nil {
		return err
	}
	if len(below) > 0 {
		return &fail.Fault{Code: fail.Unsupported, What: "send the content of " + v.String(), Where: "source, " + v.Source,
			Why: "another file system is mounted below it, at " + below[0], Remedy: "unmount it, or make the content available at the destination and use --bind"}
	}
	if slices.Contains(s.opt.Storage.Copies, v.Source) {
		return nil // the user knows
	}
	if users := storage.OtherUsers(s.h.Pid, v.Mounted, v.Root); len(users) > 0 {
		u := users[0]
		return &fail.Fault{Code: fail.Refused, What: "send the content of " + v.String(), Where: "source, " + v.Source,
			Why: fmt.Sprintf("another container has it, too: process %d (%s), at %s", u.Pid, u.Name, u.At),
			Remedy: fmt.Sprintf("stop the other container; or give each its own copy from now on with --copy-bind %s; or use what the destination has with --bind %[1]s:%[1]s",
				v.Source)}
	}
	return nil
}

func (s *sender) closeViews() {
	for _, v := range s.volumes {
		if v.view != nil {
			v.view.Close()
			v.view = nil
		}
	}
}

// external are the declarations of what CRIU leaves to us.
func (s *sender) external() (x []string, err error) {
	if s.c.Network.Unnamed {
		netns, err := criu.ExternalNetNS(s.h.NetNS)
		if err != nil {
			return nil, err
		}
		x = append(x, netns)
	}
	for _, v := range s.volumes {
		if v.How == storage.Memory {
			x = append(x, v.Tmpfs.DumpExternal()...)
		}
	}
	return x, nil
}

// answerProbes shows the destination which storage this is. What is returned removes the traces.
func (s *sender) answerProbes() (remove func()) {
	var undo []func() error
	for _, p := range s.ready.Probes {
		if p.Volume < 0 || p.Volume >= len(s.volumes) || s.volumes[p.Volume].How != storage.Copied {
			s.log.Warn("the destination asks for a probe of what is not copied", "volume", p.Volume)
			continue
		}
		v := s.volumes[p.Volume]
		u, err := p.Answer(v.Source, v.Type)
		if err != nil {
			s.log.Warn("the destination will take its storage for another", "volume", v.String(), "err", err)
			continue
		}
		undo = append(undo, u)
	}
	return func() {
		for _, u := range undo {
			if err := u(); err != nil {
				s.log.Warn("remove a probe", "err", err)
			}
		}
		undo = nil
	}
}

// shared takes note of volumes that the destination has already.
func (s *sender) sharedVolumes(list []int) error {
	for _, n := range list {
		if !slices.ContainsFunc(s.ready.Probes, func(p storage.Probe) bool { return p.Volume == n }) || s.volumes[n].How != storage.Copied {
			return fmt.Errorf("protocol error: volume %d is shared, which nobody asked about", n)
		}
		v := s.volumes[n]
		v.How = storage.Shared
		s.clock.Note(fmt.Sprintf("%s is on storage that both hosts have: it is not copied", v.Source))
	}
	return nil
}

// syncVolumes sends a round of each volume while the container runs.
func (s *sender) syncVolumes(ctx context.Context) error {
	for _, v := range s.volumes {
		if !v.Comes() || v.round > 0 && v.unchanging() {
			continue
		}
		v.round++
		if err := s.sendVolume(ctx, v, layers.Options{}); err != nil {
			return err
		}
		if err := s.inbox.Recv(ctx, proto.Applied, nil); err != nil {
			return err
		}
	}
	return nil
}

// unchanging says whether nobody can change the content.
func (v *volume) unchanging() bool { return v.How == storage.Memory && v.Tmpfs.ReadOnly }

// frozenVolumes sends what changed in the volumes since the round before. The container can change nothing any more; settled
// says that CRIU is done as well.
func (s *sender) frozenVolumes(ctx context.Context, settled bool) error {
	mapped := criu.SharedMappings(s.h.Pids)
	g, gctx := errgroup.WithContext(ctx)
	for _, v := range s.volumes {
		if v.Comes() && !v.unchanging() {
			g.Go(func() error {
				return s.sendVolume(gctx, v, layers.Options{Final: settled, Recheck: v.paths(mapped)})
			})
		}
	}
	return g.Wait()
}

// unsettled says whether a volume changed while it was read beside the dump.
func (s *sender) unsettledVolumes() bool {
	return slices.ContainsFunc(s.volumes, func(v *volume) bool { return v.index != nil && v.index.Unsettled() > 0 })
}

// sendVolume streams a volume's changes since the round before. Rounds with Recheck are of the frozen container.
func (s *sender) sendVolume(ctx context.Context, v *volume, o layers.Options) error {
	frozen := !s.frozenAt.IsZero()
	w, err := s.open(ctx, proto.StreamVolume, proto.VolumeMeta{Volume: v.n, Round: v.round, Frozen: frozen}, s.opt.Codec)
	if err != nil {
		return err
	}
	o.Only, o.AllowDevices = v.only, v.How == storage.Memory // a container's /dev is one
	if !frozen {
		o.Progress = func(st layers.Stats) { s.clock.Progress(st.Bytes, v.Bytes) }
	}
	idx, _, err := layers.WriteDelta(ctx, w, storage.PathOf(v.view), v.index, o)
	if err != nil {
		w.Reset(resetFailed)
		return fmt.Errorf("read %s: %w", &v.Volume, err)
	}
	v.index = idx
	if frozen {
		err = (&sealedWriter{w, s.account(proto.StreamVolume, &s.rep.Volumes)}).Close()
	} else if err = w.Close(); err == nil {
		s.mu.Lock()
		add(&s.rep.Volumes, w.Stats())
		s.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", &v.Volume, err)
	}
	add(&v.sent, w.Stats())
	return nil
}

// paths gives those of the container's paths that lie in the volume, as seen from its root.
func (v *volume) paths(mapped []string) (in []string) {
	places := []storage.At{{Mount: v.Real, Root: "/"}}
	if v.How == storage.Memory {
		places = v.Tmpfs.Places
	}
	for _, p := range mapped {
		for _, at := range places {
			if v.only != "" && "/"+p == at.Mount {
				in = append(in, v.only)
			} else if rest, ok := storage.Beneath("/"+p, at.Mount); ok && v.only == "" {
				in = append(in, filepath.Join(at.Root, rest))
			}
		}
	}
	return in
}

// reportStorage says what became of the volumes.
func (s *sender) reportStorage() {
	for _, v := range s.volumes {
		s.rep.Storage = append(s.rep.Storage, report.Storage{
			Mount: v.Mount, How: string(v.How), Path: v.Path, Name: v.Name, Raw: v.sent.Raw, Wire: v.sent.Wire,
		})
	}
}

// leaveVolumes is called when the container runs elsewhere: content that has gone with it is remembered as left behind, files
// that were only here for the container are removed.
func (s *sender) leaveVolumes() {
	own := filepath.Join(s.opt.Storage.Files, s.c.Namespace, s.c.ID)
	for _, v := range s.volumes {
		switch v.How {
		case storage.Copied:
			print, ok := v.index.Fingerprint()
			if s.opt.Storage.Left == "" || s.opt.KeepSource || !ok {
				continue
			}
			note := storage.Left{Path: v.Source, Namespace: s.c.Namespace, Container: s.c.ID, Print: fmt.Sprintf("%x", print), Migration: s.offer.ID}
			if err := note.Note(s.opt.Storage.Left); err != nil {
				s.log.Warn("a move back will find the volume in its way", "volume", v.String(), "err", err)
			}
		case storage.Carried, storage.Remade:
			if _, ours := storage.Beneath(v.Source, own); !ours || s.opt.Storage.Files == "" || s.opt.KeepSource {
				continue
			}
			if err := os.RemoveAll(own); err != nil {
				s.log.Warn("remove the container's files", "err", err)
			}
		}
	}
}
