package testbed

import _ "embed"

// preloadSource is compiled into every host's root, see rootfs.
//
//go:embed rlimit/prlimit.c
var preloadSource string
