package churn

import (
	"bufio"
	_ "embed" // the program
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed java.bsh
var javaProgram string

// A jvm is a Java virtual machine that runs javaProgram.
type jvm struct {
	*server
	in  io.Writer
	out *bufio.Reader
}

const beanShell = "/usr/share/java/bsh.jar"

func javaHeap(o Options) (*cast, error) {
	path, err := findProgram("java", "/usr/lib/jvm/default-java/bin", "/usr/lib/jvm/*/bin")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(beanShell); err != nil {
		return nil, &Unavailable{"BeanShell is not installed"}
	}
	dir, err := homeOf(o, "java")
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "program.bsh")
	if err := os.WriteFile(program, []byte(javaProgram), 0o644); err != nil {
		return nil, err
	}
	heap := fmt.Sprintf("-Xmx%dm", 2*o.MiB)
	cmd := command(dir, path, heap, "-cp", beanShell, "bsh.Interpreter", program, strconv.FormatUint(o.Seed, 10), strconv.Itoa(pagesIn(o.MiB)/2))
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	s, err := begin(cmd)
	w.Close()
	if err != nil {
		return nil, err
	}
	j := &jvm{server: s, in: in, out: bufio.NewReader(out)}
	if line, err := j.line(); err != nil || line != "ready" {
		return nil, s.explain(fmt.Errorf("it begins with %q: %w", line, err))
	}
	return &cast{actors: []actor{j}, burst: 1, pause: usualPause}, nil
}

func (j *jvm) line() (string, error) {
	line, err := j.out.ReadString('\n')
	if errors.Is(err, io.EOF) {
		<-j.ended
	}
	return strings.TrimSpace(line), err
}

// tell has the program do something, and returns what is behind the first word of its answer.
func (j *jvm) tell(what, want string) (string, *Damage, error) {
	if _, err := io.WriteString(j.in, what+"\n"); err != nil {
		return "", nil, j.explain(err)
	}
	line, err := j.line()
	if err != nil {
		return "", nil, j.explain(err)
	}
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case want:
		return rest, nil, nil
	case "damaged":
		return "", &Damage{What: "java: " + rest}, nil
	}
	return "", nil, j.explain(fmt.Errorf("it answers %q", line))
}

func (j *jvm) act() (*Damage, error) {
	_, d, err := j.tell("act", "ok")
	return d, err
}

func (j *jvm) check() (int, *Damage, error) {
	rest, d, err := j.tell("check", "pages")
	if d != nil || err != nil {
		return 0, d, err
	}
	pages, err := strconv.Atoi(rest)
	return pages, nil, err
}
