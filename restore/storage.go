package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/storage"
	"migrate/layers"
	"migrate/transfer"
)

// volume is something that the container will have mounted here, and how far its content has come.
type volume struct {
	storage.Volume
	place *storage.Place // of a bind whose content comes, or is made
	probe *storage.Probe // asked, as something is in the way
	dir   string         // takes in rounds; "" before there is one
	limit layers.Limits

	// under the lock of streams
	applying bool
	whole    bool // a round of the frozen container was applied, or nobody can change the content
}

// planVolumes checks the offer's volumes against the specification, and decides where those go whose place is ours to choose. It
// changes nothing on this host.
func (r *receiver) planVolumes() error {
	list := r.offer.Volumes
	if len(list) > storage.MaxVolumes {
		return fmt.Errorf("protocol error: %d volumes", len(list))
	}
	var s specs.Spec
	if err := json.Unmarshal(r.c.Spec, &s); err != nil {
		return fmt.Errorf("decode the container's specification: %w", err)
	}
	binds := map[string]*specs.Mount{}
	for i := range s.Mounts {
		if storage.IsBind(s.Mounts[i]) {
			binds[filepath.Clean(s.Mounts[i].Destination)] = &s.Mounts[i]
		}
	}
	chosen := false
	for _, sv := range list {
		if err := sv.Check(); err != nil {
			return fmt.Errorf("protocol error: %w", err)
		}
		if slices.ContainsFunc(r.volumes, func(v *volume) bool { return v.Mount == sv.Mount }) {
			return fmt.Errorf("protocol error: two volumes at %s", sv.Mount)
		}
		v := &volume{Volume: sv, limit: r.opt.Policy.Layers}
		r.volumes = append(r.volumes, v)
		if v.How == storage.Memory {
			v.limit.AllowDevices = true // a container's /dev is one; what it may open is its cgroup's to say
			v.limit.MaxBytes = spaceFactor*v.Bytes + spaceSlack
			continue
		}
		if v.How == storage.Output {
			continue
		}
		m := binds[v.Mount]
		if m == nil || filepath.Clean(m.Source) != v.Path {
			return fmt.Errorf("protocol error: the container does not bind %s", &v.Volume)
		}
		delete(binds, v.Mount) // once
		if v.How == storage.Carried || v.How == storage.Remade {
			v.Path = filepath.Join(r.opt.Files, r.c.Namespace, r.c.ID, filepath.Base(v.Mount))
			m.Source, chosen = v.Path, true
			if v.How == storage.Remade {
				v.File = filepath.Base(v.Path)
			}
		}
	}
	if !chosen {
		return nil
	}
	if r.opt.Files == "" {
		return &fail.Fault{Code: fail.Refused, What: "take in the container's files", Where: "destination", Why: "this agent has no directory for them"}
	}
	var err error
	r.c.Spec, err = json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the container's specification: %w", err)
	}
	return nil
}

// placeVolumes looks at the places of volumes once the policy has let them in, and asks about those that something is in the way
// of. It changes nothing on this host.
func (r *receiver) placeVolumes(ctx context.Context) (probes []storage.Probe, err error) {
	for i, v := range r.volumes {
		if v.How == storage.Present || v.How == storage.Memory || v.How == storage.Output {
			continue
		}
		left := v.How != storage.Copied // our own directory
		if !left {
			if left, err = r.leftBehind(ctx, v); err != nil {
				return nil, err
			}
			if err := checkDisk(existing(v.Path), v.Bytes); err != nil {
				return nil, err
			}
		}
		v.place, err = storage.NewPlace(v.Path, v.Type, v.File, r.offer.ID, left)
		if errors.Is(err, storage.ErrInTheWay) {
			p := storage.NewProbe(i)
			v.probe = &p
			probes = append(probes, p)
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return probes, nil
}

// existing is the closest directory of a path that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// leftBehind says whether what is at a volume's place is what this very container left there, untouched since.
func (r *receiver) leftBehind(ctx context.Context, v *volume) (bool, error) {
	if r.opt.Left == "" {
		return false, nil
	}
	note, found, err := storage.FindLeft(r.opt.Left, v.Path)
	if err != nil || !found || note.Namespace != r.c.Namespace || note.Container != r.c.ID {
		return false, err
	}
	dir, only := v.Path, ""
	if v.Type == storage.File {
		dir, only = filepath.Dir(v.Path), filepath.Base(v.Path)
	}
	print, err := layers.ReadFingerprint(ctx, dir, only)
	if err != nil {
		r.log.Info("what the container left cannot be compared", "volume", v.String(), "err", err)
		return false, nil
	}
	return fmt.Sprintf("%x", print) == note.Print, nil
}

// settleProbes finds out which volumes are here already, and refuses those that something else is in the way of.
func (r *receiver) settleProbes() (shared []int, err error) {
	for i, v := range r.volumes {
		if v.probe == nil {
			continue
		}
		if !v.probe.Seen(v.Path, v.Type) {
			return nil, &fail.Fault{
				Code: fail.Refused, What: "take in " + v.String(), Where: "destination, " + v.Path,
				Why:    "something else is there already, and nothing is overwritten",
				Remedy: fmt.Sprintf("move it away; or choose another place with --bind OLD:NEW; or use it as it is with --bind OLD:%s and without --copy-bind", v.Path),
			}
		}
		v.How = storage.Shared
		shared = append(shared, i)
	}
	return shared, nil
}

// makeVolumes makes room for the volumes' content.
func (r *receiver) makeVolumes() error {
	r.push("take the volumes away", func(context.Context) error { return r.dropVolumes() })
	for i, v := range r.volumes {
		switch {
		case v.How == storage.Memory:
			v.dir = r.tmpfsDir(i)
			if err := v.Tmpfs.Mount(v.dir); err != nil {
				return err
			}
		case v.place != nil:
			if err := v.place.Prepare(r.notePlaces(v)); err != nil {
				return err
			}
			v.dir = v.place.Work
			if v.How == storage.Remade {
				if err := r.remake(v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// outputDir takes the log of the container's output in, beside where the engine wants it.
const outputDir = ".migrate-output"

// makeOutput makes room for the log of the container's output. The container is registered by now, and goes with all that is in its
// directory if the migration fails.
func (r *receiver) makeOutput(ctx context.Context) error {
	for _, v := range r.volumes {
		if v.How != storage.Output {
			continue
		}
		log, err := r.eng.OutputLog(ctx, r.c)
		if err != nil {
			return err
		}
		if log == "" {
			return errors.New("protocol error: the log of the output of a container without one")
		}
		if err := checkDisk(filepath.Dir(log), v.Bytes); err != nil {
			return err
		}
		v.Path, v.dir = log, filepath.Join(filepath.Dir(log), outputDir)
		if err := os.Mkdir(v.dir, 0o700); err != nil {
			return fmt.Errorf("make room for the log of the container's output: %w", err)
		}
	}
	return nil
}

// showOutput brings the log to where the engine goes on with it.
func (v *volume) showOutput() error {
	if err := v.checkContent(); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(v.dir, v.File), v.Path); err != nil {
		return fmt.Errorf("bring the log of the container's output to its place: %w", err)
	}
	if err := os.RemoveAll(v.dir); err != nil {
		return fmt.Errorf("bring the log of the container's output to its place: %w", err)
	}
	return nil
}

// notePlaces returns what makes the migration's note say that a place is, or is to be, in use.
func (r *receiver) notePlaces(v *volume) func() error {
	return func() error {
		if !slices.Contains(r.note.Places, v.place) {
			r.note.Places = append(r.note.Places, v.place)
		}
		return r.note.rewrite()
	}
}

// remake writes what the container gets of this host.
func (r *receiver) remake(v *volume) error {
	b, err := storage.ResolvConf(r.c.Network.Mode != engine.NetworkHost, "", "")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(v.dir, v.File), b, 0o644); err != nil {
		return fmt.Errorf("make %s: %w", v.Mount, err)
	}
	return nil
}

func (r *receiver) tmpfsDir(n int) string {
	return filepath.Join(r.stage.Dir(), "tmpfs", strconv.Itoa(n))
}

// external are the declarations by which CRIU finds the container's memory file systems.
func (r *receiver) external() (x []string) {
	for i, v := range r.volumes {
		if v.How == storage.Memory {
			x = append(x, v.Tmpfs.RestoreExternal(r.tmpfsDir(i))...)
		}
	}
	return x
}

// tmpfsBytes is what the container's memory file systems hold.
func (r *receiver) tmpfsBytes() (sum int64) {
	for _, v := range r.offer.Volumes {
		if v.How == storage.Memory && sane(v.Bytes) {
			sum += v.Bytes
		}
	}
	return sum
}

// takeVolume applies one round of a volume.
func (s *streams) takeVolume(ctx context.Context, st *transfer.StreamReader) error {
	var meta proto.VolumeMeta
	if err := json.Unmarshal(st.Meta(), &meta); err != nil {
		return fmt.Errorf("decode round of a volume: %w", err)
	}
	if meta.Volume < 0 || meta.Volume >= len(s.r.volumes) {
		return fmt.Errorf("protocol error: there is no volume %d", meta.Volume)
	}
	v := s.r.volumes[meta.Volume]
	if meta.Frozen {
		// its stream may overtake FROZEN on another lane, and come while the round before is being applied
		if err := s.wait(ctx, "FROZEN", func() bool { return s.frozen && !v.applying }); err != nil {
			return err
		}
	}
	if err := s.claim(v.String(), func() bool {
		return s.rounds && !v.applying && !s.isSealed && s.frozen == meta.Frozen && v.Comes() && v.dir != ""
	}, func() { v.applying = true }); err != nil {
		return err
	}
	if _, err := layers.Apply(ctx, st, v.dir, v.limit); err != nil {
		return fmt.Errorf("take in %s: %w", &v.Volume, err)
	}
	s.update(func() { v.applying, v.whole = false, meta.Frozen || v.How == storage.Memory && v.Tmpfs.ReadOnly })
	if meta.Frozen {
		s.add(st)
		return nil
	}
	return proto.Send(ctx, s.r.sess, proto.Applied, proto.AppliedMsg{Round: meta.Round})
}

// showVolumes brings everything to where the restored container finds it. Nothing more is taken by now.
func (r *receiver) showVolumes() error {
	for i, v := range r.volumes {
		if v.Comes() && !v.whole {
			return fmt.Errorf("protocol error: sealed without a last round of %s", &v.Volume)
		}
		switch {
		case v.How == storage.Memory:
			if err := v.Tmpfs.Seal(r.tmpfsDir(i)); err != nil {
				return err
			}
		case v.How == storage.Output:
			if err := v.showOutput(); err != nil {
				return err
			}
		case v.place != nil:
			if err := v.checkContent(); err != nil {
				return err
			}
			if err := v.place.Publish(r.notePlaces(v)); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkContent: what came for a file must be one, since its name is shown to the container and the host.
func (v *volume) checkContent() error {
	if v.Type != storage.File {
		return nil
	}
	info, err := os.Lstat(filepath.Join(v.dir, v.File))
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is no regular file: %v", info.Mode())
	}
	if err != nil {
		return fmt.Errorf("the content of %s did not come as it should: %w", &v.Volume, err)
	}
	return nil
}

// dropVolumes takes back makeVolumes, last one first, since one may have made a directory that a later one is in.
func (r *receiver) dropVolumes() error {
	var errs []error
	for i, v := range slices.Backward(r.volumes) {
		if v.How == storage.Memory {
			errs = append(errs, storage.Unmount(r.tmpfsDir(i)))
		} else if v.place != nil {
			errs = append(errs, v.place.Undo())
		}
	}
	return errors.Join(errs...)
}

// keepVolumes ends what is only good for a move that may fail. The container runs here.
func (r *receiver) keepVolumes() error {
	var errs []error
	for i, v := range r.volumes {
		switch {
		case v.How == storage.Memory:
			errs = append(errs, storage.Unmount(r.tmpfsDir(i)))
		case v.place != nil:
			errs = append(errs, v.place.Keep())
			if r.opt.Left != "" {
				errs = append(errs, storage.ForgetLeft(r.opt.Left, v.Path))
			}
		}
	}
	return errors.Join(errs...)
}

// checkKind compares a bind's kind here with that at the source.
func (v *volume) checkKind() error {
	t, err := storage.TypeOf(v.Path)
	if err != nil {
		return nil // the policy says that it is missing
	}
	if v.Type != "" && t != v.Type {
		return &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination, " + v.Path,
			Why:    fmt.Sprintf("it binds %s, which is a %s at the source and a %s here", &v.Volume, v.Type, t),
			Remedy: "make it the same here, or bind another path with --bind OLD:NEW"}
	}
	return nil
}
