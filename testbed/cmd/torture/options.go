package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/internal/track"
	"migrate/testbed/internal/lan"
)

// The ways to bring memory into place.
const (
	wayLazy  = "lazy"
	wayEager = "eager"
)

// The shares of moves with --verify.
const (
	verifyHalf = "half"
	verifyAll  = "all"
	verifyNone = "none"
)

// options is what the command line says.
type options struct {
	migrations int
	hops       int
	cases      []string // empty: all
	trackers   []string
	missing    []string // trackers that this machine cannot have, of all
	ways       []string
	verify     string
	faults     int // one move in so many; 0: none
	mib        int
	seed       uint64
	link       string
	out        string
	binary     string
	name       string
	sendArgs   []string
}

func parse(c *cli.Context) (options, error) {
	o := options{
		migrations: c.Int("migrations"), hops: c.Int("hops"), cases: words(c.String("cases")), trackers: words(c.String("trackers")),
		ways: words(c.String("ways")), verify: c.String("verify"), faults: c.Int("faults"), mib: c.Int("mib"), seed: c.Uint64("seed"), link: c.String("link"), out: c.String("out"),
		binary: c.String("binary"), name: c.String("name"), sendArgs: c.StringSlice("send-flag"),
	}
	if c.NArg() > 0 {
		return o, fmt.Errorf("%d arguments: there are flags only", c.NArg())
	}
	if slices.Equal(o.trackers, []string{allTrackers}) {
		o.trackers = track.Available()
		o.missing = slices.DeleteFunc(track.Kinds(), func(kind string) bool { return slices.Contains(o.trackers, kind) })
	}
	return o, o.check()
}

// allTrackers are those that the machine can have.
const allTrackers = "all"

// words splits a list with commas.
func words(text string) []string {
	var list []string
	for word := range strings.SplitSeq(text, ",") {
		if word = strings.TrimSpace(word); word != "" {
			list = append(list, word)
		}
	}
	return list
}

// maxMemory in MiB keeps a slip of the finger from filling the machine.
const maxMemory = 1024

func (o options) check() error {
	if _, err := lan.ParseRate(o.link); err != nil {
		return err
	}
	switch {
	case o.migrations < 1 || o.hops < 1:
		return fmt.Errorf("%d migrations, %d hops: want at least 1 of each", o.migrations, o.hops)
	case o.mib < 8 || o.mib > maxMemory:
		return fmt.Errorf("mib %d: want 8 to %d", o.mib, maxMemory)
	case o.faults < 0:
		return fmt.Errorf("faults %d: want one move in so many, or 0", o.faults)
	case len(o.trackers) == 0 || len(o.ways) == 0:
		return fmt.Errorf("want at least one tracker and one way")
	}
	for what, list := range map[string][2][]string{
		"tracker": {o.trackers, track.Kinds()}, "way": {o.ways, {wayLazy, wayEager}},
		"share to be verified": {{o.verify}, {verifyHalf, verifyAll, verifyNone}},
	} {
		for i, word := range list[0] {
			if !slices.Contains(list[1], word) || slices.Contains(list[0][:i], word) {
				return fmt.Errorf("%s %q: want each at most once of %s", what, word, strings.Join(list[1], ", "))
			}
		}
	}
	return nil
}
