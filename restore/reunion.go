package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"migrate/internal/fail"
	"migrate/internal/pager"
	"migrate/internal/proto"
	"migrate/transfer"
)

// Reunions brings sources whose link broke, while part of a container's memory was still with them, together with the migrations
// that wait for them. All sessions of an agent share one.
type Reunions struct {
	mu      sync.Mutex
	waiting map[string]*fetching
}

// NewReunions returns one in which nobody waits.
func NewReunions() *Reunions { return &Reunions{waiting: map[string]*fetching{}} }

// Waiting is how many migrations may have to be come back to.
func (n *Reunions) Waiting() int {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.waiting)
}

func (n *Reunions) add(id string, f *fetching) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[id] = f
}

func (n *Reunions) remove(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.waiting, id)
}

func (n *Reunions) find(id string) *fetching {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[id]
}

// errNotTheSource is a session of somebody who may send here, and who sent something else.
var errNotTheSource = errors.New("another host's key began this migration")

// comeBack serves a session that begins with RESUME: the migration that waits for it takes it over, or it is told what became of that.
func comeBack(ctx context.Context, sess *transfer.Session, opt Options, payload []byte) error {
	var msg proto.ResumeMsg
	if err := json.Unmarshal(payload, &msg); err != nil || !migrationID.MatchString(msg.ID) {
		err := fmt.Errorf("protocol error: malformed %v", proto.Resume)
		sess.Abort(err)
		return err
	}
	if f := opt.Reunions.find(msg.ID); f != nil {
		if f.peer != sess.Peer().Fingerprint {
			sess.Abort(errNotTheSource)
			return fail.New(fail.Auth, "go on with a migration", errNotTheSource)
		}
		select {
		case f.links <- sess: // it is answered there
			return nil
		case <-f.over:
		case <-ctx.Done():
			sess.Abort(context.Cause(ctx))
			return context.Cause(ctx)
		}
	}
	state, err := opt.whatBecame(msg.ID)
	if err != nil {
		sess.Abort(err)
		return err
	}
	if err := proto.Send(ctx, sess, proto.Resumed, state); err != nil {
		return err
	}
	return sess.Close()
}

// whatBecame tells, of a migration for which nobody waits here, what became of the memory that it had left at the source. The agent that
// took it in may have died; then the pager's record is the authority, as soon as there is one.
func (opt Options) whatBecame(id string) (proto.ResumedMsg, error) {
	msg, err := opt.Outcomes.read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return proto.ResumedMsg{State: proto.FetchLost, Why: "the destination has no record of it"}, nil
	case err != nil:
		return proto.ResumedMsg{}, err
	case msg.Result != proto.OutcomeCommitted:
		return proto.ResumedMsg{State: proto.FetchBusy}, nil
	case msg.Fetch == proto.FetchOver, msg.Fetch == proto.FetchLost:
		return proto.ResumedMsg{State: msg.Fetch, Why: lostBefore(msg.Fetch)}, nil
	}
	b, err := os.ReadFile(filepath.Join(opt.LogDir, id+fillSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return proto.ResumedMsg{State: proto.FetchBusy}, nil
	}
	var rec pager.Record
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err != nil {
		return proto.ResumedMsg{}, fmt.Errorf("read the pager's record: %w", err)
	}
	state := proto.ResumedMsg{State: proto.FetchOver}
	if rec.Result != pager.ResultFilled {
		state = proto.ResumedMsg{State: proto.FetchLost, Why: rec.Cause}
	}
	return state, opt.Outcomes.Fetched(id, state.State)
}

func lostBefore(state string) string {
	if state == proto.FetchLost {
		return "the destination had given it up before"
	}
	return ""
}
