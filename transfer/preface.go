package transfer

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Role says which end of a migration this side is.
type Role uint8

// Roles. The source speaks first.
const (
	Source      Role = 1
	Destination Role = 2
)

func (r Role) String() string {
	switch r {
	case Source:
		return "source"
	case Destination:
		return "destination"
	default:
		return fmt.Sprintf("role %d", uint8(r))
	}
}

// status is a destination's answer to a preface.
type status uint16

const (
	statusOK           status = 0
	statusVersion      status = 1
	statusUnauthorized status = 2
	statusTokenUsed    status = 3
	statusTokenExpired status = 4
	statusTokenProof   status = 5
	statusBusy         status = 6
	statusJoin         status = 7
	statusMalformed    status = 8
)

// refusals gives every refusal the error both sides report.
var refusals = map[status]error{
	statusVersion:      ErrVersion,
	statusUnauthorized: fmt.Errorf("%w: the destination does not know this source's key", ErrUnauthorized),
	statusTokenUsed:    fmt.Errorf("%w: %w", ErrUnauthorized, ErrTokenUsed),
	statusTokenExpired: fmt.Errorf("%w: %w", ErrUnauthorized, ErrTokenExpired),
	statusTokenProof:   fmt.Errorf("%w: wrong proof of the enrolment token", ErrUnauthorized),
	statusBusy:         ErrBusy,
	statusJoin:         fmt.Errorf("%w: the lane belongs to no session that waits for it", ErrUnauthorized),
	statusMalformed:    ErrProtocol,
}

// prefaceMagic begins every preface. Its first and last bytes are there to be
// mangled by anything on the way that takes the pipe for a terminal or text.
const prefaceMagic = "\x89MGRT\r\n\x1a"

const (
	prefaceSize   = 128
	sessionIDSize = 16
	joinSize      = 32
	tokenIDSize   = 16
	proofSize     = 32
)

// Flags of a preface.
const (
	prefaceProof = 0x01 // token id and proof are set
	prefaceKnown = prefaceProof
)

// preface is the first thing each side sends on a lane. Its size and the place
// of its fields are the same in all versions of the protocol.
//
//	  0 magic       8  \x89 M G R T \r \n \x1a
//	  8 min         2  lowest version the sender speaks
//	 10 max         2  highest version
//	 12 chosen      2  destination: version of this session, else 0
//	 14 status      2  destination: 0 or why it refuses
//	 16 role        1  1 source, 2 destination
//	 17 lane        1  index of this lane
//	 18 lanes       1  how many lanes the session has
//	 19 flags       1  1: token id and proof are set
//	 20 dead after  4  milliseconds of silence after which the sender gives up
//	 24 session    16  id, drawn by the source
//	 40 join       32  lane 0: drawn by the destination; others: shown by the source
//	 72 token id   16
//	 88 proof      32
//	120 reserved    8  zero
type preface struct {
	versions  VersionRange
	chosen    uint16
	status    status
	role      Role
	lane      uint8
	lanes     uint8
	flags     uint8
	deadAfter uint32
	session   [sessionIDSize]byte
	join      [joinSize]byte
	tokenID   [tokenIDSize]byte
	proof     [proofSize]byte
	reserved  [8]byte
}

func (p preface) bytes() []byte {
	b := make([]byte, 0, prefaceSize)
	b = append(b, prefaceMagic...)
	b = binary.BigEndian.AppendUint16(b, p.versions.Min)
	b = binary.BigEndian.AppendUint16(b, p.versions.Max)
	b = binary.BigEndian.AppendUint16(b, p.chosen)
	b = binary.BigEndian.AppendUint16(b, uint16(p.status))
	b = append(b, uint8(p.role), p.lane, p.lanes, p.flags)
	b = binary.BigEndian.AppendUint32(b, p.deadAfter)
	b = append(b, p.session[:]...)
	b = append(b, p.join[:]...)
	b = append(b, p.tokenID[:]...)
	b = append(b, p.proof[:]...)
	return append(b, p.reserved[:]...)
}

// parsePreface takes a preface apart. It checks the magic alone: what else is
// wrong may be so because the peer is of another version, which comes first.
func parsePreface(b []byte) (preface, error) {
	var p preface
	if len(b) != prefaceSize || string(b[:8]) != prefaceMagic {
		return p, protocolErrorf("peer does not speak this protocol, it began with %q", b[:min(len(b), 32)])
	}
	p.versions.Min = binary.BigEndian.Uint16(b[8:])
	p.versions.Max = binary.BigEndian.Uint16(b[10:])
	p.chosen = binary.BigEndian.Uint16(b[12:])
	p.status = status(binary.BigEndian.Uint16(b[14:]))
	p.role, p.lane, p.lanes, p.flags = Role(b[16]), b[17], b[18], b[19]
	p.deadAfter = binary.BigEndian.Uint32(b[20:])
	copy(p.session[:], b[24:])
	copy(p.join[:], b[40:])
	copy(p.tokenID[:], b[72:])
	copy(p.proof[:], b[88:])
	copy(p.reserved[:], b[120:])
	return p, nil
}

// check holds what versions this side knows against the fields of a preface
// whose sender has the given role.
func (p preface) check(from Role) error {
	switch {
	case p.role != from:
		return protocolErrorf("peer is a %v too", p.role)
	case p.lanes < 1 || p.lanes > MaxLanes:
		return limitExceeded("lanes of a session", uint64(p.lanes), MaxLanes)
	case p.lane >= p.lanes:
		return protocolErrorf("lane %d of %d", p.lane, p.lanes)
	case p.flags&^prefaceKnown != 0 || p.reserved != [8]byte{}:
		return protocolErrorf("preface has reserved bits set")
	}
	return nil
}

// patience is the silence after which the sender of p gives up.
func (p preface) patience() time.Duration {
	return time.Duration(p.deadAfter) * time.Millisecond
}

// chooseVersion is the highest version both ranges hold.
func chooseVersion(local, remote VersionRange) (uint16, error) {
	v := min(local.Max, remote.Max)
	if v < local.Min || v < remote.Min {
		return 0, &VersionError{Local: local, Remote: remote}
	}
	return v, nil
}
