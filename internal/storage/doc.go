// Package storage knows what a container has mounted beside its root file system, and what becomes of each such mount when the
// container moves.
//
// A source agent plans: [Plan] goes through the specification and the mounts of the running container and says of each how it
// travels, which ends in a list of [Volume]s that cross the wire. Nothing is decided by the file system type alone:
//
//   - A bind mount stands for a place that exists on both hosts ([Present]), unless the user, or the engine that made it as a
//     volume of the container's own, says that its content belongs to the container ([Copied]).
//   - resolv.conf, hosts and hostname, which engines bind over those of the image, are files of the container that no user made:
//     they come along to a place of the destination's choice ([Carried]), or are made for the destination ([Remade]).
//   - A tmpfs is memory of the container in the form of files ([Memory]).
//
// [View] opens the tree behind a mount as the container sees it, without what is mounted below it, so that package layers
// can send it like an RW layer.
//
// A destination agent judges the list: what of it may touch this host is its policy's to say. [Place] then makes room for one tree
// and takes it away again; [Left] remembers which trees have gone to another host unchanged, so that a container that comes
// back finds its place, and nothing else is ever overwritten.
package storage
