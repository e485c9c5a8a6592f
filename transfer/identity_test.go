package transfer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentityPersists(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	prints := make(chan string, 8)
	var g testGroup
	for range cap(prints) {
		g.run(func() error {
			id, err := LoadOrCreateIdentity(dir)
			if err == nil {
				prints <- id.Fingerprint()
			}
			return err
		})
	}
	g.wait(t)
	first := <-prints
	for range cap(prints) - 1 {
		if p := <-prints; p != first {
			t.Errorf("two identities: %s and %s", first, p)
		}
	}
	if _, err := ParseFingerprint(first); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(dir, identityFile))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %v", info.Mode())
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestIdentityOthersCanReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadOrCreateIdentity(dir)
	must(t, err)
	must(t, os.Chmod(filepath.Join(dir, identityFile), 0o640))
	_, err = LoadOrCreateIdentity(dir)
	mustBe(t, err, ErrKeyFile)
	if !strings.Contains(err.Error(), "0640") {
		t.Errorf("error does not tell the mode: %v", err)
	}
}

func TestIdentityGarbageIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, identityFile), []byte("no key"), 0o600))
	_, err := LoadOrCreateIdentity(dir)
	mustBe(t, err, ErrKeyFile)
	other := t.TempDir()
	must(t, os.Symlink(filepath.Join(dir, identityFile), filepath.Join(other, identityFile)))
	if _, err := LoadOrCreateIdentity(other); err == nil {
		t.Error("a symbolic link is followed")
	}
}

func TestParseFingerprint(t *testing.T) {
	good := newTestIdentity(t).Fingerprint()
	for _, bad := range []string{"", "SHA256:", good[7:], good + "=", good[:20], strings.Replace(good, "SHA256", "MD5", 1)} {
		if _, err := ParseFingerprint(bad); err == nil {
			t.Errorf("%q is taken for a fingerprint", bad)
		}
	}
}

func TestAuthorizedPeersIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthorizer(dir)
	must(t, err)
	path := filepath.Join(dir, authorizedFile)
	one, two := newTestIdentity(t).Fingerprint(), newTestIdentity(t).Fingerprint()
	allowed := func(p string) bool {
		t.Helper()
		ok, err := a.Allowed(p)
		must(t, err)
		return ok
	}
	if allowed(one) {
		t.Error("allowed without a file")
	}
	must(t, os.WriteFile(path, []byte("# peers\n\n"+one+" rack 1\n"+two), 0o600))
	if !allowed(one) || !allowed(two) {
		t.Error("listed, but not allowed")
	}
	three := newTestIdentity(t).Fingerprint()
	must(t, a.Authorize(three, "rack 3")) // the file has no newline at its end
	must(t, a.Authorize(three, "again"))
	if !allowed(two) || !allowed(three) {
		t.Error("added, but not allowed")
	}
	text, err := os.ReadFile(path)
	must(t, err)
	if strings.Count(string(text), three) != 1 {
		t.Errorf("file is now\n%s", text)
	}
	must(t, os.WriteFile(path, nil, 0o600))
	if allowed(one) {
		t.Error("removed, but allowed")
	}
	if err := a.Authorize(one, "a\nb"); err == nil {
		t.Error("a comment brought a line of its own")
	}
}

func TestAuthorizedPeersMustBeSound(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthorizer(dir)
	must(t, err)
	path, one := filepath.Join(dir, authorizedFile), newTestIdentity(t).Fingerprint()
	must(t, os.WriteFile(path, []byte(one+"\nnonsense\n"), 0o600))
	if ok, err := a.Allowed(one); ok || err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("bad line: %v, %v", ok, err)
	}
	must(t, os.WriteFile(path, []byte(one+"\n"), 0o600))
	must(t, os.Chmod(path, 0o666))
	_, err = a.Allowed(one)
	mustBe(t, err, ErrKeyFile)
}

func TestKnownPeers(t *testing.T) {
	p, err := NewPeers(t.TempDir())
	must(t, err)
	one, two := newTestIdentity(t).Fingerprint(), newTestIdentity(t).Fingerprint()
	must(t, p.Remember("Host.Example.:7000", one))
	must(t, p.Remember("[::1]:7000", one))
	must(t, p.Remember("host.example:7000", two))
	for addr, want := range map[string]string{"HOST.example:7000": two, "[::1]:7000": one, "host.example:7001": ""} {
		if got, err := p.Lookup(addr); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
	text, err := os.ReadFile(p.path)
	must(t, err)
	if strings.Count(string(text), "\n") != 2 {
		t.Errorf("file is now\n%s", text)
	}
}
