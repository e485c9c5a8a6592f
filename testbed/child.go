package testbed

import "migrate/testbed/internal/child"

// Child must be called first in main, or in TestMain, of a program that makes
// testbeds: the hosts run the same program under another name. If it ran one of
// their tasks the program must exit with the code.
func Child() (code int, ran bool) { return child.Run() }
