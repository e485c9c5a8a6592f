package criu

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// A clockface is what of a timer matters here.
type clockface struct {
	left, period, ticks uint64 // ns, ns, expirations that were not read
	flags               uint32
}

func (c clockface) entry() *fdinfo.FileEntry {
	const second = 1_000_000_000
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_TIMERFD.Enum(), Id: proto.Uint32(1), Tfd: &timerfd.TimerfdEntry{
		Id: proto.Uint32(1), Flags: proto.Uint32(0), Clockid: proto.Uint32(1), Ticks: proto.Uint64(c.ticks), SettimeFlags: proto.Uint32(c.flags),
		Vsec: proto.Uint64(c.left / second), Vnsec: proto.Uint64(c.left % second),
		Isec: proto.Uint64(c.period / second), Insec: proto.Uint64(c.period % second),
	}}
}

func filesImage(t *testing.T, entries ...*fdinfo.FileEntry) []byte {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, commonMagic)
	b = binary.LittleEndian.AppendUint32(b, openFilesMagic)
	for _, e := range entries {
		record, err := proto.MarshalOptions{AllowPartial: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
	}
	return b
}

func TestMendTimers(t *testing.T) {
	const absolute, cancelled = unix.TFD_TIMER_ABSTIME, unix.TFD_TIMER_CANCEL_ON_SET
	for name, tt := range map[string]struct{ is, want clockface }{
		"running":                      {clockface{left: 5, period: 20}, clockface{left: 5, period: 20}},
		"switched off":                 {clockface{}, clockface{}},
		"switched off with a period":   {clockface{period: 20}, clockface{period: 20}},
		"expired, periodic":            {clockface{period: 1_500_000_000, ticks: 1}, clockface{left: 1_500_000_000, period: 1_500_000_000, ticks: 1}},
		"expired once":                 {clockface{ticks: 1}, clockface{ticks: 1}},
		"absolute, expired":            {clockface{ticks: 1, flags: absolute}, clockface{ticks: 1}},
		"absolute, expired and read":   {clockface{flags: absolute}, clockface{}},
		"absolute, running":            {clockface{left: 7, flags: absolute}, clockface{left: 7}},
		"absolute, expired, periodic":  {clockface{period: 9, ticks: 2, flags: absolute}, clockface{left: 9, period: 9, ticks: 2}},
		"cancelled by the clock":       {clockface{left: 7, flags: absolute | cancelled}, clockface{left: 7, flags: absolute | cancelled}},
		"expired, was to be cancelled": {clockface{ticks: 1, flags: absolute | cancelled}, clockface{ticks: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			other := &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTFD.Enum(), Id: proto.Uint32(2)}
			dir := t.TempDir()
			path := filepath.Join(dir, "files.img")
			if err := os.WriteFile(path, filesImage(t, other, tt.is.entry(), other), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := MendTimers(dir); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if want := filesImage(t, other, tt.want.entry(), other); string(got) != string(want) {
				t.Errorf("got %x\nand not %x", got, want)
			}
		})
	}
}

func TestMendTimersOfBadImages(t *testing.T) {
	if err := MendTimers(t.TempDir()); err != nil {
		t.Errorf("no files: %v", err)
	}
	good := filesImage(t, clockface{ticks: 1, period: 3}.entry())
	for name, b := range map[string][]byte{
		"empty": {}, "other magic": make([]byte, 100), "cut off": good[:len(good)-1], "cut off in a length": good[:10],
		"no record": append(good[:8:8], 3, 0, 0, 0, 0xff, 0xff, 0xff),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "files.img"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := MendTimers(dir); !errors.Is(err, ErrImageSet) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
