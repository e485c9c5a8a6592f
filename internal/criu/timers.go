package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// openFilesMagic is that of the image of all open files (criu/include/magic.h).
const openFilesMagic = 0x56303138

// MendTimers alters the timerfds of an image set, in place, so that CRIU restores them as they were:
//
//   - One that is periodic and has expired since it was last read has no time until its next expiry, because the kernel sets it
//     anew only when it is read. CRIU takes that for a timer that is switched off, and it would never expire again
//     (checkpoint-restore/criu#3162). It gets a whole period.
//   - One that was set to an absolute time, and has expired for good or has less than a second to go, would expire at once, for
//     CRIU adds whole seconds to the time that is left. It becomes one with a relative time: timers may be late, never early,
//     and none expires twice.
func MendTimers(dir string) error {
	path := filepath.Join(dir, "files.img")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing is open
	}
	if err != nil {
		return fmt.Errorf("read the open files of the image set: %w", err)
	}
	mended, changed, err := mendFiles(b)
	if err != nil {
		return fmt.Errorf("timers of the image set: %w", err)
	}
	if !changed {
		return nil
	}
	if err := os.WriteFile(path, mended, 0o600); err != nil {
		return fmt.Errorf("mend the timers of the image set: %w", err)
	}
	return nil
}

// mendFiles returns the image with other records for the timers that need it. A record has its length before it.
func mendFiles(b []byte) (out []byte, changed bool, err error) {
	const head = 8
	if len(b) < head || binary.LittleEndian.Uint32(b) != commonMagic || binary.LittleEndian.Uint32(b[4:]) != openFilesMagic {
		return nil, false, fmt.Errorf("%w: not an image of files", ErrImageSet)
	}
	out = append(out, b[:head]...)
	for rest := b[head:]; len(rest) > 0; {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.LittleEndian.Uint32(rest)) {
			return nil, false, fmt.Errorf("%w: a record is cut off", ErrImageSet)
		}
		record := rest[4 : 4+binary.LittleEndian.Uint32(rest)]
		rest = rest[4+len(record):]
		other, err := mendFile(record)
		if err != nil {
			return nil, false, err
		}
		if other != nil {
			record, changed = other, true
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(record)))
		out = append(out, record...)
	}
	return out, changed, nil
}

// mendFile returns the record of a timer that needs mending as it has to be, and nil for all others.
func mendFile(record []byte) ([]byte, error) {
	file := &fdinfo.FileEntry{}
	// whether all is there that a restore needs is for CRIU to say
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(record, file); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	if file.GetType() != fdinfo.FdTypes_TIMERFD || file.Tfd == nil || !mendTimer(file.Tfd) {
		return nil, nil
	}
	return proto.MarshalOptions{AllowPartial: true}.Marshal(file)
}

// mendTimer tells whether it has changed the timer.
func mendTimer(t *timerfd.TimerfdEntry) (changed bool) {
	left := t.GetVsec() != 0 || t.GetVnsec() != 0
	periodic := t.GetIsec() != 0 || t.GetInsec() != 0
	if !left && periodic && t.GetTicks() > 0 {
		t.Vsec, t.Vnsec = proto.Uint64(t.GetIsec()), proto.Uint64(t.GetInsec())
		left, changed = true, true
	}
	flags := t.GetSettimeFlags()
	// one that the setting of the clock cancels has to stay absolute
	if flags&unix.TFD_TIMER_ABSTIME == 0 || left && flags&unix.TFD_TIMER_CANCEL_ON_SET != 0 {
		return changed
	}
	t.SettimeFlags = proto.Uint32(flags &^ (unix.TFD_TIMER_ABSTIME | unix.TFD_TIMER_CANCEL_ON_SET))
	return true
}
