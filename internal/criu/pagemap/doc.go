// Package pagemap reads and writes the images in which CRIU says which pages of memory an image set holds: one
// pagemap-VPID.img for each task, one pagemap-shmem-ID.img for each piece of shared memory. The pages themselves are in
// pages-N.img, N being in the pagemap's head: those that are present there stand back to back, in the order of the
// entries, so that nothing can be put in between without writing the file anew; BuildEager does that.
//
// An image set comes from a peer, so that every number in it is checked, and what reading takes in memory is in proportion
// to what was read.
package pagemap
