// Package uffd speaks userfaultfd and PAGEMAP_SCAN, the two kernel interfaces on which moving memory rests: the first
// answers page faults of another process and marks what it writes, the second lists the marks.
//
// Numbers and layouts are those of include/uapi/linux/userfaultfd.h and include/uapi/linux/fs.h; what they mean is in
// Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst. All addresses and lengths are in bytes and aligned to
// PageSize. Errors are the kernel's errno, unwrapped, since most of them tell the caller what to do next.
package uffd

// PageSize is the only base page size that is supported.
const PageSize = 4096
