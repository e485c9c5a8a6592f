// Package filler puts content into shared memory from a process of its own.
//
// Shared memory is written fastest as the file that it is: pages come into being without a fault for each, and without being cleared first.
// The kernel accounts such pages to the group of whoever writes, so it is a process that the agent moves into the container's memory
// group. It reads slots of a page store, writes them where they belong, and gives their memory back as it goes, which the kernel then uses for
// the next pages: that is far cheaper than memory that it has to get from elsewhere, above all in a virtual machine.
//
//	agent                    filler
//	                   ◀──── ready
//	job, pieces, end   ────▶ fills
//	                   ◀──── ok, or what went wrong
package filler
