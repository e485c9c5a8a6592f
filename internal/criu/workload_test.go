//go:build inhost

package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { roles["workload"] = workloadMain }

const (
	patternSize = 64 << 20 // bytes of the workload's memory
	beatEvery   = 10 * time.Millisecond
)

// patternPage is the content of page n of a workload's memory.
func patternPage(n int) []byte {
	p := make([]byte, unix.Getpagesize())
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], uint64(n)*0x9e3779b97f4a7c15+uint64(i))
	}
	return p
}

// workloadMain fills memory with a pattern and then, for ever, looks whether it is still there and whether a connection to
// itself still works. It tells where the memory is in the file region, counts its rounds in beat and ends with a line in
// broken when something is not as it was. Its last page can be neither read nor written.
func workloadMain(args []string) int {
	err := func() error {
		mem, err := unix.Mmap(-1, 0, patternSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		page := unix.Getpagesize()
		for n := range patternSize / page {
			copy(mem[n*page:], patternPage(n))
		}
		if err := unix.Mprotect(mem[patternSize-page:], unix.PROT_NONE); err != nil {
			return err
		}
		if err := store("region", strconv.FormatUint(uint64(uintptr(unsafe.Pointer(&mem[0]))), 10)); err != nil {
			return err
		}
		talk := func(int) error { return nil }
		if len(args) > 0 && args[0] == "tcp" {
			if talk, err = talker(); err != nil {
				return err
			}
		}
		for round := 1; ; round++ {
			for n := range patternSize/page - 1 {
				if !bytes.Equal(mem[n*page:(n+1)*page], patternPage(n)) {
					return fmt.Errorf("round %d: page %d is not what it was", round, n)
				}
			}
			if err := talk(round); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			if err := store("beat", strconv.Itoa(round)); err != nil {
				return err
			}
			time.Sleep(beatEvery)
		}
	}()
	_ = store("broken", err.Error())
	return 1
}

// store replaces a file at once.
func store(name, text string) error {
	if err := os.WriteFile("/"+name+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename("/"+name+".new", "/"+name)
}

// talker connects this process with itself.
func talker() (func(int) error, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") // the test has GODEBUG=multipathtcp=0 set for it
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return nil, err
	}
	peer, err := l.Accept()
	if err != nil {
		return nil, err
	}
	go func() { _, _ = io.Copy(peer, peer) }()
	return func(n int) error {
		said, heard := binary.LittleEndian.AppendUint64(nil, uint64(n)), make([]byte, 8)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if _, err := conn.Write(said); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, heard); err != nil {
			return err
		}
		if !bytes.Equal(said, heard) {
			return errors.New("the connection does not echo")
		}
		return nil
	}, nil
}
