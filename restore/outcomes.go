package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/transfer"
)

// Outcomes records on disk what became of migrations after GO: one file each, synced before anything depends on it. A
// migration that is asked about and not on record gets a tombstone: it is aborted, and a GO that comes late is refused.
type Outcomes struct {
	dir string
}

// OpenOutcomes keeps the records in dir. A record that is pending belongs to a process that died after GO; what
// becomes of it is for a person to find out, and it stays pending.
func OpenOutcomes(dir string) (*Outcomes, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the record of outcomes: %w", err)
	}
	o := &Outcomes{dir: dir}
	return o, o.prune(time.Now())
}

// keepFor is how long a record is kept: no source asks for so long, and a migration's id is never used again.
const keepFor = 30 * 24 * time.Hour

// prune removes old tombstones, which say no more than that there is no record, and what a crash left of new records.
// What says that a container ran here is kept for ever: a source that is still frozen must not learn otherwise.
func (o *Outcomes) prune(now time.Time) error {
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return fmt.Errorf("prune the record of outcomes: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || now.Sub(info.ModTime()) < keepFor {
			continue
		}
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			if msg, err := o.read(id); err != nil || msg.Result != proto.OutcomeAborted {
				continue
			}
		}
		if err := removeFile(filepath.Join(o.dir, e.Name())); err != nil {
			return fmt.Errorf("prune the record of outcomes: %w", err)
		}
	}
	return nil
}

// Known refuses a migration that is on record already.
func (o *Outcomes) Known(id string) error {
	_, err := o.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errOver()
}

func errOver() error {
	return &fail.Fault{Code: fail.Refused, What: "take in a migration that is over", Where: "destination",
		Why: "its outcome is on record here", Remedy: "start a new one"}
}

// Begin records that GO came. It fails for a migration that has a tombstone: of Begin and Ask, which may be called in
// different processes, the first one decides.
func (o *Outcomes) Begin(id string) error {
	err := o.create(proto.OutcomeMsg{ID: id, Result: proto.OutcomePending})
	if errors.Is(err, fs.ErrExist) {
		return errOver()
	}
	return err
}

// Commit records that the container runs here. fetch is proto.FetchGoesOn if part of its memory is still at the source, else "".
func (o *Outcomes) Commit(id string, c proto.CommittedMsg, fetch string) error {
	return o.replace(proto.OutcomeMsg{ID: id, Result: proto.OutcomeCommitted, Commit: c, Fetch: fetch})
}

// Fetched records what became of memory that was still at the source, of a migration that is committed.
func (o *Outcomes) Fetched(id, state string) error {
	msg, err := o.read(id)
	if err != nil {
		return err
	}
	msg.Fetch = state
	return o.replace(msg)
}

// Abort records that nothing is left of the container here.
func (o *Outcomes) Abort(id string) error {
	return o.replace(proto.OutcomeMsg{ID: id, Result: proto.OutcomeAborted})
}

// Ask tells the outcome, and makes the tombstone of a migration that has none.
func (o *Outcomes) Ask(id string) (proto.OutcomeMsg, error) {
	msg, err := o.read(id)
	if !errors.Is(err, fs.ErrNotExist) {
		return msg, err
	}
	msg = proto.OutcomeMsg{ID: id, Result: proto.OutcomeAborted}
	if err = o.create(msg); errors.Is(err, fs.ErrExist) {
		return o.read(id) // a GO came first
	}
	return msg, err
}

func (o *Outcomes) path(id string) string { return filepath.Join(o.dir, id+".json") }

func (o *Outcomes) read(id string) (msg proto.OutcomeMsg, err error) {
	b, err := os.ReadFile(o.path(id))
	if err != nil {
		return msg, fmt.Errorf("read outcome: %w", err)
	}
	if err := json.Unmarshal(b, &msg); err != nil {
		return msg, fmt.Errorf("read outcome %s: %w", o.path(id), err)
	}
	return msg, nil
}

// create makes a migration's first record. fs.ErrExist says that there is one.
func (o *Outcomes) create(msg proto.OutcomeMsg) error { return o.put(msg, os.Link) }

// replace changes the record, which only the process that made it does.
func (o *Outcomes) replace(msg proto.OutcomeMsg) error { return o.put(msg, os.Rename) }

// put writes a record so that a crash leaves all of it or nothing, and moves it to its place.
func (o *Outcomes) put(msg proto.OutcomeMsg, place func(from, to string) error) error {
	b, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encode outcome: %w", err)
	}
	f, err := os.CreateTemp(o.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("record outcome: %w", err)
	}
	defer os.Remove(f.Name()) // after a rename there is nothing to remove
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("record outcome: %w", err)
	}
	if err := place(f.Name(), o.path(msg.ID)); err != nil {
		return fmt.Errorf("record outcome: %w", err)
	}
	d, err := os.Open(o.dir)
	if err != nil {
		return fmt.Errorf("record outcome: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("record outcome: %w", err)
	}
	return nil
}

// answer serves a session that only asks for an outcome.
func answer(ctx context.Context, sess *transfer.Session, o *Outcomes, payload []byte) error {
	var q proto.QueryMsg
	if err := json.Unmarshal(payload, &q); err != nil || !migrationID.MatchString(q.ID) {
		err := fmt.Errorf("protocol error: malformed %v", proto.Query)
		sess.Abort(err)
		return err
	}
	msg, err := o.Ask(q.ID)
	if err != nil {
		sess.Abort(err)
		return err
	}
	if err := proto.Send(ctx, sess, proto.Outcome, msg); err != nil {
		return err
	}
	return sess.Close()
}
