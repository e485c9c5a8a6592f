package layers

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Paths are upper-relative, with "/" between components and no other rule for
// bytes than the kernel's. The upper directory itself is the empty path.

// joinPath returns the path of name in dir.
func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// splitPath returns the directory and the last component; the upper directory
// itself is "." in "".
func splitPath(path string) (dir, name string) {
	if path == "" {
		return "", "."
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// comparePaths orders paths as a walk meets them: a directory, then all below
// it, then its next sibling by bytes of the name.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// checkPath accepts a path from a stream. The empty path passes only where root
// is set.
func checkPath(path string, root bool, maxDepth int) error {
	if path == "" {
		if root {
			return nil
		}
		return fmt.Errorf("empty path")
	}
	if strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("path %q holds a NUL", path)
	}
	if !filepath.IsLocal(path) {
		return fmt.Errorf("path %q is not local", path)
	}
	depth := 0
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." {
			return fmt.Errorf("path %q has the component %q", path, name)
		}
		if len(name) > maxName {
			return &LimitError{What: "MaxName", Limit: maxName, Got: int64(len(name)), Path: path}
		}
		depth++
	}
	if depth > maxDepth {
		return &LimitError{What: "MaxDepth", Limit: int64(maxDepth), Got: int64(depth), Path: path}
	}
	return nil
}
