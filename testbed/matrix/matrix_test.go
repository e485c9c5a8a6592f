package matrix

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"migrate/internal/report"
	"migrate/testbed"
)

// page is the documentation that has the table.
const page = "../../docs/WORKLOADS.md"

func TestRows(t *testing.T) {
	seen := map[string]bool{}
	refused := 0
	for _, r := range Rows() {
		if err := r.validate(); err != nil {
			t.Error(err)
		}
		if seen[r.Name] {
			t.Errorf("there are two rows %s", r.Name)
		}
		seen[r.Name] = true
		if r.Refused != nil {
			refused++
		}
	}
	if refused > maxRefused {
		t.Errorf("%d rows are refused, more than %d", refused, maxRefused)
	}
}

// engines are those that the documentation has a table of.
var engines = []engine{containerd{}, docker{testbed.Docker26}, docker{testbed.Docker28}}

// TestPage holds the documentation to the rows: it may have those of an earlier run only, but none that there is not, and no result
// that a row must not have.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range engines {
		t.Run(e.name(), func(t *testing.T) { testTable(t, string(text), e) })
	}
}

func testTable(t *testing.T, text string, e engine) {
	begin, end := tableLines(e.name())
	_, rest, _ := strings.Cut(text, begin)
	table, _, _ := strings.Cut(rest, end)
	want := map[string]string{}
	for _, r := range Rows() {
		why := r.Refused
		if why == nil {
			why = e.refuses(r)
		}
		if want[r.Name] = Moved; why != nil {
			want[r.Name] = "[" + Refused + "](" + why.Link + ")"
		}
	}
	var documented []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 4 || strings.Contains(line, "workload | engine") {
			continue
		}
		name := strings.TrimPrefix(cells[0], "| ")
		if documented = append(documented, name); want[name] != cells[2] || cells[1] != e.name() {
			t.Errorf("%s: row %s is %q of %s there and %q of %s here", page, name, cells[2], cells[1], want[name], e.name())
		}
	}
	if len(documented) < len(Rows())/2 {
		t.Errorf("%s has only the rows %v: make matrix MATRIXFLAGS='--table docs/WORKLOADS.md'", page, documented)
	}
}

// TestEngines looks at what becomes of a container in each engine's words.
func TestEngines(t *testing.T) {
	c := container{
		id: "x", image: "i", args: []string{"sh"}, network: testbed.NetworkCNI, ip: "10.0.0.1", user: "app",
		env: []string{"A=b c", "D="}, caps: []string{"CAP_SYS_ADMIN"}, seccomp: SeccompOn,
	}
	plain := container{id: "x", image: "i", network: testbed.NetworkNone, seccomp: SeccompOff}
	client := container{id: "x", image: "i", network: testbed.NetworkHost}
	docker26, docker28 := docker{testbed.Docker26}, docker{testbed.Docker28}
	for _, argv := range []struct {
		what, want string
		got        []string
	}{
		{"ctr", "--env A=b c --env D= --cap-add CAP_SYS_ADMIN --user app --seccomp", ctrFlags(c)},
		{"ctr, plain", "", ctrFlags(plain)},
		{"26.1", "docker run --detach --name x --network mt --ip 10.0.0.1 --env A=b c --env D= --cap-add CAP_SYS_ADMIN --user app i sh", docker26.runCommand(c)},
		{"26.1, plain", "docker run --detach --name x --network none --security-opt seccomp=unconfined i", docker26.runCommand(plain)},
		{"26.1, client", "docker run --detach --name x --network host i", docker26.runCommand(client)},
		{"28.5, plain", "docker run --detach --name x --network host --security-opt seccomp=unconfined i", docker28.runCommand(plain)},
	} {
		if got := strings.Join(argv.got, " "); got != argv.want {
			t.Errorf("%s: got %s, want %s", argv.what, got, argv.want)
		}
	}
	served := Row{Load: &Client{}}
	if docker26.refuses(served) != nil || docker28.refuses(served) == nil || docker28.refuses(Row{}) != nil || (containerd{}).refuses(served) != nil {
		t.Error("only 28.5 refuses, and only what has a network of its own")
	}
}

func TestValidate(t *testing.T) {
	good := Row{Name: "x", About: "y", Image: testbed.ImageTools, Start: "z", Ticks: true}
	for name, change := range map[string]func(*Row){
		"no name":              func(r *Row) { r.Name = "" },
		"no image":             func(r *Row) { r.Image = "none" },
		"no sign of life":      func(r *Row) { r.Ticks = false },
		"client of no image":   func(r *Row) { r.Load = &Client{Script: "x"} },
		"client of no script":  func(r *Row) { r.Load = &Client{Image: testbed.ImageTools} },
		"refusal without link": func(r *Row) { r.Refused = &Refusal{Words: "x", Why: "y"} },
	} {
		r := good
		if change(&r); r.validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
}

func TestChoose(t *testing.T) {
	all := Rows()
	some, err := Choose(all, "bash, redis", 0)
	if err != nil || !slices.Equal(Names(some), []string{"bash", "redis"}) {
		t.Errorf("got %v, %v", Names(some), err)
	}
	ten, err := Choose(all, "10", 1)
	if err != nil || len(ten) != 10 {
		t.Fatalf("got %v, %v", Names(ten), err)
	}
	again, _ := Choose(all, "10", 1)
	other, _ := Choose(all, "10", 2)
	if !slices.Equal(Names(ten), Names(again)) || slices.Equal(Names(ten), Names(other)) {
		t.Errorf("seed 1 gives %v and %v, seed 2 %v", Names(ten), Names(again), Names(other))
	}
	for _, bad := range []string{"0", "1000", "nothing"} {
		if _, err := Choose(all, bad, 0); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestTicks(t *testing.T) {
	text := "tick 1 a\nsomething else\ntick 2 b\ntick x\ntick 3 unfinis"
	if got := tickNumbers(text); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("got %v", got)
	}
	if got := notTicks(text); got != "something else" {
		t.Errorf("got %q", got)
	}
	if checkWhole([]int{2, 1, 3}) != nil {
		t.Error("numbers from two hosts are taken for incomplete")
	}
	for _, bad := range [][]int{{1, 3}, {1, 2, 2}, {2}} {
		if checkWhole(bad) == nil {
			t.Errorf("%v is taken for whole", bad)
		}
	}
}

// TestResults holds conclusions, file and verdict to each other.
func TestResults(t *testing.T) {
	moved, refused, failed := Result{Workload: "m"}, Result{Workload: "r"}, Result{Workload: "f"}
	moved.conclude(Row{}, nil)
	refused.conclude(Row{Refused: &Refusal{Link: "there"}}, nil)
	failed.conclude(Row{Refused: &Refusal{}}, errors.New("broken"))
	if moved.Result != Moved || refused.Result != Refused || refused.Link != "there" || failed.Result != Failed || failed.Reason != "broken" {
		t.Errorf("got %+v, %+v, %+v", moved, refused, failed)
	}
	if Verdict([]Result{moved, refused}) != nil {
		t.Error("a good run is not content")
	}
	for _, bad := range [][]Result{nil, {moved, failed}} {
		if Verdict(bad) == nil {
			t.Errorf("%v is content", bad)
		}
	}
	var many []Result
	for _, name := range strings.Fields("a b c d e f g") {
		many = append(many, Result{Workload: name, Result: Refused})
	}
	if Verdict(many) == nil {
		t.Error("seven refusals are accepted")
	}
	if Verdict(append(many[:6:6], many[:6]...)) != nil {
		t.Error("six refusals, repeated, are not accepted")
	}
	many[0].barred = true
	if Verdict(many) != nil {
		t.Error("a refusal for the engine's sake is counted")
	}
	path := filepath.Join(t.TempDir(), "build", "matrix.json")
	if err := Write(path, []Result{moved}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file []map[string]any
	if err := json.Unmarshal(text, &file); err != nil || len(file) != 1 || file[0]["workload"] != "m" || file[0]["result"] != "moved" {
		t.Errorf("%v in %s", err, text)
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	begin, end := tableLines("e")
	other, otherEnd := tableLines("e 2")
	theirs := other + "\ntheirs\n" + otherEnd + "\n"
	if err := os.WriteFile(path, []byte("before\n"+begin+"\nold\n"+end+"\nbetween\n"+theirs+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	results := []Result{
		{Workload: "m", Engine: "e", Result: Moved, About: "what", Hops: []Hop{{DowntimeMS: 3}, {DowntimeMS: 40.2}}},
		{Workload: "r", Engine: "e", Result: Refused, About: "what", Reason: "a|b\nc", Link: "https://x"},
	}
	for range 2 { // a table can be replaced again
		if err := Replace(path, results); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := os.ReadFile(path)
	for _, want := range []string{
		"before\n", "| m | e | moved | 40 ms | what |\n", `| r | e | [refused](https://x) |  | what. **a\|b** |` + "\n", "\nbetween\n", theirs, "\nafter\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Error("the old table is left")
	}
	if err := os.WriteFile(path, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, results); !errors.Is(err, errNoTable) {
		t.Errorf("got %v", err)
	}
	if err := Replace(path, nil); !errors.Is(err, errNoResults) {
		t.Errorf("got %v", err)
	}
}

func TestBeyond(t *testing.T) {
	before := Census{"mounts": {"a", "a"}, "links": {"eth0"}}
	now := Census{"mounts": {"a", "a", "a", "b"}, "links": {}}
	want := []string{"host h: mounts: a", "host h: mounts: b"}
	if got := now.beyond("h", before); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestFrozen(t *testing.T) {
	if frozen(&report.Report{Phases: []report.Phase{{Name: report.Offer}}}) || !frozen(&report.Report{Phases: []report.Phase{{Name: report.Freeze}}}) {
		t.Error("the freeze is not seen in the phases")
	}
}

// TestProgram looks at what becomes of files and script.
func TestProgram(t *testing.T) {
	argv := program(map[string]string{"a": "x $y 'z'\n", "b": "1"}, "cat /data/a")
	if len(argv) != 3 || !strings.HasPrefix(argv[2], "cat >/data/a <<'END OF FILE'\nx $y 'z'\nEND OF FILE\ncat >/data/b") {
		t.Errorf("got %q", argv)
	}
}
