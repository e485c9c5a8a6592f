package images

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// unwanted packages are dependencies that only serve to install and configure.
var unwanted = map[string]bool{
	"adduser": true, "debconf": true, "dpkg": true, "init-system-helpers": true,
	"lsb-base": true, "passwd": true, "perl-base": true, "sysvinit-utils": true,

	"ca-certificates-java": true, "locales": true, "node-corepack": true, "perl": true, "postgresql-common": true,
	"ssl-cert": true, "systemd": true, "ucf": true,
}

// unwantedDirs of packages are not for running programs.
var unwantedDirs = []string{
	"etc/init.d", "etc/default", "usr/share/bug", "usr/share/doc", "usr/share/info",
	"usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/lib/systemd",
}

// A catalogue knows the packages that are installed in a tree.
type catalogue struct {
	tree    string
	depends map[string][]string // names, each one a list of alternatives joined by |
	provide map[string]string   // virtual package → installed one
}

// readCatalogue reads dpkg's database, see deb822(5) for its format.
func readCatalogue(tree string) (*catalogue, error) {
	f, err := os.Open(filepath.Join(tree, "var/lib/dpkg/status"))
	if err != nil {
		return nil, fmt.Errorf("read the installed packages: %w", err)
	}
	defer f.Close()
	c := &catalogue{tree: tree, depends: map[string][]string{}, provide: map[string]string{}}
	var name string
	lines := bufio.NewScanner(f)
	const longestLine = 1 << 20
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "Package":
			name = value
			c.depends[name] = nil
		case "Depends", "Pre-Depends":
			c.depends[name] = append(c.depends[name], relations(value)...)
		case "Provides":
			for _, virtual := range relations(value) {
				c.provide[virtual] = name
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the installed packages: %w", err)
	}
	return c, nil
}

// relations takes the names out of "libc6 (>= 2.34), default-mta | mail-transport-agent".
func relations(value string) []string {
	var list []string
	for item := range strings.SplitSeq(value, ",") {
		var alternatives []string
		for alternative := range strings.SplitSeq(item, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alternative), " ")
			name, _, _ = strings.Cut(name, ":") // the architecture
			alternatives = append(alternatives, name)
		}
		list = append(list, strings.Join(alternatives, "|"))
	}
	return list
}

// closure adds to have all packages that names need, and returns the new ones.
func (c *catalogue) closure(names []string, have map[string]bool) ([]string, error) {
	var added []string
	for queue := slices.Clone(names); len(queue) > 0; queue = queue[1:] {
		name, err := c.resolve(queue[0])
		if err != nil {
			return nil, err
		}
		if have[name] || unwanted[name] {
			continue
		}
		have[name] = true
		added = append(added, name)
		queue = append(queue, c.depends[name]...)
	}
	slices.Sort(added)
	return added, nil
}

func (c *catalogue) resolve(relation string) (string, error) {
	for name := range strings.SplitSeq(relation, "|") {
		if _, installed := c.depends[name]; installed {
			return name, nil
		}
		if provider, ok := c.provide[name]; ok {
			return provider, nil
		}
	}
	return "", fmt.Errorf("package %s is not installed in %s", relation, c.tree)
}

// paths lists the files of a package, relative to the root. Those that the tree
// lacks were left out when it was built.
func (c *catalogue) paths(name string) ([]string, error) {
	base := filepath.Join(c.tree, "var/lib/dpkg/info", name)
	lists, err := filepath.Glob(base + ":*.list")
	if err != nil {
		return nil, err
	}
	lists = append(lists, base+".list")
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		var paths []string
		for line := range strings.Lines(string(text)) {
			path := strings.Trim(strings.TrimSpace(line), "/")
			if path != "" && path != "." && !isUnwanted(path) {
				paths = append(paths, path)
			}
		}
		return paths, nil
	}
	return nil, fmt.Errorf("dpkg has no list of the files of %s", name)
}

func isUnwanted(path string) bool {
	return slices.ContainsFunc(unwantedDirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, dir+"/")
	})
}
