package transfer

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Enrolment tokens let a destination admit a source it has never seen, and
// let that source recognise the destination: the token names the
// destination's key and holds a secret. The secret itself is never sent; the
// source proves it for the one TLS connection between the two keys.

const (
	tokenPrefix     = "mgt1-"
	tokenVersion    = 1
	tokenSecretSize = 16
	tokenCheckSize  = 4
	tokenSize       = 1 + sha256.Size + tokenSecretSize + 8 + tokenCheckSize
	proofContext    = "migrate enrolment 1"
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// TokenRecord is a destination's memory of a token it gave out.
type TokenRecord struct {
	// Expires is when the token stops being accepted.
	Expires time.Time
	secret  [tokenSecretSize]byte
}

// ID names the token's record: hex of a hash of its secret.
func (r TokenRecord) ID() string { return fmt.Sprintf("%x", tokenID(r.secret)) }

// NewToken draws a token with which one source may enrol at the destination
// id until ttl is over. The text goes to the source's operator, over a channel
// both trust; the record to Authorizer.AddToken, without which it is worthless.
func NewToken(id *Identity, ttl time.Duration) (text string, rec TokenRecord, err error) {
	if ttl <= 0 {
		return "", rec, fmt.Errorf("make enrolment token: lifetime %v is not positive", ttl)
	}
	fp, err := ParseFingerprint(id.Fingerprint())
	if err != nil {
		return "", rec, fmt.Errorf("make enrolment token: %w", err)
	}
	rec.Expires = time.Now().Add(ttl).Truncate(time.Second)
	if _, err := rand.Read(rec.secret[:]); err != nil {
		return "", rec, fmt.Errorf("make enrolment token: %w", err)
	}
	return token{fingerprint: fp, secret: rec.secret, expires: rec.Expires}.text(), rec, nil
}

// token is what a token's text says.
type token struct {
	fingerprint [sha256.Size]byte // of the destination
	secret      [tokenSecretSize]byte
	expires     time.Time
}

// text is the prefix and the base32 of version, fingerprint, secret, expiry
// as Unix seconds, and the first bytes of the SHA-256 of all that, which
// catches mistakes in copying.
func (t token) text() string {
	b := append([]byte{tokenVersion}, t.fingerprint[:]...)
	b = append(b, t.secret[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.expires.Unix()))
	sum := sha256.Sum256(b)
	return tokenPrefix + tokenEncoding.EncodeToString(append(b, sum[:tokenCheckSize]...))
}

// parseToken reads a token's text. Its errors match ErrToken and never quote
// the text, which is a secret.
func parseToken(text string) (token, error) {
	var t token
	body, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(text)), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("%w: it does not begin with %s", ErrToken, tokenPrefix)
	}
	b, err := tokenEncoding.DecodeString(body)
	if err != nil || len(b) != tokenSize {
		return t, fmt.Errorf("%w: it is cut short or has wrong characters", ErrToken)
	}
	content, check := b[:tokenSize-tokenCheckSize], b[tokenSize-tokenCheckSize:]
	sum := sha256.Sum256(content)
	if string(sum[:tokenCheckSize]) != string(check) {
		return t, fmt.Errorf("%w: its checksum is wrong", ErrToken)
	}
	if b[0] != tokenVersion {
		return t, fmt.Errorf("%w: version %d is unknown", ErrToken, b[0])
	}
	copy(t.fingerprint[:], b[1:])
	copy(t.secret[:], b[1+sha256.Size:])
	t.expires = time.Unix(int64(binary.BigEndian.Uint64(b[1+sha256.Size+tokenSecretSize:])), 0)
	return t, nil
}

// tokenID names a token without giving its secret away.
func tokenID(secret [tokenSecretSize]byte) (id [tokenIDSize]byte) {
	sum := sha256.Sum256(append([]byte("migrate token id 1"), secret[:]...))
	copy(id[:], sum[:])
	return id
}

// tokenProof shows knowledge of secret on the connection that exported
// material, between these two keys and no others.
func tokenProof(secret [tokenSecretSize]byte, material []byte, source, destination [sha256.Size]byte) (proof [proofSize]byte) {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(proofContext))
	mac.Write(material)
	mac.Write(source[:])
	mac.Write(destination[:])
	copy(proof[:], mac.Sum(nil))
	return proof
}
