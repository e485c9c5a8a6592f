package criu

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// HeldMemoryOf estimates how many bytes of the processes' private memory a lazy dump puts into the image set all the same, since CRIU wants them
// before the tasks run: memory that is locked, of huge pages, or a private copy of a file's. Processes that end meanwhile count as nothing.
func HeldMemoryOf(pids []int) int64 {
	var sum int64
	for _, pid := range pids {
		if f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid)); err == nil {
			sum += heldIn(bufio.NewScanner(f))
			f.Close()
		}
	}
	return sum
}

// heldIn reads smaps: for each mapping a line as in maps, then lines "Name:  123 kB", the last of which are VmFlags.
func heldIn(sc *bufio.Scanner) (sum int64) {
	const longest = 64 << 10
	sc.Buffer(nil, longest)
	var m struct{ private, file bool }
	var anonymous, huge int64
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		switch {
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"):
			m.private, m.file = strings.HasSuffix(f[1], "p"), f[4] != "0"
		case len(f) == 3 && f[0] == "Anonymous:":
			anonymous = kilobytes(f[1])
		case len(f) == 3 && f[0] == "Private_Hugetlb:":
			huge = kilobytes(f[1])
		case len(f) > 0 && f[0] == "VmFlags:" && m.private:
			sum += huge
			if m.file || strings.Contains(sc.Text(), " lo") {
				sum += anonymous
			}
		}
	}
	return sum
}

func kilobytes(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}
