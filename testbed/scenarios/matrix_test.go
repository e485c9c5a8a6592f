package scenarios

import (
	"testing"

	"migrate/testbed"
	"migrate/testbed/matrix"
)

// sample are rows of the workload matrix that need no images but those of the other tests. `make matrix` runs all rows.
const sample = "redis,go-http,bash,epoll,posixtimer,sysv,posixshm,locks,scm,deleted,family,threads,pty"

// TestWorkloads moves a sample of the workload matrix there and back.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	rows, err := matrix.Choose(matrix.Rows(), sample, 0)
	if err != nil {
		t.Fatal(err)
	}
	lab, err := matrix.NewLab(t.Context(), matrix.Options{
		Hosts: [2]*testbed.Host{hostA, hostB}, Clients: hostC, Dir: "/run/scn/matrix", Port: int(lastPort.Add(1)), Address: newAddress,
	})
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
