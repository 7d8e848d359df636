// Package ballast keeps a little of a disk free for what gives room back. On Windows,
// where nothing is kept that could need it, it keeps nothing.
package ballast

import (
	"errors"

	"github.com/volehq/vole/driver"
)

// What other systems keep.
const (
	InodesName = "ballast-inodes" // the directory of the empty files
	Inodes     = 0                // how many of these there are
)

// Ballast lends nothing.
type Ballast struct{}

// OpenDir returns the ballast of a directory.
func OpenDir(string) *Ballast { return &Ballast{} }

// Close does nothing.
func (b *Ballast) Close() error { return nil }

// Opening runs fn.
func (b *Ballast) Opening(fn func() error) error { return fn() }

// Keep does nothing.
func (b *Ballast) Keep() {}

// Freeing runs fn.
func (b *Ballast) Freeing(fn func() error) error { return fn() }

// NoSpace reports whether err says that the disk is full.
func NoSpace(err error) bool { return errors.Is(err, driver.ErrNoSpace) }
