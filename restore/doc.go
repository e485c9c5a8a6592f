// Package restore is the destination agent: Recv takes in the one container that a source agent offers on a session, or
// answers its question what became of one.
//
// Recv mirrors the phases of package migrate. Every step that registers something pushes what takes it back; until GO
// has come, whatever fails leaves nothing of the container here. After GO the container is either running here, or
// destroyed before the source is told that it may thaw its own.
package restore
