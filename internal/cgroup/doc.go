// Package cgroup finds the control groups of a process, of version 1 or 2, and uses those of its CPU: what it has taken, and
// how much it may take. It knows nothing of containers, and keeps no state but in the kernel.
package cgroup
