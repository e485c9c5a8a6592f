// Command workload is what migrations are tried on. It runs inside containers and
// beside them, and notices what a migration must not do: change memory, lose or
// repeat requests, break connections, tear the output.
//
//	workload server --memory-mib 256 --dirty-pages-per-sec 1000
//	workload client --addr 10.77.1.10:7000 --duration 20s
//	workload rediswrite --addr 10.77.1.10:6379 --log acked --duration 20s
//	workload redisverify --addr 10.77.1.10:6379 --log acked
//	workload traffic --addr 10.77.1.10:7000 --kind download --duration 20s
//	workload ticks < output-of-server
//	workload churn --case mapchurn --mib 24
//	workload feature --kind timerfd
//	workload web --listen :8080
//	workload count --protocol http --addr 10.77.1.10:8080 --path /next
//	workload download --addr 10.77.1.10:8080 --path /lines
//	workload mapfile --file /dev/shm/mapped
//
// Results are JSON, one object a line. The exit code is 1 if something was lost.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
)

// errDamage is returned when a result has been printed that tells of damage.
var errDamage = errors.New("something was lost or changed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := &cli.App{
		Name:            "workload",
		Usage:           "programs that notice what a migration does to them",
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {},
		Commands: []*cli.Command{
			serverCommand(), clientCommand(), redisWriteCommand(), redisVerifyCommand(), ticksCommand(),
			churnCommand(), trafficCommand(), featureCommand(), countCommand(), downloadCommand(), webCommand(), mapFileCommand(), holdCommand(),
		},
	}
	if err := app.RunContext(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(status(err))
	}
}

// status is the exit status of a failure.
func status(err error) int {
	var other cli.ExitCoder
	if errors.As(err, &other) {
		return other.ExitCode()
	}
	return 1
}

// report prints a result and turns damage into an error.
func report(w io.Writer, result any, sound bool) error {
	if err := json.NewEncoder(w).Encode(result); err != nil {
		return err
	}
	if !sound {
		return errDamage
	}
	return nil
}
