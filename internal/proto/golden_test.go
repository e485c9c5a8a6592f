package proto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/network"
	"migrate/internal/preflight"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/storage"
)

var update = flag.Bool("update", false, "write the golden files anew; that is a change of the protocol")

const testID = "0123456789abcdef0123456789abcdef"

var testBlob = engine.Blob{Digest: "sha256:" + strings.Repeat("ab", 32), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Size: 1234}

var testInfo = engine.Info{Name: "containerd", Version: "2.1.4", Runtime: "1.3.3", CRIU: "4.2.1", Snapshotter: "overlayfs", Kernel: "6.12.0", Arch: "amd64", Root: "/var/lib/snapshots"}

// testContainer has every field set.
var testContainer = engine.Container{
	Engine: "containerd", Namespace: "default", ID: "redis", Labels: map[string]string{"tier": "cache"},
	Image:   engine.Image{Name: "example/redis:7", Target: testBlob, Labels: map[string]string{"a": "b"}, Blobs: []engine.Blob{testBlob}, ChainID: "sha256:cd"},
	Runtime: "io.containerd.runc.v2", RuntimeOpts: &engine.TypedAny{TypeURL: "runc.v1.Options", Value: []byte{1, 2}},
	Snapshotter: "overlayfs", SnapshotKey: "redis", SnapLabels: map[string]string{"c": "d"},
	Spec: json.RawMessage(`{"ociVersion":"1.2.1"}`), Extensions: map[string]engine.TypedAny{"x": {TypeURL: "y", Value: []byte{3}}},
	Stdio: engine.Stdio{Stdin: "/in", Stdout: "/out", Stderr: "/err", Terminal: true},
	Network: engine.Network{
		Mode: engine.NetworkCNI, NetNS: "/run/netns/redis", Sysctls: map[string]string{"net.ipv4.ip_forward": "0"},
		Attachments: []engine.Attachment{{
			Network: "mt", ContainerID: "redis", Interface: "eth0", MAC: "02:00:00:00:00:01", IPs: []string{"10.1.2.3/16"}, MTU: 1500,
			Ports: []engine.Port{{Host: 8080, Container: 80, Protocol: "tcp", HostIP: "192.0.2.1"}}, Fresh: true,
		}},
	},
	Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
}

var testFacts = preflight.Host{
	Kernel: "6.12.0", Arch: "amd64", CRIU: "4.2.1", Runc: "1.3.3", CRIUCheck: "no iptables", Capable: true, Root: true, Cgroup: 2,
	Controllers: []string{"memory", "pids"}, CPU: []string{"avx2", "sse4_2"}, Tracking: true,
}

var testFD = 5

var testFinding = preflight.Finding{
	Code: "socket-mptcp", Severity: preflight.Blocks, Side: preflight.Source,
	Thing: preflight.Thing{Pid: 4242, VPid: 7, Comm: "web", FD: &testFD, Path: "/srv", Socket: "MPTCP socket 99"},
	More:  2, Reason: "it cannot be dumped", Remedy: "close it", Link: "https://example.org/1", State: preflight.StillRunning,
}

var testCommit = CommittedMsg{Pid: 4242, SinceGoMS: 12.5, LagMS: 0.5, StepsMS: map[string]float64{"resume": 4}, LogsKeptAt: "/var/log/migrate", Addresses: []string{"10.2.0.9/16"}}

// messages are those with a body, by the names of their golden files.
var messages = map[string]any{
	"offer": OfferMsg{
		ID: testID, Epoch: 7, Container: testContainer, Name: "cache", Source: testInfo, Host: "a",
		Memory: 1 << 26, Files: 4096, Entries: 3, CloseTCP: true, HoldLimit: 2 * time.Minute, Lanes: 4,
		Mode: ModePrecopy, Eager: true, Verify: true, Recover: 10 * time.Minute, Facts: testFacts, Ignore: []string{"cpu-features"},
		Volumes: []storage.Volume{
			{Mount: "/data", How: storage.Copied, Type: storage.Dir, Path: "/srv/data", Name: "data", File: "data.db", Bytes: 8192, Entries: 3},
			{Mount: "/dev/shm", How: storage.Memory, Tmpfs: &storage.Tmpfs{
				Options: []string{"size=65536k"}, ReadOnly: true, Source: "shm", Places: []storage.At{{Mount: "/dev/shm", Root: "/", Key: "migrate-0-0"}}}},
		},
	},
	"prepared": PreparedMsg{Destination: testInfo, Host: "b", ID: "cache", Missing: []engine.Blob{testBlob}, Store: 1 << 27,
		Probes:   []storage.Probe{{Volume: 0, Name: ".migrate-probe-ABCDEFGHIJKLMNOPQRSTUVWXYZ", Nonce: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}},
		Findings: []preflight.Finding{testFinding}},
	"check":   CheckMsg{Offer: OfferMsg{Container: testContainer, Facts: testFacts}, Canary: true},
	"checked": CheckedMsg{Destination: testInfo, Host: "b", ID: "cache", Facts: testFacts, Findings: []preflight.Finding{testFinding}},
	"synced":  SyncedMsg{BlobsStored: 1, BlobBytes: 1234, Shared: []int{0}},
	"applied": AppliedMsg{Round: 1},
	"sealed": SealedMsg{Files: []FileSize{{Name: "pages-1.img", Size: 8192}}, Streams: 3, Root: bytes.Repeat([]byte{0xab}, 32), Remote: 4711,
		Shared: []Shared{{
			ID: 77, Handle: shmem.Handle{VPid: 1, Addr: 0x7f0000000000, FD: 4},
			Windows: []shmem.Window{{VPid: 1, Addr: 0x7f0000001000, Offset: 4096, Len: 8192}},
		}}},
	"ready":  ReadyMsg{RestoreMS: 95.5, Verified: 16384},
	"stored": StoredMsg{Round: 2},
	"frozen": FrozenMsg{Neighbours: []network.Neighbour{{Interface: "eth0", IP: netip.MustParseAddr("10.1.0.1"), MAC: "02:00:00:00:00:02", Router: true}}},
	"fetched": FetchedMsg{
		Fetch: &report.Fetch{DegradedMS: 8123.5, Pages: 4711, Asked: 120, Twice: 8, MedianMS: 1.5, P99MS: 11.5, Reconnects: 1, Wire: 1 << 24}, Lost: "the link stayed broken",
	},
	"released":  ReleasedMsg{Lost: "given up"},
	"resume":    ResumeMsg{ID: testID, Epoch: 7},
	"resumed":   ResumedMsg{State: FetchLost, Why: "the agent died"},
	"done":      DoneMsg{Fill: &report.Fill{MS: 120.5, Pages: 16384, Faults: 12}, Lost: "the pager died"},
	"committed": testCommit,
	"query":     QueryMsg{ID: testID, Epoch: 7},
	"outcome":   OutcomeMsg{ID: testID, Result: OutcomeCommitted, Commit: testCommit, Fetch: FetchOver},
	"abort": fail.Fault{
		Code: fail.Refused, What: "take in the container", Where: "destination, policy", Why: "it binds /srv",
		Remedy: "allow the directory", Log: "/var/log/migrate/x-restore.log", State: "nothing is left here",
	},
	"stream-blob":   testBlob,
	"stream-rw":     RoundMeta{Round: 1, Frozen: true},
	"stream-pages":  FileMeta{Name: "pages-1.img"},
	"stream-memory": MemoryMeta{Round: 2, Streams: 4, Key: []byte("0123456789abcdef")},
	"stream-volume": VolumeMeta{Volume: 1, Round: 2, Frozen: true},
}

// The golden files are what peers of this version send. The code has to write them and to read them.
func TestGoldenMessages(t *testing.T) {
	for name, m := range messages {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(m, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("the message is not what %s has; got:\n%s", path, got)
			}
			back := reflect.New(reflect.TypeOf(m))
			if err := json.Unmarshal(want, back.Interface()); err != nil {
				t.Fatal(err)
			}
			// a specification keeps its white space, so the values are compared once they are written again
			again, err := json.MarshalIndent(back.Interface(), "", "  ")
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("what was read is not what was written: %v\n%s", err, again)
			}
		})
	}
}

// docs/PROTOCOL.md lists every message and stream with its number.
func TestDocumentedKinds(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "PROTOCOL.md"))
	if err != nil {
		t.Fatal(err)
	}
	for k, n := range names {
		if row := fmt.Sprintf("| %d | %s |", k, n); !strings.Contains(string(doc), row) {
			t.Errorf("docs/PROTOCOL.md has no row %q", row)
		}
	}
	for k, n := range map[uint16]string{StreamBlob: "blob", StreamRW: "RW layer", StreamPages: "pages", StreamFiles: "files", StreamMemory: "memory", StreamCheck: "check", StreamPackets: "packets", StreamRemote: "remote pages", StreamRequests: "requests", StreamVolume: "volume"} {
		if row := fmt.Sprintf("| %d | %s |", k, n); !strings.Contains(string(doc), row) {
			t.Errorf("docs/PROTOCOL.md has no row %q", row)
		}
	}
}

func TestRootGolden(t *testing.T) {
	var one, two StreamSum
	one = StreamSum{ID: 3, Kind: StreamPages, Bytes: 4096}
	two = StreamSum{ID: 1, Kind: StreamRW, Bytes: 10}
	for i := range one.Sum {
		one.Sum[i], two.Sum[i] = byte(i), byte(255-i)
	}
	const want = "3c7cb051b96095feb3cb36131dd5257aee1d549ccf8f300e982c991aab4fd579"
	if got := hex.EncodeToString(Root([]StreamSum{one, two})); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !bytes.Equal(Root([]StreamSum{one, two}), Root([]StreamSum{two, one})) {
		t.Error("the root depends on the order in which streams end")
	}
}
