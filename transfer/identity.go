package transfer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// identityFile is the name of the file in the state directory that holds key
// and certificate, as PEM.
const identityFile = "identity.pem"

// fingerprintPrefix names the hash of a fingerprint.
const fingerprintPrefix = "SHA256:"

// Identity is an agent's ed25519 key with a certificate for it. The
// certificate is only a vessel for the key: peers go by the key's fingerprint.
type Identity struct {
	cert        tls.Certificate
	fingerprint string
}

// Fingerprint is "SHA256:" and the base64 (no padding) of the SHA-256 of the
// key's SubjectPublicKeyInfo.
func (id *Identity) Fingerprint() string { return id.fingerprint }

// LoadOrCreateIdentity returns the identity kept in stateDir, which is made,
// with the identity, when there is none. Two processes that start at the same
// time get the same one. A key file that others can read is refused with
// ErrKeyFile.
func LoadOrCreateIdentity(stateDir string) (*Identity, error) {
	path := filepath.Join(stateDir, identityFile)
	id, err := loadIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	text, err := newIdentity()
	if err != nil {
		return nil, err
	}
	if err := createFile(path, text); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("store new identity: %w", err)
	}
	return loadIdentity(path)
}

// newIdentity draws a key and returns it with its certificate as PEM.
func newIdentity() ([]byte, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw identity key: %w", err)
	}
	// Nobody checks these fields; a validity is there because there must be one.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "migrate"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make identity certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode identity key: %w", err)
	}
	var out bytes.Buffer
	for _, block := range []*pem.Block{{Type: "PRIVATE KEY", Bytes: der}, {Type: "CERTIFICATE", Bytes: cert}} {
		if err := pem.Encode(&out, block); err != nil {
			return nil, fmt.Errorf("encode identity: %w", err)
		}
	}
	return out.Bytes(), nil
}

func loadIdentity(path string) (*Identity, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("load identity %s: %w: %w", path, ErrKeyFile, err)
	}
	if _, ok := cert.PrivateKey.(ed25519.PrivateKey); !ok {
		return nil, fmt.Errorf("load identity %s: %w: not an ed25519 key", path, ErrKeyFile)
	}
	return &Identity{cert: cert, fingerprint: fingerprintOf(cert.Leaf)}, nil
}

// readPrivate reads a file that only its owner may have access to.
func readPrivate(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrKeyFile, path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o, so others may have read it; make a new key, or set mode 0600 if nobody has", ErrKeyFile, path, perm)
	}
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// createFile makes a file with mode 0600 that appears under its name only
// when it is complete and on disk, and fails with fs.ErrExist if there is one.
func createFile(path string, content []byte) error {
	tmp, err := writeTemp(path, content)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// replaceFile is createFile for a file that may exist.
func replaceFile(path string, content []byte) error {
	tmp, err := writeTemp(path, content)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeTemp writes content beside path, mode 0600, and returns the file's name.
func writeTemp(path string, content []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// fingerprintOf is the fingerprint of a certificate's key.
func fingerprintOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return formatFingerprint(sum)
}

func formatFingerprint(sum [sha256.Size]byte) string {
	return fingerprintPrefix + base64.RawStdEncoding.EncodeToString(sum[:])
}

// ParseFingerprint checks a fingerprint's text form and returns its 32 bytes.
func ParseFingerprint(text string) ([sha256.Size]byte, error) {
	var out [sha256.Size]byte
	body, ok := strings.CutPrefix(text, fingerprintPrefix)
	if !ok {
		return out, fmt.Errorf("fingerprint %q does not begin with %s", text, fingerprintPrefix)
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(body)
	if err != nil || len(raw) != sha256.Size {
		return out, fmt.Errorf("fingerprint %q is not the base64 of %d bytes", text, sha256.Size)
	}
	copy(out[:], raw)
	return out, nil
}
