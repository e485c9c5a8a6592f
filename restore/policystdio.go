package restore

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"migrate/internal/engine"
)

// redirected stands for a stream that may not go where the source had it: the engine sends it to a log of its own.
const redirected = "redirected"

// stdio keeps streams that are files in a log directory, or go to a program that is allowed. Any other URI is a file, or a
// program, of this host that a peer chose.
func (p Policy) stdio(s engine.Stdio) engine.Stdio {
	s.Stdout, s.Stderr = p.stream(s.Stdout), p.stream(s.Stderr)
	return s
}

func (p Policy) stream(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return redirected
	}
	if u.Scheme == "" {
		return uri // a FIFO's path at the source, or nothing: the engine makes its own
	}
	dirs := p.AllowLogs
	if dirs == nil {
		dirs = []string{"/var/log"}
	}
	if u.Scheme == "binary" && slices.Contains(p.AllowLoggers, u.Path) {
		return uri
	}
	if u.Scheme == "file" && filepath.IsAbs(u.Path) && within(u.Path, dirs) {
		return (&url.URL{Scheme: "file", Path: filepath.Clean(u.Path)}).String()
	}
	return redirected
}

// within says whether a path lies in one of the directories. Links are resolved first, as far down as the path exists: what
// counts is what would be opened.
func within(path string, dirs []string) bool {
	const maxLinks = 40 // as the kernel has it
	if path = resolve(filepath.Clean(path), maxLinks); path == "" {
		return false
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		rel, err := filepath.Rel(resolve(filepath.Clean(dir), maxLinks), path)
		return err == nil && filepath.IsLocal(rel)
	})
}

// resolve follows at most depth links that lead nowhere.
func resolve(path string, depth int) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if to, err := os.Readlink(path); err == nil {
		// it leads nowhere yet: what would be made is where it points
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		if depth--; depth < 0 {
			return "" // a loop, in no directory
		}
		return resolve(filepath.Clean(to), depth)
	}
	if path == "/" {
		return path
	}
	dir := resolve(filepath.Dir(path), depth)
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, filepath.Base(path))
}
