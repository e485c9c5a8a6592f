package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
	"migrate/testbed/internal/lan"
)

// options is what the command line says.
type options struct {
	measures []string
	runs     int
	sizes    []int   // MiB
	dirty    float64 // percent of the memory's pages that are rewritten each second
	limits   map[string]limit
	clients  int // of the benchmark of redis

	postgresMiB int      // shared buffers
	gapKinds    []string // of clients
	gapRate     int64    // bytes a second of downloads and uploads
	link        string
	linkMbit    uint64
	tools       []string
	network     testbed.Network
	out         string
	binary      string
	name        string
	sendArgs    []string
}

// A limit keeps a slow tool from taking all the time.
type limit struct {
	mib  int // no container that is larger
	runs int // counted rounds; 0: as many as the others
}

// maxMemory in MiB keeps a slip of the finger from filling the machine: the memory of a container is there up to three
// times, as the container's own, as images or page store, and restored.
const maxMemory = 4096

func parse(c *cli.Context) (o options, err error) {
	o = options{
		measures: strings.Split(c.String("measure"), ","), runs: c.Int("runs"), dirty: c.Float64("dirty"), clients: c.Int("clients"),
		gapKinds: strings.Split(c.String("gap-clients"), ","), gapRate: c.Int64("gap-rate") << 20,
		postgresMiB: c.Int("postgres-mib"), link: c.String("link"), tools: strings.Split(c.String("tools"), ","),
		network: testbed.Network(c.String("network")), out: c.String("out"), binary: c.String("binary"), name: c.String("name"),
		sendArgs: c.StringSlice("send-flag"),
	}
	if o.linkMbit, err = parseRate(o.link); err != nil {
		return o, err
	}
	if o.sizes, err = parseSizes(c.String("sizes")); err != nil {
		return o, err
	}
	if o.limits, err = parseLimits(c.String("limits")); err != nil {
		return o, err
	}
	if err := o.check(c.NArg()); err != nil {
		return o, err
	}
	if !slices.Contains(o.measures, measureMoves) {
		o.tools = []string{toolMigrate} // the other measures need no other
	}
	return o, nil
}

// parseRate returns Mbit/s, 0 for none.
func parseRate(text string) (uint64, error) {
	rate, err := lan.ParseRate(text)
	return uint64(rate) / 1_000_000, err
}

func parseSizes(text string) ([]int, error) {
	var sizes []int
	for _, word := range strings.Split(text, ",") {
		n, err := parseSize(strings.TrimSpace(word))
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

func parseSize(word string) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 || n > maxMemory {
		return 0, fmt.Errorf("size %q: want 1 to %d MiB", word, maxMemory)
	}
	return n, nil
}

// parseLimits reads TOOL=MIB or TOOL=MIB:RUNS, several with commas; none of them is no limit.
func parseLimits(text string) (map[string]limit, error) {
	limits := map[string]limit{}
	if text == "" {
		return limits, nil
	}
	for _, word := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		if _, ok := makeTool[name]; !ok && name != toolDocker {
			return nil, unknownTool(name)
		}
		size, runs, hasRuns := strings.Cut(value, ":")
		var l limit
		var err error
		if l.mib, err = parseSize(size); err != nil {
			return nil, fmt.Errorf("limit %q: %w", word, err)
		}
		if hasRuns {
			if l.runs, err = strconv.Atoi(runs); err != nil || l.runs < 1 {
				return nil, fmt.Errorf("limit %q: want TOOL=MIB or TOOL=MIB:RUNS", word)
			}
		}
		limits[name] = l
	}
	return limits, nil
}

func unknownTool(name string) error {
	return fmt.Errorf("tool %q: known are %s", name, strings.Join(toolNames, ", "))
}

func (o options) check(args int) error {
	switch {
	case args > 0:
		return fmt.Errorf("%d arguments: there are flags only", args)
	case o.runs < 1:
		return fmt.Errorf("%d runs: want at least 1", o.runs)
	case o.clients < 1:
		return fmt.Errorf("%d clients: want at least 1", o.clients)
	case o.postgresMiB < 1 || o.postgresMiB > maxMemory:
		return fmt.Errorf("postgres-mib %d: want 1 to %d", o.postgresMiB, maxMemory)
	case o.gapRate < 0:
		return errors.New("gap-rate is negative")
	case math.IsNaN(o.dirty) || o.dirty < 0 || o.dirty > 100:
		return fmt.Errorf("%v %% of the pages each second: want 0 to 100", o.dirty)
	case o.network != testbed.NetworkCNI && o.network != testbed.NetworkNone:
		return fmt.Errorf("network %q: known are %s and %s", o.network, testbed.NetworkCNI, testbed.NetworkNone)
	}
	for _, name := range o.measures {
		if !slices.Contains(measureNames, name) {
			return fmt.Errorf("measure %q: known are %s", name, strings.Join(measureNames, ", "))
		}
	}
	for _, name := range []string{measureLoad, measureGap} {
		if slices.Contains(o.measures, name) && o.network != testbed.NetworkCNI {
			return fmt.Errorf("measure %s needs network %s", name, testbed.NetworkCNI)
		}
	}
	for _, kind := range o.gapKinds {
		if !slices.Contains(gapKinds, kind) {
			return fmt.Errorf("client %q: known are %s", kind, strings.Join(gapKinds, ", "))
		}
	}
	for i, name := range o.tools {
		if _, ok := makeTool[name]; !ok {
			return unknownTool(name)
		}
		if slices.Contains(o.tools[:i], name) {
			return fmt.Errorf("tool %s is given twice", name)
		}
	}
	return nil
}

// takesPart tells whether a tool moves a container of that size in a round, the first of which is number 0.
func (o options) takesPart(tool string, mib, round int) bool {
	l, limited := o.limits[tool]
	return !limited || mib <= l.mib && (l.runs == 0 || round < l.runs)
}
