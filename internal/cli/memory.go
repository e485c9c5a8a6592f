package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/internal/proto"
	"migrate/internal/track"
	"migrate/migrate"
)

// modeAuto picks the mode that is right for nearly everything.
const modeAuto = "auto"

// memoryFlags are the flags of send that say how memory is copied.
func memoryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "mode", Value: modeAuto, Usage: "`HOW` memory moves: auto, precopy (while the container runs, the rest is filled in after it was resumed), stop (while it stands still), " +
			"postcopy (after it was resumed) or hybrid (what is written meanwhile after it was resumed); the last two risk the container, see the manual"},
		&cli.StringFlag{Name: "tracker", Value: modeAuto, Usage: "`WHAT` finds written memory: auto, " + strings.Join(track.Kinds(), ", ")},
		&cli.DurationFlag{Name: "max-downtime", Value: migrate.DefaultMaxDowntime, Usage: "copy memory in rounds until the rest fits this `TIME`"},
		&cli.IntFlag{Name: "max-rounds", Value: migrate.DefaultMaxRounds, Usage: "copy memory in at most `N` rounds"},
		&cli.DurationFlag{Name: "max-total", Value: migrate.DefaultMaxTotal, Usage: "copy memory in rounds for at most this `TIME`"},
		&cli.StringFlag{Name: "cpu-limit", Value: limitAuto, Usage: "`PERCENT` of a CPU that may be used for each stream while the container runs; auto: what is idle, and does not slow it down; none: no limit"},
		&cli.BoolFlag{Name: "throttle", Usage: "slow the container down, step by step, while it writes memory faster than it can be sent"},
		&cli.BoolFlag{Name: "eager", Usage: "have all memory in place before the container is resumed"},
		&cli.DurationFlag{Name: "recover-timeout", Value: migrate.DefaultRecover, Usage: "postcopy and hybrid: how long the link may stay broken, a `TIME`, before the container is given up"},
		&cli.BoolFlag{Name: "verify", Usage: "compare every page of memory before the container is resumed; downtime then grows with memory"},
	}
}

// parseMemory checks what memoryFlags say.
func parseMemory(c *cli.Context) (o migrate.MemoryOptions, err error) {
	o = migrate.MemoryOptions{
		Mode: c.String("mode"), Tracker: c.String("tracker"), MaxDowntime: c.Duration("max-downtime"), MaxRounds: c.Int("max-rounds"),
		MaxTotal: c.Duration("max-total"), Throttle: c.Bool("throttle"), Eager: c.Bool("eager"), Verify: c.Bool("verify"),
		Recover: c.Duration("recover-timeout"),
	}
	switch {
	case o.Mode != modeAuto && !proto.KnownMode(o.Mode):
		return o, usage(fmt.Sprintf("--mode %q is unknown", o.Mode), "choose auto, precopy, stop, postcopy or hybrid")
	case o.Tracker != modeAuto && !slices.Contains(track.Kinds(), o.Tracker):
		return o, usage(fmt.Sprintf("--tracker %q is unknown", o.Tracker), "choose auto, "+strings.Join(track.Kinds(), ", "))
	case o.MaxDowntime <= 0 || o.MaxTotal <= 0:
		return o, usage("--max-downtime and --max-total have to be positive", "")
	case o.MaxRounds < 1:
		return o, usage(fmt.Sprintf("--max-rounds %d is out of range", o.MaxRounds), "choose 1 or more")
	case o.Recover <= 0:
		return o, usage("--recover-timeout has to be positive", "")
	}
	if o.Share, err = parseShare(c.String("cpu-limit")); err != nil {
		return o, err
	}
	if o.Mode == modeAuto {
		o.Mode = proto.ModePrecopy
	}
	for _, name := range otherModes[o.Mode] {
		if c.IsSet(name) {
			return o, usage(fmt.Sprintf("--%s is not for --mode %s%s", name, o.Mode, whyNot[name]), "leave one of them out")
		}
	}
	return o, nil
}

// What --cpu-limit takes besides percents.
const (
	limitAuto = "auto"
	limitNone = "none"
)

// parseShare reads a --cpu-limit.
func parseShare(text string) (int, error) {
	switch text {
	case limitAuto:
		return migrate.ShareAuto, nil
	case limitNone, "0":
		return migrate.ShareAll, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > migrate.ShareAll {
		return 0, usage(fmt.Sprintf("--cpu-limit %q is out of range", text), "choose auto, none, or 1 to 100")
	}
	return n, nil
}

// otherModes are the flags that mean nothing in a mode.
var otherModes = map[string][]string{
	proto.ModeStop:     {"tracker", "max-downtime", "max-rounds", "max-total", "cpu-limit", "throttle", "eager", "verify", "recover-timeout"},
	proto.ModePrecopy:  {"recover-timeout"},
	proto.ModePostcopy: {"tracker", "max-downtime", "max-rounds", "max-total", "cpu-limit", "throttle", "eager", "verify"},
	proto.ModeHybrid:   {"throttle", "eager", "verify"},
}

// whyNot says so of flags for which it is not plain.
var whyNot = map[string]string{
	"throttle": ": what is written faster than it can be sent stays, and need not be slowed down",
	"eager":    ": memory comes after the container was resumed",
	"verify":   ": when the container is resumed there is nothing to compare yet",
}
