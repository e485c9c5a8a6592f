package throttle

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"migrate/internal/cgroup"
)

// The words between agent and keeper.
const (
	wordReady = "ready"
	wordLimit = "limit "
	wordOK    = "ok"
)

// Keep is the keeper: it limits the group as it is told, and gives back what it had once control ends. The returned value is
// the process's exit status.
func Keep(q *cgroup.Quota, control io.Reader, answers io.Writer) int {
	say := func(err error) {
		text := wordOK
		if err != nil {
			text = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		_, _ = fmt.Fprintln(answers, text) // an agent that is gone hears nothing
	}
	_, _ = fmt.Fprintln(answers, wordReady)
	for words := bufio.NewScanner(control); words.Scan(); {
		say(limit(q, words.Text()))
	}
	err := q.Restore()
	say(err)
	if err != nil {
		return 1
	}
	return 0
}

func limit(q *cgroup.Quota, word string) error {
	text, ok := strings.CutPrefix(word, wordLimit)
	cpus, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil || !(cpus > 0) {
		return fmt.Errorf("%q is no limit", word)
	}
	return q.Set(cpus)
}
