// Package track finds out which pages of memory the processes of a running container write, so that their memory can be
// copied while they run and only the rest while they stand still.
//
// # How it is used
//
// Scan again and again while the container runs, and copy after each what it reports; then make the processes stand still
// and call Final, which says which pages have the content that was copied last. Everything else is copied then. What Final does not
// list is never wrong to copy, so whenever a tracker is in doubt (a process that it cannot look into, a scan that failed in the
// middle) it lists nothing.
//
// # The kinds
//
// wp puts a userfaultfd into each process (see inject.go) and lets the kernel write-protect private anonymous memory in
// async mode: a write to a protected page removes the mark and goes on, and PAGEMAP_SCAN reports and protects in one step what
// has no mark. No write waits for the agent, ever. It needs Linux 6.7 and amd64. Mappings are registered while the process cannot
// change them, for which its threads are stopped for about a millisecond (see hold_amd64.go and watch.go); a scan that finds
// all mappings registered stops nobody.
//
// hash compares contents. The tracker has to know what was copied, not what was there as it looked: a lock word that
// is copied while taken looks the same before and after. So the caller hands every copy to Copied, and the tracker keeps 128 bits of it.
//
// soft-dirty is hash, but it leaves alone what the kernel knows to be unwritten. The kernel's marks (CONFIG_MEM_SOFT_DIRTY) cannot
// be read and cleared in one step, so a write between the two would be lost unless the process stood still. They are therefore
// cleared once, before the first copy, and what is marked since then is hashed.
//
// Private mappings of files and of hugetlb are hashed by every kind. After MADV_DONTNEED the kernel keeps the protection of their
// pages but not their content, so that a page that is read anew would look unwritten; and a registered mapping of a file
// faults its pages in one by one. They hold little: what is still the file's own page is left to CRIU.
// Shared mappings are left to CRIU as well.
package track
