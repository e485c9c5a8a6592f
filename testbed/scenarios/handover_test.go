package scenarios

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/internal/report"
)

// The hand-over in doubt: the link breaks when GO or its answer is on the way. Once the link is healed the source asks, and
// exactly one copy runs.

// TestGoLost loses GO: the destination gives up and the container runs on at the source.
func TestGoLost(t *testing.T) {
	t.Parallel()
	goLost(t, chosen(t))
}

func goLost(t *testing.T, r *rig) {
	const id = "go-lost"
	to := startAgent(t, r.b)
	s, m := beforeGo(t, r, id, to)
	heal := drop(t, to, "input", "dport")
	m.signal(t, syscall.SIGCONT)
	eventually(t, later, "the source has sent GO", func() bool { return m.isPast(report.Restore) })
	eventually(t, later, "the destination has given the container up", func() bool { return strings.Contains(to.stderr.String(), "migration failed") })
	assertInDoubt(t, r, m, id)
	heal()
	m.failed(t, 8, "runs on at the source")
	s.assertStayed(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestAnswerLost loses COMMITTED: the container runs at the destination, and the source learns that later.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	answerLost(t, chosen(t))
}

func answerLost(t *testing.T, r *rig) {
	const id = "answer-lost"
	to := startAgent(t, r.b)
	s, m := beforeGo(t, r, id, to)
	heal := drop(t, to, "output", "sport")
	m.signal(t, syscall.SIGCONT)
	eventually(t, later, "the container runs at the destination", func() bool { return status(t, r.b, id) == "RUNNING" })
	s.progressing(t)
	assertInDoubt(t, r, m, id)
	heal()
	if code := m.wait(t, later); code != 0 {
		t.Errorf("exit status %d\n%s", code, m.stderr.String())
	}
	s.assertMoved(t, r.a, r.b)
	assertOutputWhole(t, id, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestWaitGivenUp ends the wait for the answer by hand: the container stays frozen at the source until a person says that
// it may go on.
func TestWaitGivenUp(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	for name, end := range map[string]func(t *testing.T, m *migration){
		"interrupted": func(t *testing.T, m *migration) {
			m.signal(t, syscall.SIGINT) // is answered with a warning
			time.Sleep(time.Second)
			m.signal(t, syscall.SIGINT) // one more would end it whatever it is doing
			m.failed(t, 12, "frozen", "migrate thaw")
		},
		"killed": func(t *testing.T, m *migration) {
			m.signal(t, syscall.SIGKILL)
			m.wait(t, soon)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "given-up-" + name
			to := startAgent(t, r.b)
			s, m := beforeGo(t, r, id, to)
			heal := drop(t, to, "output", "sport")
			m.signal(t, syscall.SIGCONT)
			eventually(t, later, "the container runs at the destination", func() bool { return status(t, r.b, id) == "RUNNING" })
			assertInDoubt(t, r, m, id)
			end(t, m)
			heal()
			time.Sleep(3 * time.Second) // for a guard that would do wrong
			if got := status(t, r.a, id); got != "PAUSED" {
				t.Errorf("the container is %q at the source", got)
			}
			s.progressing(t)
			s.finish(t)
			assertNothingUnderWay(t, r.b, to.dir)
			r.purgeAt(t, r.b, id)
			run(t, r.a, "migrate", "thaw", id, "--yes", "--run-dir", sendDir(id)+"/run", "--state-dir", sendDir(id)+"/state")
			if got := status(t, r.a, id); got != "RUNNING" {
				t.Errorf("the container is %q at the source after it was thawed", got)
			}
			assertUnlocked(t, r.a, id)
			s.connect(t)
			// another migration takes away what the one before left
			send(t, r.a, id, to, "--json").moved(t)
			s.assertMoved(t, r.a, r.b)
			s.finish(t)
		})
	}
}

// beforeGo brings a migration to the point where the destination holds the restored container and has said READY, and
// the source, which is stopped, is about to say GO.
func beforeGo(t *testing.T, r *rig, id string, to *agent) (*subject, *migration) {
	t.Helper()
	s := runServer(t, r.a, id, serverFlags{memory: 1, dirty: 20})
	return s, heldBeforeGo(t, r, id, to)
}

// heldBeforeGo is beforeGo of a container that runs already.
func heldBeforeGo(t *testing.T, r *rig, id string, to *agent) *migration {
	t.Helper()
	mark := hitDir + "/" + id + ".stayed"
	hit := fault(t, r.b, id, atRestore, fmt.Sprintf("[ -e '%[1]s' ] || { : >'%[1]s'; sleep 2 3<&-; }", mark))
	m := send(t, r.a, id, to)
	eventually(t, later, "the migration is in phase restore", func() bool { return hit() || m.ended() })
	m.signal(t, syscall.SIGSTOP)
	eventually(t, soon, "the destination holds the container", func() bool { return strings.Contains(to.stderr.String(), "msg=held") })
	time.Sleep(200 * time.Millisecond) // for READY on its way
	return m
}

// assertInDoubt checks that the source still waits for the answer, with the container frozen.
func assertInDoubt(t *testing.T, r *rig, m *migration, id string) {
	t.Helper()
	if m.ended() {
		t.Fatalf("the source did not wait for the destination's word:\n%s", m.stderr.String())
	}
	if got := status(t, r.a, id); got != "PAUSED" {
		t.Errorf("the container is %q at the source while the outcome is in doubt", got)
	}
}

// drop has the destination's host lose the packets of an agent's connections in one direction. The function it returns ends
// that.
func drop(t *testing.T, to *agent, hook, port string) (heal func()) {
	t.Helper()
	table := fmt.Sprintf("lost%d", to.port)
	rule := fmt.Sprintf("tcp %s %d drop", port, to.port)
	shell(t, to.host, `nft "add table inet $1; add chain inet $1 c { type filter hook $2 priority 0; }; add rule inet $1 c $3"`, table, hook, rule)
	heal = func() { _, _ = try(to.host, "nft", "delete", "table", "inet", table) }
	t.Cleanup(heal)
	return heal
}

// TestCutAroundGo cuts the destination off at various moments around GO. Whatever becomes of each migration, one copy
// runs in the end, and the client's connection goes on.
func TestCutAroundGo(t *testing.T) {
	r := chosen(t)
	for i, after := range []time.Duration{0, 40, 120} {
		t.Run(fmt.Sprintf("%dms", after), func(t *testing.T) {
			id := fmt.Sprintf("around-%d", i)
			s := runServer(t, r.a, id, serverFlags{memory: 4, dirty: 50})
			to := startAgent(t, r.b)
			m := send(t, r.a, id, to)
			eventually(t, later, "the migration is in phase restore", func() bool { return m.isPast(report.Ship) || m.ended() })
			time.Sleep(after * time.Millisecond)
			if err := r.b.Cut(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if err := r.b.Heal(); err != nil {
				t.Fatal(err)
			}
			code := m.wait(t, later)
			t.Logf("exit status %d", code)
			here, there := status(t, r.a, id), status(t, r.b, id)
			switch {
			case code == 0 && there == "RUNNING":
				s.assertMoved(t, r.a, r.b)
			case code != 0 && here == "RUNNING":
				s.assertStayed(t, r.a, r.b)
			default:
				t.Errorf("exit status %d, %q at the source, %q at the destination\n%s", code, here, there, m.stderr.String())
			}
			assertNothingUnderWay(t, r.b, to.dir)
			s.finish(t)
		})
	}
}
