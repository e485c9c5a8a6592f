package shim

import (
	"encoding/json"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// The command line of containerd 2.1, and that of 2.4.
var startArgs = []string{"-namespace", "moby", "-address", "/run/containerd/containerd.sock", "-publish-binary", "/usr/bin/containerd", "-id", "web", "-debug", "start"}

func TestInvocation(t *testing.T) {
	v := parseInvocation(startArgs)
	if v != (invocation{id: "web", namespace: "moby", address: "/run/containerd/containerd.sock", debug: true, start: true}) {
		t.Errorf("%+v", v)
	}
	for _, args := range [][]string{{"-namespace", "moby", "-id", "web", "-bundle", "/b", "delete"}, {"-info"}, {"-v"}, {"-namespace", "moby", "-id", "web"}, {"-of-tomorrow", "start"}} {
		if parseInvocation(args).start {
			t.Errorf("%q is a start", args)
		}
	}
}

// TestOldStart turns what containerd before 2.3 says into what the stock shim takes.
func TestOldStart(t *testing.T) {
	t.Setenv("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc")
	v := parseInvocation(startArgs)
	o, err := typeurl.MarshalAnyToProto(&options.Options{ShimCgroup: "/shims", Root: "/run/r"})
	if err != nil {
		t.Fatal(err)
	}
	given, err := proto.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for name, input := range map[string][]byte{"options": given, "nothing": nil} {
		if v.isNew(input) {
			t.Fatalf("%s: taken for a request of the bootstrap API", name)
		}
		out, err := v.request(input)
		if err != nil || !v.isNew(out) {
			t.Fatalf("%s: %v", name, err)
		}
		var p bootapi.BootstrapParams
		if err := proto.Unmarshal(out, &p); err != nil {
			t.Fatal(err)
		}
		if p.ContainerdTtrpcAddress != "/run/containerd/containerd.sock.ttrpc" || p.ContainerdGrpcAddress != v.address || p.LogLevel != bootapi.LogLevel_LOG_LEVEL_DEBUG {
			t.Errorf("%s: %v", name, &p)
		}
		var got options.Options
		if found, err := p.FindExtension(&got); err != nil || found != (input != nil) || found && got.ShimCgroup != "/shims" {
			t.Errorf("%s: options %v, %v, %v", name, &got, found, err)
		}
	}
	if _, err := v.request([]byte("\xff\xff")); err == nil {
		t.Error("options that are none were taken")
	}
}

func TestOldAnswer(t *testing.T) {
	said, err := proto.Marshal(&bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: "unix:///run/containerd/s/1"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := oldAnswer(said)
	var a map[string]any
	if err != nil || json.Unmarshal(out, &a) != nil || a["version"] != 3.0 || a["protocol"] != "ttrpc" || a["address"] != "unix:///run/containerd/s/1" {
		t.Errorf("%s, %v", out, err)
	}
	if _, err := oldAnswer([]byte("containerd-shim: no")); err == nil {
		t.Error("an answer that is none was taken")
	}
}
