// Package pager fills the memory of restored tasks from pages that lie on this host already, while the tasks run: it answers
// CRIU's lazy-pages protocol (criu/uffd.c) and the page faults of every task, and copies the rest in the background.
//
// # Processes
//
//	agent ──container, commit, abort──▶ guard ──starts──▶ worker ◀──vpid, userfaultfd── CRIU
//	  │                                   ▲                 │  │
//	  │                                   └──duplicates─────┘  └──pages──▶ tasks
//	  └──────plan, fill, arrived──▶ worker ──requests──▶ agent
//
// The kernel gives zeros, without any error, for the missing pages of a task as soon as the last descriptor that watches them is
// closed. So each descriptor exists twice: the worker uses it, and the guard merely holds it until the worker has filled that
// address space. When the worker dies, the tasks block at the next missing page instead of reading zeros, and the guard kills the
// container, which cannot be completed any more. When the guard dies, the worker goes on without.
//
// Both outlive the agent once it has committed. Before, they end with it: the restore fails then, and the container is still the
// source's.
//
// One gap is left: the kernel hands the descriptor of a forked child to the worker alone, at the moment when it lets the parent
// go on. If the worker dies right there, before the guard has its duplicate, the child may read zeros until the guard's kill
// reaches it.
//
// # Life of an address space
//
//	descriptor came ──▶ held by the guard ──plan──▶ faults answered ──fill──▶ being filled ──nothing missing──▶ released
//	                                                     │ fork: a child with a copy of the map           ▲
//	                                                     └── process gone ────────────────────────────────┘
//
// # What is where
//
// A map says for each page that is still missing where its content is: in a slot of the store, or still remote. A page that is not
// in the map is filled, or was never known, or was given up by its task; when such a page is missing it reads as zeros. Pages
// therefore leave the map when they are filled and never come back, and a later MADV_DONTNEED needs no memory of what was there.
//
// # Races
//
// An event (fork, mremap, munmap, MADV_DONTNEED) is read and applied while the address space is locked for writing; every copy
// runs while it is locked for reading, and follows a look at the map under the same lock. From the moment in which a task begins
// to change its mappings until the event has been read the kernel refuses copies with EAGAIN, so no copy can be based on a map that
// is older than the mappings.
package pager
