package cli

import (
	"fmt"
	"io"
	"log/slog"
)

// newLogger logs to w in the format given: text or json.
func newLogger(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usage(fmt.Sprintf("log format %q is unknown", format), "choose --log-format text or json")
}

// level is how much is logged.
func level(quiet, verbose bool, normal slog.Level) slog.Level {
	switch {
	case verbose:
		return slog.LevelDebug
	case quiet:
		return slog.LevelError
	}
	return normal
}
