package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A crowd counts the streams that are open, and keeps what came.
type crowd struct {
	mu         sync.Mutex
	open, most int
	streams    int
	content    map[string][]byte
	broken     error // that Close of every stream returns
}

type member struct {
	*crowd
	name string
}

func (c *crowd) enter(name string) (Placer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams++
	c.open++
	c.most = max(c.most, c.open)
	return &member{c, name}, nil
}

func (m *member) Place(p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	content := m.content[m.name]
	if need := int(off) + len(p); need > len(content) {
		content = append(content, make([]byte, need-len(content))...)
	}
	copy(content[off:], p)
	m.content[m.name] = content
	return nil
}

func (m *member) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open--
	return m.broken
}

// manyPages makes an image set of many processes. The last file is of several pieces.
func manyPages(t *testing.T, count int) (dir string, want map[string][]byte) {
	dir, want = t.TempDir(), map[string][]byte{}
	for i := range count {
		size := 4096
		if i == count-1 {
			size = 5*chunkSize + 17
		}
		name := fmt.Sprintf("pages-%d.img", i+1)
		want[name] = bytes.Repeat([]byte{byte(i), byte(i >> 8), 3}, size)[:size]
		if err := os.WriteFile(filepath.Join(dir, name), want[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, want
}

// TestFollowManyFiles has more files than a session has room for streams.
func TestFollowManyFiles(t *testing.T) {
	const workers, count = 3, 500
	dir, want := manyPages(t, count)
	complete := make(chan struct{})
	close(complete)
	c := &crowd{content: map[string][]byte{}}
	files, err := Follow(context.Background(), dir, workers, complete, c.enter)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != count || c.streams < count || c.open != 0 || c.most > workers*maxOutlets {
		t.Errorf("%d files on %d streams, %d left open, %d at once", len(files), c.streams, c.open, c.most)
	}
	for name, content := range want {
		if !bytes.Equal(content, c.content[name]) {
			t.Errorf("%s is wrong", name)
		}
	}
}

func TestFollowFailingStream(t *testing.T) {
	dir, _ := manyPages(t, 50)
	complete := make(chan struct{})
	close(complete)
	c := &crowd{content: map[string][]byte{}, broken: errors.New("broken")}
	if _, err := Follow(context.Background(), dir, 3, complete, c.enter); !errors.Is(err, c.broken) {
		t.Errorf("got %v", err)
	}
}
