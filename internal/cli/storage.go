package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/migrate"
)

// storageFlags are the flags of send that say what becomes of what the container has mounted.
func storageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "bind", Usage: "`OLD:NEW`: the destination binds its path NEW where the container has OLD of this host, may be repeated"},
		&cli.StringSliceFlag{Name: "copy-bind", Usage: "`PATH` of this host that the container binds and whose content comes along, may be repeated", TakesFile: true},
		&cli.BoolFlag{Name: "keep-dns", Usage: "take resolv.conf along, instead of having it made for the destination"},
	}
}

// parseStorage checks what storageFlags say.
func parseStorage(c *cli.Context) (o migrate.StorageOptions, err error) {
	state := c.String("state-dir")
	o = migrate.StorageOptions{KeepDNS: c.Bool("keep-dns"), Left: leftDir(state), Files: filesDir(state), Binds: map[string]string{}}
	for _, text := range c.StringSlice("bind") {
		from, to, ok := strings.Cut(text, ":")
		if !ok || !filepath.IsAbs(from) || !filepath.IsAbs(to) || strings.Contains(to, ":") {
			return o, usage(fmt.Sprintf("--bind %q is not OLD:NEW", text), "give two absolute paths: of this host, and of the destination")
		}
		from, to = filepath.Clean(from), filepath.Clean(to)
		if have, twice := o.Binds[from]; twice && have != to {
			return o, usage(fmt.Sprintf("--bind says two things about %s", from), "leave one of them out")
		}
		o.Binds[from] = to
	}
	for _, path := range c.StringSlice("copy-bind") {
		if !filepath.IsAbs(path) {
			return o, usage(fmt.Sprintf("--copy-bind %q is no absolute path", path), "give the path of this host that the container binds")
		}
		o.Copies = append(o.Copies, filepath.Clean(path))
	}
	return o, nil
}

// leftDir is where a host remembers content that has left with its container.
func leftDir(state string) string { return filepath.Join(state, "left") }

// filesDir is where a destination keeps files that engines bind into containers.
func filesDir(state string) string { return filepath.Join(state, "files") }
