package main

import (
	"net"
	"time"

	"migrate/testbed/cmd/workload/internal/resp"
)

// A redisConn is a connection to redis.
type redisConn struct{ *resp.Conn }

func newRedisConn(conn net.Conn, timeout time.Duration) *redisConn {
	return &redisConn{resp.New(conn, timeout)}
}

// do sends a command and returns its answer: string, int64, nil or []any.
func (r *redisConn) do(args ...string) (any, error) { return r.Do(args...) }
