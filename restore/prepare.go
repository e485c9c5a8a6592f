package restore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/network"
	"migrate/internal/proto"
	"migrate/layers"
	"migrate/transfer"
)

// Space that is asked for beyond what the source announced, since the container goes on writing until the freeze.
const (
	spaceFactor = 2
	spaceSlack  = 256 << 20
	// confDir holds the CRIU configurations that the specifications of restored containers name. It is not the stage,
	// whose directory ends with the migration.
	confDir = "criu"
)

var migrationID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// prepare checks the offer and everything it asks of this host, and answers with what is missing. The context it
// returns keeps what is registered from the engine's garbage collection.
func (r *receiver) prepare(ctx context.Context) (context.Context, error) {
	if err := r.checkOffer(); err != nil {
		return ctx, err
	}
	if err := r.m.On(handover.EvOffer); err != nil {
		return ctx, err
	}
	var err error
	if r.eng, err = r.opt.OpenEngine(ctx, r.c.Engine, r.c.Namespace); err != nil {
		return ctx, err
	}
	r.push("close engine", func(context.Context) error { return r.eng.Close() })
	if err := r.planVolumes(); err != nil {
		return ctx, err
	}
	r.confAt = filepath.Join(r.opt.RunDir, confDir, r.offer.ID+".conf")
	r.note = incoming{ID: r.offer.ID, Container: *r.c, Stage: filepath.Join(r.opt.RunDir, r.offer.ID), Config: r.confAt}
	if err := r.note.note(r.opt.Incoming); err != nil {
		return ctx, err
	}
	if err := r.makeStage(); err != nil {
		return ctx, err
	}
	if r.spec, err = r.opt.Policy.check(r.c, r.confAt, r.volumes); err != nil {
		return ctx, err
	}
	if r.spec, err = fitLimits(r.spec); err != nil {
		return ctx, err
	}
	probes, err := r.placeVolumes(ctx)
	if err != nil {
		return ctx, err
	}
	info, err := r.eng.Info(ctx)
	if err != nil {
		return ctx, err
	}
	if err := r.checkTools(info); err != nil {
		return ctx, err
	}
	if err := r.eng.CheckFree(ctx, r.c); err != nil {
		return ctx, err
	}
	notes, err := r.compareHosts(ctx, info)
	if err != nil {
		return ctx, err
	}
	if err := criu.Warm(ctx); err != nil {
		return ctx, err
	}
	ctx, undo, err := r.eng.Hold(ctx, r.offer.ID)
	if err != nil {
		return ctx, err
	}
	r.lease = undo
	r.push("end the lease", r.endLease)
	missing, err := r.eng.MissingBlobs(ctx, r.c.Image)
	if err != nil {
		return ctx, err
	}
	if r.c.Network.Own() {
		r.packets = newPackets(r)
	}
	r.streams = newStreams(r, missing)
	r.push("close the image set", func(context.Context) error { r.streams.close(); return nil })
	r.bg.Go(func() { r.streams.accept(ctx) })
	host, _ := os.Hostname() // only for messages
	return ctx, proto.Send(ctx, r.sess, proto.Prepared, proto.PreparedMsg{
		Destination: info, Host: host, ID: r.c.ID, Missing: missing, Store: r.stageSize(), Probes: probes, Findings: notes,
	})
}

// checkTools refuses what this host cannot run for want of the tools.
func (r *receiver) checkTools(info engine.Info) error {
	f := &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination, phase offer"}
	switch {
	case info.CRIU == "":
		f.Why, f.Remedy = "CRIU was not found in the destination agent's PATH", "install criu 4.2 or newer at the destination"
	case info.Runtime == "":
		f.Why, f.Remedy = "runc was not found in the destination agent's PATH", "install runc 1.3 or newer at the destination"
	case info.Arch != r.offer.Source.Arch:
		f.Why = fmt.Sprintf("the source's architecture is %s, the destination's %s", r.offer.Source.Arch, info.Arch)
		f.Remedy = "choose a destination of the same architecture"
	default:
		return nil
	}
	return f
}

// checkOffer takes over the description, under the name it gets here.
func (r *receiver) checkOffer() error {
	o := &r.offer
	switch {
	case !migrationID.MatchString(o.ID):
		return fmt.Errorf("protocol error: migration id %q", o.ID)
	case len(o.Container.Image.Blobs) > proto.MaxBlobs:
		return fmt.Errorf("protocol error: an image of %d blobs", len(o.Container.Image.Blobs))
	case !proto.KnownMode(o.Mode):
		return fmt.Errorf("protocol error: mode %q", o.Mode)
	case !sane(o.Memory) || !sane(o.Files) || !sane(o.Entries):
		return fmt.Errorf("protocol error: impossible sizes in the offer")
	}
	if err := r.opt.Outcomes.Known(o.ID); err != nil {
		return err
	}
	if err := r.checkStays(); err != nil {
		return err
	}
	c := o.Container
	if o.Name != "" && o.Name != c.ID {
		c.Rename(o.Name)
	}
	r.c = &c
	return nil
}

// sane bounds sizes so that no sum of a few overflows.
func sane(n int64) bool { return n >= 0 && n < 1<<50 }

// stageSize is the most that the image set may take, in bytes.
func (r *receiver) stageSize() int64 { return spaceFactor*r.offer.Memory + spaceSlack }

// makeStage reserves memory for the image set.
func (r *receiver) makeStage() error {
	free, err := criu.FreeMemory()
	if err != nil {
		return err
	}
	// image set and restored memory exist side by side for a moment
	if need := 2*r.offer.Memory + r.tmpfsBytes() + spaceSlack; need > free {
		return &fail.Fault{Code: fail.Space, What: "reserve memory for the container", Where: "destination",
			Why:    fmt.Sprintf("%d MiB are needed and %d MiB are free", need>>20, free>>20),
			Remedy: "free memory at the destination or choose another one"}
	}
	if r.stage, err = criu.NewStage(r.opt.RunDir, r.offer.ID, r.stageSize()); err != nil {
		return err
	}
	r.push("free the stage", func(context.Context) error { return r.stage.Remove() })
	hold := []string{criu.ActionPostRestore}
	if r.c.Network.Mode == engine.NetworkManaged {
		hold = append(hold, criu.ActionSetupNamespaces)
	}
	if r.hook, err = criu.NewHook(r.stage.Hook(), hold...); err != nil {
		return err
	}
	r.push("close the hook", func(context.Context) error { r.hook.Close(); return nil })
	if err := os.MkdirAll(filepath.Dir(r.confAt), 0o700); err != nil {
		return fmt.Errorf("make directory for CRIU's configuration: %w", err)
	}
	tcp := criu.TCPEstablished
	if r.offer.CloseTCP {
		tcp = criu.TCPClose
	}
	if err := (criu.Config{TCP: tcp, ActionScript: r.hook.Script(), LazyPages: r.lazy(), WorkDir: r.stage.Work(), External: r.external(), NoCgroups: r.otherCgroups()}).Write(r.confAt); err != nil {
		return err
	}
	r.push("remove CRIU's configuration", func(context.Context) error { return removeFile(r.confAt) })
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// sync stores the image, makes the root file system, registers the container and takes rounds of its RW layer.
func (r *receiver) sync(ctx context.Context) error {
	if err := r.inbox.Recv(ctx, proto.Sent, nil); err != nil {
		return err
	}
	stored, err := r.streams.blobsDone(ctx)
	if err != nil {
		return err
	}
	if stored.Shared, err = r.settleProbes(); err != nil {
		return err
	}
	if err := r.makeVolumes(); err != nil {
		return err
	}
	undo, err := r.eng.PrepareImage(ctx, r.c)
	r.pushUndo("remove the image", undo)
	if err != nil {
		return err
	}
	undo, err = r.eng.Register(ctx, r.c, r.spec)
	r.pushUndo("remove the container record", undo)
	if err != nil {
		return err
	}
	upper, undo, err := r.eng.PrepareRootfs(ctx, r.c)
	r.pushUndo("remove the root file system", undo)
	if err != nil {
		return err
	}
	r.upper = upper
	if err := checkDisk(upper, r.offer.Files); err != nil {
		return err
	}
	if err := r.makeOutput(ctx); err != nil {
		return err
	}
	if err := r.prepareMemory(ctx); err != nil {
		return err
	}
	// before the pager ends: without it a task would read zeros
	r.push("delete the task", r.deleteTask)
	if !r.inPlace() {
		if err := r.streams.reserve(r.offer.Memory); err != nil {
			return err
		}
	}
	r.streams.openRounds()
	return proto.Send(ctx, r.sess, proto.Synced, stored)
}

// checkDisk refuses an RW layer that cannot fit.
func checkDisk(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for free disk at %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; need > free {
		return &fail.Fault{Code: fail.Space, What: "reserve disk for the container's files", Where: "destination, " + dir,
			Why: fmt.Sprintf("%d MiB are needed and %d MiB are free", need>>20, free>>20), Remedy: "free disk at the destination"}
	}
	return nil
}

// applyRound applies one round of the RW layer.
func (r *receiver) applyRound(ctx context.Context, st *transfer.StreamReader) error {
	if _, err := layers.Apply(ctx, st, r.upper, r.opt.Policy.Layers); err != nil {
		return fmt.Errorf("apply the RW layer: %w", err)
	}
	return nil
}

// prepareNetwork makes the network while the source dumps; nothing gets through until GO.
func (r *receiver) prepareNetwork(ctx context.Context, neighbours []network.Neighbour) error {
	// not cancelled half-way: plugins, like shims below, are not good at that, and the undo is
	undo, err := r.eng.SetupNetwork(context.WithoutCancel(ctx), r.c, func(netns string) (err error) {
		if r.lock, err = network.Prelock(netns); err != nil {
			return err
		}
		// a lock keeps its namespace alive
		r.push("let go of the network lock", func(context.Context) error { return r.lock.Close() })
		return nil
	})
	r.pushUndo("remove the network", undo)
	if err == nil && r.c.Network.Mode == engine.NetworkCNI {
		r.attachPackets(r.c.Network.NetNS, neighbours)
	}
	return err
}

func (r *receiver) attachPackets(netns string, neighbours []network.Neighbour) {
	r.netns = netns
	r.push("let go of packets", func(context.Context) error { r.packets.close(); return nil })
	r.packets.attach(netns, neighbours)
}

// lockManaged locks the network namespace of the init process that is being restored. The engine has just filled it, or will do so before
// the processes exist: it is as the engine's runtime has it. No socket is there yet; where it is filled, a peer that sent something in the moment before was
// not answered by anybody but the kernel.
func (r *receiver) lockManaged(init int) (err error) {
	netns := fmt.Sprintf("/proc/%d/ns/net", init)
	if r.lock, err = network.Prelock(netns); err != nil {
		return err
	}
	r.push("let go of the network lock", func(context.Context) error { return r.lock.Close() })
	interfaces, err := network.Interfaces(netns)
	if err != nil {
		return err
	}
	if len(interfaces) == 0 {
		r.unfilled = netns
		return nil
	}
	r.attachPackets(netns, r.frozen.Neighbours)
	return nil
}

// attachFilled does for a namespace that was locked empty what is left to do.
func (r *receiver) attachFilled() {
	if r.unfilled != "" {
		r.attachPackets(r.unfilled, r.frozen.Neighbours)
	}
}

// prepareTask is called when a round of the frozen container was applied. Nothing has looked into the mounted root file
// system by then.
func (r *receiver) prepareTask(ctx context.Context) error {
	undo, err := r.eng.PrepareTask(context.WithoutCancel(ctx), r.c, engine.Checkpoint{ImagePath: r.stage.Images(), WorkPath: r.stage.Work(), Stdio: r.c.Stdio})
	r.mu.Lock()
	r.taskUndo = undo
	r.mu.Unlock()
	return err
}

// deleteTask takes prepareTask back.
func (r *receiver) deleteTask(ctx context.Context) error {
	r.mu.Lock()
	undo := r.taskUndo
	r.taskUndo = nil
	r.mu.Unlock()
	if undo == nil {
		return nil
	}
	return undo(ctx)
}
