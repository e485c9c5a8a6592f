package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/proto"
	"migrate/transfer"
)

// streams takes in the bulk streams of one migration, each in a goroutine of its own. A stream is only taken in the
// phase it belongs to; a source that opens one early breaks the protocol.
type streams struct {
	r *receiver

	mu       sync.Mutex
	missing  map[string]engine.Blob // blobs still to come
	asked    int
	bytes    int64
	rounds   bool // the root file system is there: RW rounds may come
	frozen   bool // FROZEN came: the image set may come
	applying bool // a round is being applied
	task     bool // a round of the frozen container was applied and the task made
	isSealed bool // the content was verified: nothing more is taken
	checked  bool // the page check came
	sums     []proto.StreamSum
	files    map[string]*imageFile
	changed  chan struct{} // closed and replaced at every change
	err      error
}

// imageFile counts what was placed of one file of the image set.
type imageFile struct {
	f     *os.File
	bytes int64
	end   int64 // the highest offset written, exclusive
}

func newStreams(r *receiver, missing []engine.Blob) *streams {
	s := &streams{r: r, missing: map[string]engine.Blob{}, asked: len(missing), files: map[string]*imageFile{}, changed: make(chan struct{})}
	for _, b := range missing {
		s.missing[b.Digest] = b
	}
	return s
}

// accept runs until the session ends. The first stream that fails fails the migration.
func (s *streams) accept(ctx context.Context) {
	for {
		st, err := s.r.sess.Accept(ctx)
		if err != nil {
			s.fail(err)
			return
		}
		s.r.bg.Go(func() {
			if err := s.take(ctx, st); err != nil {
				st.Discard()
				s.fail(err)
			}
		})
	}
}

func (s *streams) take(ctx context.Context, st *transfer.StreamReader) error {
	switch st.Kind() {
	case proto.StreamBlob:
		return s.takeBlob(ctx, st)
	case proto.StreamRW:
		return s.takeRound(ctx, st)
	case proto.StreamPages:
		return s.takePages(st)
	case proto.StreamFiles:
		return s.takeFiles(st)
	case proto.StreamMemory:
		return s.takeMemory(ctx, st)
	case proto.StreamCheck:
		return s.takeCheck(st)
	case proto.StreamPackets:
		return s.takePackets(st)
	case proto.StreamRemote:
		return s.takeRemote(ctx, st)
	case proto.StreamVolume:
		return s.takeVolume(ctx, st)
	}
	return fmt.Errorf("protocol error: stream of kind %d", st.Kind())
}

// update changes the state and wakes whoever waits for it.
func (s *streams) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// fail ends the migration, whatever the straight way is waiting for.
func (s *streams) fail(err error) {
	s.update(func() {
		if s.err == nil {
			s.err = err
		}
	})
	s.r.cancel(err)
}

// wait returns when ready says so, under the lock, or with the first stream's error.
func (s *streams) wait(ctx context.Context, what string, ready func() bool) error {
	for {
		s.mu.Lock()
		ok, err, changed := ready(), s.err, s.changed
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// claim checks a phase and enters it, under the lock.
func (s *streams) claim(what string, ok func() bool, enter func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok() {
		return fmt.Errorf("protocol error: %s out of turn", what)
	}
	enter()
	return nil
}

// allow is claim without a change.
func (s *streams) allow(what string, ok func() bool) error { return s.claim(what, ok, func() {}) }

func (s *streams) takeBlob(ctx context.Context, st *transfer.StreamReader) error {
	var b engine.Blob
	if err := json.Unmarshal(st.Meta(), &b); err != nil {
		return fmt.Errorf("decode blob: %w", err)
	}
	if err := s.allow("blob "+b.Digest, func() bool { w, ok := s.missing[b.Digest]; return ok && w.Size == b.Size }); err != nil {
		return err
	}
	if err := s.r.eng.IngestBlob(ctx, b, st); err != nil {
		return err
	}
	s.update(func() {
		delete(s.missing, b.Digest)
		s.bytes += b.Size
	})
	return nil
}

// blobsDone waits for all blobs that were asked for.
func (s *streams) blobsDone(ctx context.Context) (proto.SyncedMsg, error) {
	err := s.wait(ctx, "the image", func() bool { return len(s.missing) == 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	return proto.SyncedMsg{BlobsStored: s.asked, BlobBytes: s.bytes}, err
}

func (s *streams) openRounds() { s.update(func() { s.rounds = true }) }
func (s *streams) openImages() { s.update(func() { s.frozen = true }) }

// takeRound applies a round, one at a time. A round of the frozen container is followed by the creation of the task while
// memory still arrives; should another one follow, the task is made anew, so that no file changes under its mount.
func (s *streams) takeRound(ctx context.Context, st *transfer.StreamReader) error {
	var meta proto.RoundMeta
	if err := json.Unmarshal(st.Meta(), &meta); err != nil {
		return fmt.Errorf("decode round: %w", err)
	}
	if meta.Frozen {
		// its stream may overtake FROZEN on another lane, and come while the round before is being applied
		if err := s.wait(ctx, "FROZEN", func() bool { return s.frozen && !s.applying }); err != nil {
			return err
		}
	}
	if err := s.claim("RW layer", func() bool { return s.rounds && !s.applying && !s.isSealed && s.frozen == meta.Frozen }, func() { s.applying = true }); err != nil {
		return err
	}
	if err := s.r.deleteTask(ctx); err != nil {
		return err
	}
	if err := s.r.applyRound(ctx, st); err != nil {
		return err
	}
	if !meta.Frozen {
		s.update(func() { s.applying = false })
		return proto.Send(ctx, s.r.sess, proto.Applied, proto.AppliedMsg{Round: meta.Round})
	}
	if err := s.r.prepareTask(ctx); err != nil {
		return err
	}
	s.update(func() { s.applying, s.task = false, true })
	s.add(st)
	return nil
}

// taskReady says whether a round of the frozen container was applied and its task made.
func (s *streams) taskReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.task && !s.applying
}

func (s *streams) takePages(st *transfer.StreamReader) error {
	var meta proto.FileMeta
	if err := json.Unmarshal(st.Meta(), &meta); err != nil {
		return fmt.Errorf("decode file: %w", err)
	}
	if err := criu.CheckImageName(meta.Name); err != nil {
		return err
	}
	if err := s.allow("memory", func() bool { return s.rounds && !s.isSealed }); err != nil {
		return err
	}
	file, err := s.file(meta.Name)
	if err != nil {
		return err
	}
	for {
		off, placed, p, err := st.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("receive %s: %w", meta.Name, err)
		}
		if !placed || off < 0 || off > s.r.stageSize() {
			return fmt.Errorf("protocol error: data of %s without a place in it", meta.Name)
		}
		if err := s.store(file, p, off); err != nil {
			return fmt.Errorf("store %s: %w", meta.Name, err)
		}
	}
	s.add(st)
	return nil
}

// store writes a piece, unless the content was verified already: a stream that is still open then was not part of it.
func (s *streams) store(file *imageFile, p []byte, off int64) error {
	if err := s.claim("memory", func() bool { return !s.isSealed }, func() {
		file.bytes += int64(len(p))
		file.end = max(file.end, off+int64(len(p)))
	}); err != nil {
		return err
	}
	_, err := file.f.WriteAt(p, off)
	return err
}

// reserve takes memory for the image set before the container stands still: a file of that size, which becomes the first of
// the image set. To the kernel, and even more so to a hypervisor, memory that was used just now comes cheaper than fresh.
func (s *streams) reserve(size int64) error {
	f, err := os.OpenFile(s.reserved(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("reserve memory: %w", err)
	}
	defer f.Close()
	zeros := make([]byte, 1<<20)
	for ; size > 0; size -= int64(len(zeros)) {
		if _, err := f.Write(zeros); err != nil {
			return fmt.Errorf("reserve memory: %w", err)
		}
	}
	return nil
}

func (s *streams) reserved() string { return filepath.Join(s.r.stage.Dir(), "reserved") }

// file opens a file of the image set once for all its streams.
func (s *streams) file(name string) (*imageFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.files[name]; ok {
		return f, nil
	}
	if len(s.files) >= proto.MaxFiles {
		return nil, errors.New("protocol error: too many files in the image set")
	}
	path := filepath.Join(s.r.stage.Images(), name)
	flags := os.O_WRONLY
	if err := os.Rename(s.reserved(), path); errors.Is(err, fs.ErrNotExist) {
		flags |= os.O_CREATE | os.O_EXCL
	} else if err != nil {
		return nil, fmt.Errorf("store the image set: %w", err)
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store the image set: %w", err)
	}
	s.files[name] = &imageFile{f: f}
	return s.files[name], nil
}

func (s *streams) takeFiles(st *transfer.StreamReader) error {
	if err := s.allow("image files", func() bool { return s.rounds && !s.isSealed }); err != nil {
		return err
	}
	if _, err := criu.ReadFiles(st, s.r.stage.Images(), s.r.stageSize()); err != nil {
		return err
	}
	s.add(st)
	return nil
}

// add accounts for a verified stream of the frozen phase.
func (s *streams) add(st *transfer.StreamReader) {
	s.update(func() {
		s.sums = append(s.sums, proto.StreamSum{ID: st.ID(), Kind: st.Kind(), Bytes: st.Size(), Sum: st.Sum()})
	})
}

// sealed waits for everything the seal names and compares.
func (s *streams) sealed(ctx context.Context, msg proto.SealedMsg) error {
	if err := s.wait(ctx, "the image set", func() bool { return len(s.sums) >= msg.Streams }); err != nil {
		return err
	}
	for _, f := range msg.Files {
		if f.Size != 0 {
			continue
		}
		if err := criu.CheckImageName(f.Name); err != nil {
			return err
		}
		if _, err := s.file(f.Name); err != nil { // a file without content comes without a stream
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sums) != msg.Streams || string(proto.Root(s.sums)) != string(msg.Root) {
		return errors.New("the content that arrived is not what the source sealed")
	}
	if len(msg.Files) != len(s.files) {
		return fmt.Errorf("the image set has %d memory files, %d were sealed", len(s.files), len(msg.Files))
	}
	for _, want := range msg.Files {
		got, ok := s.files[want.Name]
		// no byte is sent twice, so that equal count and end mean that there is no hole
		if !ok || got.bytes != want.Size || got.end != want.Size {
			return fmt.Errorf("%s is not complete", want.Name)
		}
		if err := got.f.Truncate(want.Size); err != nil { // what was reserved and not used
			return fmt.Errorf("store %s: %w", want.Name, err)
		}
	}
	s.isSealed = true
	return nil
}

// close releases the files of the image set.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.f.Close()
	}
}
