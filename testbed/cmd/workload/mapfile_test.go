package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMapFile(t *testing.T) {
	for name, damage := range map[string]bool{"sound": false, "damaged": true} {
		path := filepath.Join(t.TempDir(), "mapped")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var out bytes.Buffer
		done := make(chan error, 1)
		go func() { done <- mapFile(ctx, path, 1, &out) }()
		last := make([]byte, 8)
		for written := false; !written && ctx.Err() == nil; { // the first pages, at least once
			if f, err := os.Open(path); err == nil {
				n, _ := f.ReadAt(last, 8)
				written = n == 8 && last[4] > 1
				f.Close()
			}
		}
		if damage {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			// a page that was written stays as it is for the rest of the round: both may be met being written, but not for long
			for len(done) == 0 && ctx.Err() == nil {
				if _, err := f.WriteAt([]byte("damage"), 100*pageSize+80); err != nil {
					t.Fatal(err)
				}
			}
			f.Close()
		} else {
			cancel()
		}
		err := <-done
		var r mapFileResult
		if jerr := json.Unmarshal(out.Bytes(), &r); jerr != nil {
			t.Fatalf("%s: %v: %s", name, jerr, out.String())
		}
		if errors.Is(err, errDamage) != damage || (r.Bad > 0) != damage || damage && r.First != 100 || r.Writes == 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
