// Package nofollow changes the attributes of what has a name, never of what a symbolic
// link of that name leads to.
package nofollow

import "io/fs"

// ChmodPath changes nothing: Windows has no modes, and access lists of a directory hold
// for what is made in it.
func ChmodPath(string, fs.FileMode) error { return nil }
