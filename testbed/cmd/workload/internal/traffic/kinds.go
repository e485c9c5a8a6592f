package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"

	"golang.org/x/sync/errgroup"
)

func (c *Client) requestReply(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for n := int64(1); ctx.Err() == nil; n++ {
		if err := conn.request(n); err != nil {
			return err
		}
		if err := conn.reply(n); err != nil {
			return c.wrong(err)
		}
		c.count(func(r *Report) { r.Requests++ })
		sleep(ctx, c.Interval)
	}
	return nil
}

// wrong counts an answer that is not the right one.
func (c *Client) wrong(err error) error {
	if errors.Is(err, errWrong) {
		c.mu.Lock()
		c.report.Wrong++
		c.mu.Unlock()
	}
	return err
}

func (c *Client) pipelined(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	underWay := make(chan int64, c.InFlight)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(underWay)
		for n := int64(1); ; n++ {
			select {
			case underWay <- n:
			case <-gctx.Done():
				return nil
			}
			if err := conn.request(n); err != nil {
				return err
			}
			sleep(gctx, c.Interval)
		}
	})
	g.Go(func() error {
		for n := range underWay {
			if err := conn.reply(n); err != nil {
				return c.wrong(err)
			}
			c.count(func(r *Report) { r.Requests++ })
		}
		return nil
	})
	return g.Wait()
}

func (c *Client) download(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := sequence{seed: rand.Uint64()}
	if _, err := fmt.Fprintf(conn, downloadRequest+"\n", s.seed, c.Rate); err != nil {
		return err
	}
	buf, scratch := make([]byte, acknowledged), make([]byte, acknowledged)
	for ctx.Err() == nil {
		n, err := conn.in.Read(buf)
		if err != nil {
			return err
		}
		wrong := s.check(buf[:n], scratch[:n])
		c.count(func(r *Report) { r.Bytes += int64(n) - wrong; r.Wrong += wrong })
		if wrong > 0 {
			return fmt.Errorf("%w: %d of the %d before byte %d", errWrong, wrong, n, s.at)
		}
	}
	return nil
}

func (c *Client) upload(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	seed := rand.Uint64()
	if _, err := fmt.Fprintf(conn, uploadRequest+"\n", seed); err != nil {
		return err
	}
	var sent int64
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := send(conn, seed, c.Rate, func(n int64) bool { sent = n; return gctx.Err() != nil })
		if err != nil {
			return err
		}
		return conn.Conn.(*net.TCPConn).CloseWrite()
	})
	var got int64
	g.Go(func() (err error) { got, err = c.acknowledged(conn); return err })
	if err := g.Wait(); err != nil {
		return err
	}
	if got != sent {
		return fmt.Errorf("%d bytes were sent, the server got %d", sent, got)
	}
	return nil
}

// acknowledged reads what the server says of an upload, until it has said all.
func (c *Client) acknowledged(conn *line) (got int64, err error) {
	for {
		text, err := conn.in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		before := got
		if !scan(text, gotReply, &got) || got < before {
			var wrong, at int64
			_ = scan(text, wrongReply, &wrong, &at)
			c.count(func(r *Report) { r.Wrong += wrong })
			return got, fmt.Errorf("%w: the server says %q after %d bytes", errWrong, trimLine(text), before)
		}
		c.count(func(r *Report) { r.Bytes = got })
	}
}

// connect goes on after a connection that failed: the next one has nothing to do with it.
func (c *Client) connect(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := c.one(ctx); err != nil && ctx.Err() == nil {
			c.fail(c.wrong(err))
		}
		sleep(ctx, c.Interval)
	}
	return nil
}

func (c *Client) one(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.request(1); err != nil {
		return err
	}
	if err := conn.reply(1); err != nil {
		return err
	}
	c.count(func(r *Report) { r.Requests++ })
	return nil
}
