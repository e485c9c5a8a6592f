package testbed

import (
	"os"
	"path/filepath"

	"migrate/testbed/internal/cache"
)

// cgroupPrefix begins the name of every testbed's cgroup.
const cgroupPrefix = "migrate-testbed-"

// switchName is the switch's place among the hosts, as a cgroup.
const switchName = "switch"

// runDir has a directory for each testbed with its state. It is lost at a reboot,
// like the testbeds.
const runDir = "/run/migrate-testbed"

// A place is where a testbed has its things.
type place struct{ name string }

func (p place) run() string                  { return filepath.Join(runDir, p.name) }
func (p place) state() string                { return filepath.Join(p.run(), "state.json") }
func (p place) data() string                 { return filepath.Join(dataDir(), p.name) }
func (p place) host(name string) string      { return filepath.Join(p.data(), name) }
func (p place) cgroup() string               { return cgroupPrefix + p.name }
func (p place) subgroup(of string) string    { return filepath.Join(p.cgroup(), of) }
func (p place) daemon(host, d string) string { return filepath.Join(p.run(), host+"."+d+".pid") }

// dataDir is on a file system that an overlay can write to.
func dataDir() string {
	if dir := os.Getenv("MIGRATE_TESTBED_DIR"); dir != "" {
		return dir
	}
	return "/var/lib/migrate-testbed"
}

func theCache() cache.Cache {
	if dir := os.Getenv("MIGRATE_TESTBED_CACHE"); dir != "" {
		return cache.Cache{Dir: dir}
	}
	return cache.Cache{Dir: "/var/cache/migrate-testbed"}
}
