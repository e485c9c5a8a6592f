package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate/internal/engine"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/layers"
	"migrate/transfer"
)

const (
	blobsAtOnce = 4
	// Rounds of the RW layer end when one was quick, since the last delta would hardly be smaller, or when
	// there were enough of them.
	maxRounds  = 4
	quickRound = 200 * time.Millisecond
)

// sync sends what the destination lacks of the image, then rounds of the RW layer, while the container runs.
func (s *sender) sync(ctx context.Context) error {
	if err := s.sendBlobs(ctx); err != nil {
		return err
	}
	removeProbes := s.answerProbes()
	defer removeProbes()
	if err := proto.Send(ctx, s.sess, proto.Sent, nil); err != nil {
		return err
	}
	var synced proto.SyncedMsg
	if err := s.inbox.Recv(ctx, proto.Synced, &synced); err != nil {
		return err
	}
	removeProbes()
	if err := s.sharedVolumes(synced.Shared); err != nil {
		return err
	}
	return s.syncFiles(ctx)
}

// syncFiles sends rounds of the RW layer and of the volumes.
func (s *sender) syncFiles(ctx context.Context) error {
	for range maxRounds {
		began := time.Now()
		s.fileRounds++
		if err := s.sendRound(ctx, s.fileRounds); err != nil {
			return err
		}
		if err := s.inbox.Recv(ctx, proto.Applied, nil); err != nil {
			return err
		}
		if err := s.syncVolumes(ctx); err != nil {
			return err
		}
		if time.Since(began) < quickRound {
			break
		}
	}
	return nil
}

func (s *sender) sendBlobs(ctx context.Context) error {
	known := map[string]engine.Blob{}
	for _, b := range s.c.Image.Blobs {
		known[b.Digest] = b
	}
	var total int64
	for _, b := range s.ready.Missing {
		have, ok := known[b.Digest]
		if !ok || have.Size != b.Size {
			return fmt.Errorf("the destination asks for blob %s, which is not part of the image", b.Digest)
		}
		total += b.Size
	}
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(blobsAtOnce)
	for _, b := range s.ready.Missing {
		g.Go(func() error {
			return s.sendBlob(gctx, known[b.Digest], func(n int) { s.clock.Progress(done.Add(int64(n)), total) })
		})
	}
	return g.Wait()
}

func (s *sender) sendBlob(ctx context.Context, b engine.Blob, sent func(int)) error {
	r, err := s.eng.OpenBlob(ctx, b)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := s.open(ctx, proto.StreamBlob, b, transfer.None) // layers are compressed already
	if err != nil {
		return err
	}
	if _, err := io.Copy(countWriter{w, sent}, r); err != nil {
		w.Reset(resetFailed)
		return fmt.Errorf("send blob %s: %w", b.Digest, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("send blob %s: %w", b.Digest, err)
	}
	st := w.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.rep.Image, st)
	return nil
}

// sendRound streams the RW layer's changes since the round before.
func (s *sender) sendRound(ctx context.Context, round int) error {
	w, err := s.open(ctx, proto.StreamRW, proto.RoundMeta{Round: round}, s.opt.Codec)
	if err != nil {
		return err
	}
	total := s.offer.Files
	idx, _, err := layers.WriteDelta(ctx, w, s.h.Upper, s.index, layers.Options{
		Progress: func(st layers.Stats) { s.clock.Progress(st.Bytes, total) },
	})
	if err != nil {
		w.Reset(resetFailed)
		return fmt.Errorf("read the RW layer: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("send the RW layer: %w", err)
	}
	s.index = idx
	s.countFiles(w)
	return nil
}

func (s *sender) countFiles(w *transfer.StreamWriter) {
	add(&s.rep.Files, w.Stats())
}

// resetFailed is the code with which a stream is given up whose source failed; the reason follows as ABORT.
const resetFailed = 1

// open begins a bulk stream.
func (s *sender) open(ctx context.Context, kind uint16, meta any, c transfer.CodecChoice) (*transfer.StreamWriter, error) {
	b, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encode stream metadata: %w", err)
	}
	return s.sess.OpenStream(ctx, kind, b, transfer.StreamOptions{Lane: -1, Codec: c})
}

type countWriter struct {
	w    io.Writer
	sent func(int)
}

func (c countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.sent(n)
	return n, err
}

// add counts a stream's bytes in a volume.
func add(v *report.Volume, st transfer.StreamStats) {
	v.Raw += int64(st.Raw)
	v.Wire += int64(st.Wire)
}
