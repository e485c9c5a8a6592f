package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"migrate/internal/canary"
	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/internal/preflight/gather"
	"migrate/internal/proto"
	"migrate/transfer"
)

// checkSession serves a session that only asks what would stand in the way. It makes nothing and keeps nothing.
func checkSession(ctx context.Context, sess *transfer.Session, opt Options, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, engineLimit)
	defer cancel()
	msg, err := checkOffer(ctx, opt, payload)
	if err != nil {
		f := fail.As(err, fail.Internal, "check the container").With("destination, preflight", "")
		if terr := proto.SendAbort(ctx, sess, f); terr != nil {
			opt.Log.Debug("tell the source", "err", terr)
		}
		_ = sess.Close()
		return f
	}
	if err := proto.Send(ctx, sess, proto.Checked, msg); err != nil {
		return err
	}
	return sess.Close()
}

func checkOffer(ctx context.Context, opt Options, payload []byte) (*proto.CheckedMsg, error) {
	var q proto.CheckMsg
	if err := json.Unmarshal(payload, &q); err != nil {
		return nil, fmt.Errorf("decode %v: %w", proto.Check, err)
	}
	c := q.Offer.Container
	if q.Offer.Name != "" {
		c.Rename(q.Offer.Name)
	}
	eng, err := opt.OpenEngine(ctx, c.Engine, c.Namespace)
	if err != nil {
		return nil, err
	}
	defer eng.Close()
	info, err := eng.Info(ctx)
	if err != nil {
		return nil, err
	}
	r := &receiver{opt: opt, eng: eng, log: opt.Log, offer: q.Offer, c: &c}
	e := &examination{receiver: r, info: info, host: hostFacts(ctx, info, true)}
	if err := e.run(ctx); err != nil {
		return nil, err
	}
	if q.Canary {
		e.canary(ctx)
	}
	preflight.Sort(e.found)
	host, _ := os.Hostname() // only for messages
	return &proto.CheckedMsg{Destination: info, Host: host, ID: c.ID, Facts: *e.host, Findings: e.found}, nil
}

func hostFacts(ctx context.Context, info engine.Info, thorough bool) *preflight.Host {
	return gather.Host(ctx, gather.Versions{Kernel: info.Kernel, Arch: info.Arch, CRIU: info.CRIU, Runc: info.Runtime}, thorough)
}

// examination is what a destination looks at before a container comes: of a migration that never begins.
type examination struct {
	*receiver
	info  engine.Info
	host  *preflight.Host
	found []preflight.Finding
}

func (e *examination) run(ctx context.Context) error {
	e.found = preflight.JudgeHost(e.host, preflight.Destination)
	for i := range e.found {
		e.found[i].State = preflight.StillRunning
	}
	more, err := compare(&e.offer, e.host)
	if err != nil {
		return err
	}
	e.found = append(e.found, more...)
	if err := e.policy(ctx); err != nil {
		return err
	}
	if e.info.CRIU != "" && e.info.Runtime != "" {
		e.free(ctx)
	}
	way, err := e.eng.RestoreWay(ctx)
	if err != nil {
		return err
	}
	if way != "" {
		e.add("restore-way", preflight.Thing{}, way)
	}
	return e.space()
}

// policy asks what the policy lets in, and whether there is a place for the volumes.
func (e *examination) policy(ctx context.Context) error {
	if err := e.planVolumes(); err != nil {
		e.addFault("policy", fail.As(err, fail.Refused, "take in the container's volumes"))
		return nil
	}
	refusals, err := e.opt.Policy.allRefusals(e.c, e.volumes)
	if err != nil {
		return err
	}
	for _, r := range refusals {
		e.addFault("policy", r)
	}
	if len(refusals) > 0 {
		return nil // nobody is told what is at a place that the policy keeps to itself
	}
	if _, err := e.placeVolumes(ctx); err != nil {
		e.addFault("taken", fail.As(err, fail.Refused, "take in the container's volumes"))
	}
	return nil
}

// compare holds the source's host against this one.
func compare(o *proto.OfferMsg, own *preflight.Host) ([]preflight.Finding, error) {
	spec, limits, err := gather.Spec(o.Container.Spec)
	if err != nil {
		return nil, err
	}
	return preflight.Compare(&o.Facts, own, limits, spec.CgroupMount), nil
}

// free asks the engine whether the container's name, address and the like are free here.
func (e *examination) free(ctx context.Context) {
	if err := e.eng.CheckFree(ctx, e.c); err != nil {
		e.addFault("taken", fail.As(err, fail.Refused, "take in the container").With("", engine.RemedyOf(err)))
	}
}

// space looks for room for memory and files.
func (e *examination) space() error {
	free, err := criu.FreeMemory()
	if err != nil {
		return err
	}
	if need := 2*e.offer.Memory + spaceSlack; need > free {
		e.add("memory", preflight.Thing{}, fmt.Sprintf("%d MiB are needed and %d MiB are free", need>>20, free>>20))
	}
	if e.info.Root == "" {
		return nil
	}
	disk, err := gather.DiskFree(e.info.Root)
	if err != nil {
		return err
	}
	if need := e.offer.Files; need > disk {
		e.add("disk", preflight.Thing{Path: e.info.Root}, fmt.Sprintf("%d MiB are needed and %d MiB are free", need>>20, disk>>20))
	}
	return nil
}

func (e *examination) canary(ctx context.Context) {
	if err := canary.Run(ctx, canary.Options{Dir: e.opt.RunDir, Self: e.opt.Canary}); err != nil {
		e.add("canary", preflight.Thing{}, err.Error())
	}
}

func (e *examination) add(code string, t preflight.Thing, detail string) {
	f := preflight.New(code, preflight.Destination, t, detail)
	f.State = preflight.StillRunning
	e.found = append(e.found, f)
}

// addFault turns a refusal into a finding, with the refusal's own reason and remedy.
func (e *examination) addFault(code string, f *fail.Fault) {
	e.add(code, preflight.Thing{}, "")
	last := &e.found[len(e.found)-1]
	last.Reason = f.Why
	if f.Remedy != "" {
		last.Remedy = f.Remedy
	}
}

// compareHosts refuses what the source's host has and this one lacks, and gives what is only good to know.
func (r *receiver) compareHosts(ctx context.Context, info engine.Info) ([]preflight.Finding, error) {
	if r.offer.Facts.Kernel == "" {
		return nil, nil // of a source that did not look
	}
	fs, err := compare(&r.offer, hostFacts(ctx, info, false))
	if err != nil {
		return nil, err
	}
	var errs []error
	var rest []preflight.Finding
	for _, f := range fs {
		if len(preflight.Blocking([]preflight.Finding{f}, r.offer.Ignore)) == 0 {
			rest = append(rest, f)
			continue
		}
		errs = append(errs, &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination, preflight", Why: f.Code + ": " + f.Reason, Remedy: f.Remedy})
	}
	return rest, errors.Join(errs...)
}
