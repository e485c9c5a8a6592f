package restore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/proto"
	"migrate/internal/storage"
	"migrate/layers"
	"migrate/transfer"
)

// volumeOffer has a container that binds a path, and says how that travels.
func volumeOffer(t *testing.T, source, dest string, volumes ...storage.Volume) func(*proto.OfferMsg) {
	return func(o *proto.OfferMsg) {
		s := decodeSpec(t, o.Container.Spec)
		if source != "" {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"rbind", "rw"}})
		}
		o.Container.Spec = encode(t, s)
		o.Volumes = volumes
	}
}

func TestVolumesOfAPeer(t *testing.T) {
	tmpfs := func(options ...string) storage.Volume {
		return storage.Volume{Mount: "/scratch", How: storage.Memory, Tmpfs: &storage.Tmpfs{Options: options, Places: []storage.At{{Mount: "/scratch", Root: "/", Key: "k"}}}}
	}
	copied := func(path string) storage.Volume {
		return storage.Volume{Mount: "/data", How: storage.Copied, Type: storage.Dir, Path: path}
	}
	const volume = "/var/lib/nerdctl/0a1b2c3d/volumes/other/db/_data"
	for name, c := range map[string]struct {
		change func(*proto.OfferMsg)
		words  string
	}{
		"copy over this host's files":    {volumeOffer(t, "/etc", "/data", copied("/etc")), "binds /etc"},
		"copy to where it does not bind": {volumeOffer(t, "/srv/x", "/data", copied("/etc/cron.d")), "does not bind"},
		"copy to what it does not have":  {volumeOffer(t, "", "", copied("/srv/x")), "does not bind"},
		"volume of another namespace":    {volumeOffer(t, volume, "/data", copied(volume)), "binds " + volume},
		"two at one place":               {volumeOffer(t, "/srv/x", "/data", copied("/srv/x"), copied("/srv/x")), "two volumes"},
		"this host's file as an engine's": {volumeOffer(t, "/etc/shadow", "/data",
			storage.Volume{Mount: "/data", How: storage.Present, Type: storage.File, Path: "/etc/shadow"}), "binds /etc/shadow"},
		"option that reaches further": {volumeOffer(t, "", "", tmpfs("size=1m", "mpol=bind:0")), "option"},
		"configuration of CRIU": {func(o *proto.OfferMsg) {
			v := tmpfs()
			v.Tmpfs.Places[0].Key = "k\naction-script /bin/evil"
			volumeOffer(t, "", "", v)(o)
		}, "place"},
		"too many": {volumeOffer(t, "", "", make([]storage.Volume, storage.MaxVolumes+1)...), "257 volumes"},
		"tmpfs for which there is no memory": {func(o *proto.OfferMsg) {
			v := tmpfs()
			v.Bytes = 1 << 48
			volumeOffer(t, "", "", v)(o)
		}, "MiB are"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.offer(c.change)
			b.refused(c.words)
		})
	}
}

// A volume is taken in its turn and whole, or nothing of the container is.
func TestVolumeStreamsOutOfTurn(t *testing.T) {
	send := func(b *bench, n int, frozen bool) {
		dir := b.t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o600); err != nil {
			b.t.Fatal(err)
		}
		b.stream(proto.StreamVolume, proto.VolumeMeta{Volume: n, Frozen: frozen}, func(w *transfer.StreamWriter) error {
			_, _, err := layers.WriteDelta(b.ctx, w, dir, nil, layers.Options{})
			return err
		})
	}
	mem := storage.Volume{Mount: "/scratch", How: storage.Memory, Tmpfs: &storage.Tmpfs{Options: []string{"size=1m"}, Places: []storage.At{{Mount: "/scratch", Root: "/", Key: "k"}}}}
	for name, c := range map[string]struct {
		play  func(b *bench)
		words string
	}{
		"one that was not offered": {func(b *bench) { send(b, 1, false) }, "no volume 1"},
		"negative":                 {func(b *bench) { send(b, -1, false) }, "no volume -1"},
		"frozen state before all": {func(b *bench) {
			b.say(proto.Frozen, nil)
			b.round(true)
			b.pages("pages-1.img", 0, make([]byte, 8192))
			b.files("core-1.img")
			b.seal(nil)
		}, "without a last round of tmpfs at /scratch"},
		"running state after the freeze": {func(b *bench) {
			b.say(proto.Frozen, nil)
			b.round(true)
			// until FROZEN, which comes another way, has been heard
			for end := time.Now().Add(patience); b.sess.Err() == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				send(b, 0, false)
			}
		}, "out of turn"},
		"more than it holds": {func(b *bench) {
			dir := b.t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte(strings.Repeat("x", 2<<20)), 0o600); err != nil {
				b.t.Fatal(err)
			}
			b.stream(proto.StreamVolume, proto.VolumeMeta{}, func(w *transfer.StreamWriter) error {
				_, _, err := layers.WriteDelta(b.ctx, w, dir, nil, layers.Options{})
				return err
			})
		}, "no space"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.start()
			b.offer(volumeOffer(t, "", "", mem))
			b.hear(proto.Prepared)
			b.blobs()
			b.say(proto.Sent, nil)
			b.hear(proto.Synced)
			c.play(b)
			b.refused(c.words)
		})
	}
}

// What CRIU is told to mount is there when it restores.
func TestMemoryFileSystemIsReady(t *testing.T) {
	b := newBench(t)
	var found string
	b.dst.HoldRestore = nil
	b.start()
	v := storage.Volume{Mount: "/scratch", How: storage.Memory, Tmpfs: &storage.Tmpfs{
		Options: []string{"size=1m", "mode=1700"}, Places: []storage.At{{Mount: "/scratch", Root: "/", Key: "migrate-0-0"}, {Mount: "/more", Root: "/sub", Key: "migrate-0-1"}}}}
	b.offer(volumeOffer(t, "", "", v))
	b.hear(proto.Prepared)
	b.blobs()
	b.say(proto.Sent, nil)
	b.hear(proto.Synced)
	conf, err := os.ReadFile(filepath.Join(b.run, "criu", testID+".conf"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(conf)) {
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "external mnt[migrate-0-0]:"); ok {
			found = at
		}
	}
	if found == "" || !strings.Contains(string(conf), "external mnt[migrate-0-1]:"+found+"/sub\n") {
		t.Fatalf("the configuration is\n%s", conf)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	b.stream(proto.StreamVolume, proto.VolumeMeta{Round: 1}, func(w *transfer.StreamWriter) error {
		_, _, err := layers.WriteDelta(b.ctx, w, dir, nil, layers.Options{})
		return err
	})
	b.hear(proto.Applied)
	if got, err := os.ReadFile(filepath.Join(found, "f")); err != nil || string(got) != "content" {
		t.Errorf("there is %q, %v", got, err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if !strings.Contains(string(mounts), " "+found+" tmpfs rw,relatime,size=1024k,mode=1700") {
		t.Errorf("mounted is\n%s", mounts)
	}
	b.sess.Abort(os.ErrClosed)
	b.refused("")
}
