package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"
)

// A verifyReport compares redis with the log of what it acknowledged.
type verifyReport struct {
	Acknowledged int64 `json:"acknowledged"`
	Lost         int64 `json:"lost"`  // keys that are not there
	Wrong        int64 `json:"wrong"` // keys with another value
	Counter      int64 `json:"counter"`
	Doubled      int64 `json:"doubled"` // increments beyond the log, less the one that may be under way
}

func (r verifyReport) sound() bool {
	return r.Lost == 0 && r.Wrong == 0 && r.Doubled == 0 && r.Counter >= r.Acknowledged && r.Acknowledged > 0
}

func redisVerifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "redisverify",
		Usage: "read back what rediswrite logged as acknowledged",
		Flags: redisFlags(),
		Action: func(c *cli.Context) error {
			conn, err := dial(c.Context, c.String("addr"), c.Duration("timeout"))
			if err != nil {
				return err
			}
			defer conn.Close()
			r, err := verifyRedis(newRedisConn(conn, c.Duration("timeout")), c.String("log"))
			if err != nil {
				return err
			}
			return report(c.App.Writer, r, r.sound())
		},
	}
}

func verifyRedis(redis *redisConn, logPath string) (verifyReport, error) {
	var r verifyReport
	log, err := os.Open(logPath)
	if err != nil {
		return r, err
	}
	defer log.Close()
	const batch = 1000
	var numbers []string
	for lines := bufio.NewScanner(log); ; {
		more := lines.Scan()
		if more {
			numbers = append(numbers, lines.Text())
		}
		if len(numbers) == batch || !more {
			if err := r.compare(redis, numbers); err != nil {
				return r, err
			}
			numbers = numbers[:0]
		}
		if !more {
			if err := lines.Err(); err != nil {
				return r, err
			}
			return r, r.readCounter(redis)
		}
	}
}

// compare reads the keys of the numbers back.
func (r *verifyReport) compare(redis *redisConn, numbers []string) error {
	if len(numbers) == 0 {
		return nil
	}
	command := []string{"MGET"}
	for _, number := range numbers {
		command = append(command, keyPrefix+number)
	}
	answer, err := redis.do(command...)
	if err != nil {
		return err
	}
	values, ok := answer.([]any)
	if !ok || len(values) != len(numbers) {
		return fmt.Errorf("MGET of %d keys answered %v", len(numbers), answer)
	}
	for i, number := range numbers {
		r.Acknowledged++
		switch values[i] {
		case number:
		case nil:
			r.Lost++
		default:
			r.Wrong++
		}
	}
	return nil
}

func (r *verifyReport) readCounter(redis *redisConn) error {
	answer, err := redis.do("GET", counterKey)
	if err != nil {
		return err
	}
	text, _ := answer.(string)
	if r.Counter, err = strconv.ParseInt(text, 10, 64); err != nil {
		return fmt.Errorf("the counter is %v", answer)
	}
	r.Doubled = max(0, r.Counter-r.Acknowledged-1)
	return nil
}
