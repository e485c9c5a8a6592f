// Package traffic is clients that notice what a stop of their server does to them, and the server's end of what they do.
//
// There is one client for each way in which programs use TCP, see Kinds. Each checks every byte that it gets, counts
// connections that were reset or refused, and notes the times in which it made no progress. An upload's bytes are checked by
// the server, which tells how many were right; that is the client's progress then.
//
// A connection begins with a line that says what it is for. A client numbers its requests from 1:
//
//	seq 17            →  seq 17, or: error want 16
//	download 7 65536  →  the sequence of seed 7, about so many bytes a second, until the client leaves
//	upload 7          →  got 65536, again and again, while the client sends the sequence of seed 7; or: wrong 3 before 65536
//
// The first of these is answered by the server's program, the others by Serve.
package traffic
