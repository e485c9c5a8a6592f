package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// parseNetworks reads which networks of the destination take the place of the container's, by those; "" stands for the only one.
func parseNetworks(c *cli.Context) (map[string]string, error) {
	networks := map[string]string{}
	for _, text := range c.StringSlice("network") {
		old, name, two := strings.Cut(text, "=")
		if !two {
			old, name = "", text
		}
		if name == "" || two && old == "" || strings.Contains(name, "=") {
			return nil, usage(fmt.Sprintf("--network %q is neither NAME nor OLD=NAME", text), "give the name of a CNI network of the destination")
		}
		if have, twice := networks[old]; twice && have != name {
			return nil, usage("--network says two things about one network", "leave one of them out")
		}
		networks[old] = name
	}
	if networks[""] != "" && len(networks) > 1 {
		return nil, usage("--network NAME is for containers with one network", "say OLD=NAME for each of them")
	}
	return networks, nil
}
