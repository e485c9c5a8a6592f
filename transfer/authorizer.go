package transfer

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Files of the destination in the state directory.
const (
	authorizedFile = "authorized_peers"
	tokenDir       = "tokens"
)

// Authorizer decides which sources a destination admits: those in the file
// authorized_peers of its state directory, one "fingerprint comment" a line,
// and those that hold an unused enrolment token. The file is read at each
// decision, so changes to it count at once.
type Authorizer struct {
	dir string
	now func() time.Time
	mu  sync.Mutex // serialises changes of the file by this process
}

// NewAuthorizer returns the Authorizer of a state directory, which it makes
// if need be.
func NewAuthorizer(stateDir string) (*Authorizer, error) {
	if err := os.MkdirAll(filepath.Join(stateDir, tokenDir), 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	return &Authorizer{dir: stateDir, now: time.Now}, nil
}

// Allowed reports whether the key with this fingerprint is admitted. A file
// that others can write or that has a line nobody understands is an error.
func (a *Authorizer) Allowed(fingerprint string) (bool, error) {
	text, err := readTrusted(filepath.Join(a.dir, authorizedFile))
	if err != nil {
		return false, fmt.Errorf("read authorized peers: %w", err)
	}
	found := false
	err = eachLine(text, func(fields []string) error {
		if _, err := ParseFingerprint(fields[0]); err != nil {
			return err
		}
		found = found || fields[0] == fingerprint
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read authorized peers: %w", err)
	}
	return found, nil
}

// Authorize adds a key to authorized_peers, unless it is there already.
func (a *Authorizer) Authorize(fingerprint, comment string) error {
	if _, err := ParseFingerprint(fingerprint); err != nil {
		return fmt.Errorf("authorize peer: %w", err)
	}
	if strings.ContainsAny(comment, "\r\n") {
		return fmt.Errorf("authorize peer: comment %q has several lines", comment)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, err := a.Allowed(fingerprint); known || err != nil {
		return err
	}
	if err := appendLine(filepath.Join(a.dir, authorizedFile), strings.TrimSpace(fingerprint+" "+comment)); err != nil {
		return fmt.Errorf("authorize peer: %w", err)
	}
	return nil
}

// tokenFile is the content of a file in tokens/. A proof is checked with the
// secret itself, so a hash would not do here; hence mode 0600.
type tokenFile struct {
	Version int       `json:"version"`
	Secret  string    `json:"secret"` // hex
	Expires time.Time `json:"expires"`
}

// AddToken makes the destination accept a token, once. Records of expired
// tokens are removed on the way.
func (a *Authorizer) AddToken(rec TokenRecord) error {
	a.dropExpired()
	text, err := json.Marshal(tokenFile{Version: tokenVersion, Secret: hex.EncodeToString(rec.secret[:]), Expires: rec.Expires.UTC()})
	if err != nil {
		return fmt.Errorf("store enrolment token: %w", err)
	}
	if err := createFile(a.tokenPath(rec.ID()), append(text, '\n')); err != nil {
		return fmt.Errorf("store enrolment token: %w", err)
	}
	return nil
}

func (a *Authorizer) tokenPath(id string) string { return filepath.Join(a.dir, tokenDir, id) }

// dropExpired removes what can be read and has expired; the rest is left for
// whoever uses it to stumble over.
func (a *Authorizer) dropExpired() {
	entries, err := os.ReadDir(filepath.Join(a.dir, tokenDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		rec, err := a.loadToken(e.Name())
		if err == nil && !a.now().Before(rec.Expires) {
			os.Remove(a.tokenPath(e.Name()))
		}
	}
}

func (a *Authorizer) loadToken(id string) (TokenRecord, error) {
	var rec TokenRecord
	text, err := readPrivate(a.tokenPath(id))
	if err != nil {
		return rec, err
	}
	var file tokenFile
	if err := json.Unmarshal(text, &file); err != nil {
		return rec, fmt.Errorf("token record %s: %w", id, err)
	}
	secret, err := hex.DecodeString(file.Secret)
	if err != nil || len(secret) != tokenSecretSize || file.Version != tokenVersion {
		return rec, fmt.Errorf("token record %s: unknown version %d or bad secret", id, file.Version)
	}
	copy(rec.secret[:], secret)
	rec.Expires = file.Expires
	return rec, nil
}

// claim is what a source shows of itself at lane 0.
type claim struct {
	source, destination string // fingerprints
	address             string
	material            []byte // exported from the TLS connection
	preface             preface
}

// admit returns nil if the source may come in, a refusal if not, and another
// error when that cannot be found out. A source with a valid token is added
// to authorized_peers, and the token is used up.
func (a *Authorizer) admit(c claim) error {
	known, err := a.Allowed(c.source)
	if err != nil {
		return fmt.Errorf("%w: %w", refuse(statusUnauthorized), err)
	}
	if c.preface.flags&prefaceProof == 0 {
		if known {
			return nil
		}
		return refuse(statusUnauthorized)
	}
	err = a.useToken(c)
	if known {
		// A repeated first contact whose answer got lost, say: the key alone
		// is enough.
		return nil
	}
	if err != nil {
		return err
	}
	comment := fmt.Sprintf("%s enrolled %s", c.address, a.now().UTC().Format(time.RFC3339))
	return a.Authorize(c.source, comment)
}

// useToken checks the proof and uses the token up. Unlinking the record is
// the moment of use: of two that race, one finds it gone.
func (a *Authorizer) useToken(c claim) error {
	id := hex.EncodeToString(c.preface.tokenID[:])
	rec, err := a.loadToken(id)
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(statusTokenUsed)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", refuse(statusTokenUsed), err)
	}
	source, err := ParseFingerprint(c.source)
	if err != nil {
		return err
	}
	destination, err := ParseFingerprint(c.destination)
	if err != nil {
		return err
	}
	want := tokenProof(rec.secret, c.material, source, destination)
	if !hmac.Equal(want[:], c.preface.proof[:]) {
		return refuse(statusTokenProof)
	}
	expired := !a.now().Before(rec.Expires)
	if err := os.Remove(a.tokenPath(id)); err != nil {
		return fmt.Errorf("%w: %w", refuse(statusTokenUsed), err)
	}
	if expired {
		return refuse(statusTokenExpired)
	}
	return syncDir(filepath.Join(a.dir, tokenDir))
}

// readTrusted reads a file of which trust depends on who can write it. A
// missing file is empty.
func readTrusted(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o, so others can change it; remove write permission for group and others", ErrKeyFile, path, perm)
	}
	return os.ReadFile(path)
}

// eachLine calls use with the fields of each line that is neither empty nor a
// comment. Errors name the line.
func eachLine(text []byte, use func(fields []string) error) error {
	scan := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; scan.Scan(); n++ {
		fields := strings.Fields(scan.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := use(fields); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return scan.Err()
}

// appendLine adds a line to a file, which it makes if need be, in one write,
// so that lines others add meanwhile stay whole.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	line += "\n"
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Sync()
}
