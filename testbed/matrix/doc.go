// Package matrix moves what people run, each program under load and to and fro, and has the program's own means tell
// whether anything was lost or happened twice.
//
// A [Row] is a workload: what runs in the container, what uses it from another host while it moves, and how it is checked.
// A [Lab] moves it between two hosts of a testbed. There are three kinds of proof, and a row may use all of them:
//
//   - The container prints numbered lines. Each must be in the logs of the two hosts once, and no program that has found
//     something wrong prints on.
//   - A client in a container of a third host stays connected all the while, prints a line for what it is answered, and ends
//     with status 0 only if every answer was right, the last ones included.
//   - A check is run in the container wherever it is.
//
// A program that CRIU cannot move is a row too: the move has to be refused before the container is frozen, for the reason
// that the row gives, and the container has to go on.
package matrix
