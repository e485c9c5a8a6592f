// Package local has what every engine does alike on its host: it locks containers, reads what runc keeps of them, asks tools for
// their versions, and makes undos that can be repeated.
package local
