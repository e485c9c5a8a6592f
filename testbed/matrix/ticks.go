package matrix

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// log is what a host has of the container's output.
func (t *trip) log(ctx context.Context, at int) string {
	return t.lab.engine.printed(ctx, t.lab.options.Hosts[at], t.id)
}

// ticks is how many numbered lines of the container a host has.
func (t *trip) ticks(ctx context.Context, at int) int { return len(tickNumbers(t.log(ctx, at))) }

// tickNumbers are those of the lines "tick N TEXT"; the last line may be unfinished.
func tickNumbers(text string) (numbers []int) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "tick" || !strings.HasSuffix(line, "\n") {
			continue
		}
		if n, err := strconv.Atoi(f[1]); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// notTicks is what else was printed.
func notTicks(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "tick ") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}

func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// checkOutput checks that every numbered line is in the logs of the hosts once.
func (t *trip) checkOutput(ctx context.Context) error {
	if !t.row.Ticks {
		return nil
	}
	var all []int
	for at := range t.lab.options.Hosts {
		all = append(all, tickNumbers(t.log(ctx, at))...)
	}
	return checkWhole(all)
}

func checkWhole(numbers []int) error {
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != i+1 {
			return fmt.Errorf("its output is not whole: line %d has the number %d", i+1, n)
		}
	}
	return nil
}
