// Package arch holds the project to its layers: its test goes through what every package imports and fails where a rule
// is broken, with the reason for the rule.
package arch
