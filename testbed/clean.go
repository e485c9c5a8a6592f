package testbed

import (
	"context"
	"fmt"
	"strings"
)

// Clean removes the cache of root file systems and images. Testbeds that are up
// use it and must be taken down before.
func Clean(ctx context.Context) error {
	names, err := Names()
	if err != nil {
		return err
	}
	cache := theCache()
	var users []string
	for _, name := range names {
		// A testbed without a state has no hosts yet.
		s, err := readState(place{name}.state())
		if err == nil && strings.HasPrefix(s.Root, cache.Dir+"/") {
			users = append(users, name)
		}
	}
	if len(users) > 0 {
		return fmt.Errorf("the cache is in use by testbeds %s: take them down first", strings.Join(users, ", "))
	}
	return cache.Clean(ctx)
}
