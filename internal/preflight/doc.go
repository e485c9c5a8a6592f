// Package preflight says what stands in the way of a migration before the container stops: which process, descriptor, socket or
// path, why, and what can be done about it.
//
// It is pure judgement: Container and Host are facts, which package gather reads from the system, and the judge functions
// turn them into findings. What can be found, and how bad it is, stands in one table, with a stable code for each kind. The
// same table turns what CRIU says when it fails all the same into cause and remedy (Explain).
//
// A finding blocks only what is known to fail with CRIU 4.2; what is known to work is not refused, however unusual.
package preflight
