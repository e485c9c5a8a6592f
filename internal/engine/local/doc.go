// Package local has what every engine does alike on its host: it locks containers, and makes undos that can be repeated.
package local
