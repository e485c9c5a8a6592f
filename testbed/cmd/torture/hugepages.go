package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	hugePagesFile = "/proc/sys/vm/nr_hugepages"
	hugePagesWant = 48 // of the whole machine: a program's, once at each host, and some to spare
)

// hugePages are those that the machine has set aside. All hosts of a testbed share them.
type hugePages struct {
	before string // to be restored; empty: nothing was changed
}

// reserve sets huge pages aside. A machine that has none to spare, or does not let us, is told by the program that finds
// none.
func (h *hugePages) reserve() {
	text, err := os.ReadFile(hugePagesFile)
	if err != nil {
		return
	}
	before := strings.TrimSpace(string(text))
	if n, err := strconv.Atoi(before); err != nil || n >= hugePagesWant {
		return
	}
	if os.WriteFile(hugePagesFile, []byte(strconv.Itoa(hugePagesWant)), 0) == nil {
		h.before = before
	}
}

func (h *hugePages) restore() error {
	if h.before == "" {
		return nil
	}
	if err := os.WriteFile(hugePagesFile, []byte(h.before), 0); err != nil {
		return fmt.Errorf("give huge pages back: %w", err)
	}
	return nil
}
