// Command containerd-shim-migrate-v1 is the shim of package migrate/internal/shim.
package main

import "migrate/internal/shim"

func main() { shim.Main() }
