// Package migrate is the source agent: Send moves a container to a destination agent at the other end of a session.
//
// Send goes through the phases of package report, one file each. Until GO has left, whatever fails ends with the
// container running here as if nothing had happened: every step that changes something pushes what takes it back. Once
// GO has left, the container stays frozen until the destination's word settles who owns it.
package migrate
