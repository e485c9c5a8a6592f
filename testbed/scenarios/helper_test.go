package scenarios

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// helper runs what this program is started as inside hosts, under the name scenario-peer.
func helper() (code int, ran bool) {
	if filepath.Base(os.Args[0]) != "scenario-peer" {
		return 0, false
	}
	if err := newerPeer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "scenario-peer:", err)
		return 1, true
	}
	return 0, true
}

// The preface, as docs/PROTOCOL.md has it.
const (
	prefaceSize   = 128
	statusVersion = 1
)

// newerPeer answers a source as a destination would that speaks only later versions of the protocol.
func newerPeer(r io.Reader, w io.Writer) error {
	preface := make([]byte, prefaceSize)
	if _, err := io.ReadFull(r, preface); err != nil {
		return err
	}
	binary.BigEndian.PutUint16(preface[8:], 900) // lowest version
	binary.BigEndian.PutUint16(preface[10:], 901)
	binary.BigEndian.PutUint16(preface[12:], 0) // chosen: none
	binary.BigEndian.PutUint16(preface[14:], statusVersion)
	preface[16] = 2 // destination
	if _, err := w.Write(preface); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}
