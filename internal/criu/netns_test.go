package criu

import (
	"os"
	"testing"
)

func TestExternalNetNS(t *testing.T) {
	link, err := os.Readlink("/proc/self/ns/net") // net:[4026531840]
	if err != nil {
		t.Fatal(err)
	}
	got, err := ExternalNetNS("/proc/self/ns/net")
	if want := "net" + link[len("net:"):] + ":extRootNetNS"; err != nil || got != want {
		t.Errorf("ExternalNetNS = %q, %v, want %q", got, err, want)
	}
	if _, err := ExternalNetNS("/nonexistent"); err == nil {
		t.Error("ExternalNetNS of nothing")
	}
}
