// Package shmem finds the shared memory of a container's processes, and reads and writes it as what it is: objects of their own, which
// several processes may map, or none.
//
// An object is what stands behind anonymous shared mappings, a segment of System V shared memory, or a file made by memfd_create,
// mapped or only open; of small pages or of huge ones. Files on a tmpfs are files, and left to whoever looks after files.
//
// What changes in an object is found out by looking at its content: a process can write it through a mapping of its own, or through no
// mapping at all (write(2) to a memfd), so that what the kernel knows of the mappings of those who live now says too little. Pages that
// nobody ever wrote are no part of this: looking at one would bring it into being.
//
// CRIU names objects by their inode numbers, for which an image set has files pagemap-shmem-ID.img. Here, too, an ID is one of these.
package shmem
