package scenarios

import (
	"sync/atomic"
	"testing"

	"migrate/testbed"
	"migrate/testbed/matrix"
)

// sample are rows of the workload matrix that need no images but those of the other tests. `make matrix` runs all rows.
const sample = "redis,go-http,bash,epoll,posixtimer,sysv,posixshm,locks,scm,deleted,family,threads,pty"

// dockerSample is shorter: what differs is how containers are made, connected, logged and restored, not what runs in them.
const dockerSample = "redis,posixshm,pty"

// TestWorkloads moves a sample of the workload matrix there and back.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	testWorkloads(t, sample, matrix.Options{Hosts: [2]*testbed.Host{hostA, hostB}, Clients: hostC, Address: newAddress})
}

// TestDockerWorkloads does so with Docker.
func TestDockerWorkloads(t *testing.T) {
	t.Parallel()
	a, b := dock26.up(t)
	var last atomic.Int64
	testWorkloads(t, dockerSample, matrix.Options{
		Hosts: [2]*testbed.Host{a, b}, Clients: dock26.bed.Host("c"), Docker: dock26.generation,
		Address: func() string { return dock26.address(100 + int(last.Add(1))) },
	})
}

func testWorkloads(t *testing.T, sample string, o matrix.Options) {
	rows, err := matrix.Choose(matrix.Rows(), sample, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.Dir, o.Port = "/run/scn/matrix", int(lastPort.Add(1))
	lab, err := matrix.NewLab(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			t.Parallel()
			r := lab.Run(t.Context(), row)
			if t.Log(r.Line()); r.Result == matrix.Failed {
				t.Error(r.Reason)
			}
		})
	}
}
