//go:build !amd64

package hold

// vforkAndPause is there for one architecture only; elsewhere nothing is held.
func vforkAndPause() {}
