package transfer

import (
	"errors"
	"fmt"
	"io"
)

// refusal is why a destination turns a source away. Both sides report it: the
// source as what it was answered, the destination as what it decided.
type refusal struct {
	status status
	cause  error
	peer   bool // the peer decided
}

func (e *refusal) Error() string {
	if e.peer {
		return fmt.Sprintf("destination refused the session: %v", e.cause)
	}
	return fmt.Sprintf("refused the peer: %v", e.cause)
}

func (e *refusal) Unwrap() error { return e.cause }

// Is matches ErrRefused at the side that was refused.
func (e *refusal) Is(target error) bool { return e.peer && target == ErrRefused }

// refuse is the decision to turn a source away with status s.
func refuse(s status) error { return &refusal{status: s, cause: refusals[s]} }

// statusOf is what a destination answers when admitting a source failed.
func statusOf(err error) status {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r.status
	case errors.Is(err, ErrVersion):
		return statusVersion
	default:
		return statusMalformed
	}
}

func readPreface(r io.Reader) (preface, error) {
	b := make([]byte, prefaceSize)
	n, err := io.ReadFull(r, b)
	if err != nil && n > 0 && n < len(prefaceMagic)+32 {
		// Most likely a message from a shell or a missing command.
		return preface{}, fmt.Errorf("read preface, got only %q: %w", b[:n], noEOF(err))
	}
	if err != nil {
		return preface{}, fmt.Errorf("read preface: %w", noEOF(err))
	}
	return parsePreface(b)
}

func writePreface(w io.Writer, p preface) error {
	if _, err := w.Write(p.bytes()); err != nil {
		return fmt.Errorf("write preface: %w", err)
	}
	return nil
}

// noEOF turns a clean end where none may be into an unexpected one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// introduce is the source's side of a lane's handshake: it sends mine and
// returns the answer, checked to belong to it.
func introduce(rw io.ReadWriter, mine preface) (preface, error) {
	if err := writePreface(rw, mine); err != nil {
		// The peer may have said why before it hung up.
		answer, readErr := readPreface(rw)
		switch {
		case readErr != nil:
			return preface{}, fmt.Errorf("%w; %w", err, readErr)
		case answer.status != statusOK:
			return answer, refusedBy(mine, answer)
		}
		return preface{}, err
	}
	answer, err := readPreface(rw)
	if err != nil {
		return preface{}, err
	}
	if answer.role != Destination {
		return answer, answer.check(Destination)
	}
	if answer.status != statusOK {
		return answer, refusedBy(mine, answer)
	}
	if answer.chosen < mine.versions.Min || answer.chosen > mine.versions.Max {
		return answer, &VersionError{Local: mine.versions, Remote: answer.versions}
	}
	if err := answer.check(Destination); err != nil {
		return answer, err
	}
	if answer.session != mine.session || answer.lane != mine.lane || answer.lanes != mine.lanes {
		return answer, protocolErrorf("the answer is for another lane or session")
	}
	return answer, nil
}

// refusedBy is the source's error for an answer that refuses.
func refusedBy(mine, answer preface) error {
	cause, known := refusals[answer.status]
	switch {
	case answer.status == statusVersion:
		cause = &VersionError{Local: mine.versions, Remote: answer.versions}
	case !known:
		cause = fmt.Errorf("unknown reason %d", answer.status)
	}
	return &refusal{status: answer.status, cause: cause, peer: true}
}

// receive is the destination's first half of a lane's handshake: it reads the
// source's preface and settles the version.
func receive(r io.Reader, o Options) (theirs preface, version uint16, err error) {
	theirs, err = readPreface(r)
	if err != nil {
		return theirs, 0, err
	}
	if theirs.role == Destination {
		return theirs, 0, theirs.check(Source)
	}
	version, err = chooseVersion(o.versions, theirs.versions)
	if err != nil {
		return theirs, 0, err
	}
	return theirs, version, theirs.check(Source)
}

// answer is the destination's second half: it admits the lane, or refuses it
// for cause and returns cause. join is for lane 0 alone. A peer that sent no
// preface gets no answer.
func answer(w io.Writer, o Options, theirs preface, version uint16, join [joinSize]byte, cause error) error {
	if theirs == (preface{}) {
		return cause
	}
	reply := preface{
		versions: o.versions, chosen: version, role: Destination,
		lane: theirs.lane, lanes: theirs.lanes, session: theirs.session,
		deadAfter: uint32(o.DeadAfter.Milliseconds()), join: join,
	}
	if cause != nil {
		reply.status, reply.chosen, reply.join = statusOf(cause), 0, [joinSize]byte{}
	}
	if err := writePreface(w, reply); err != nil && cause == nil {
		return err
	}
	return cause
}
