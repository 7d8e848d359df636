package main

import (
	"path"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// absPath is a path in a volume with a leading slash, for people to read. It must
// have passed cleanPath, or come from a listing.
func absPath(p string) string { return path.Clean("/" + p) }

// baseName is the last element of a path; "/" of the root.
func baseName(p string) string { return path.Base(absPath(p)) }

// joinPath appends an element to a path in a volume.
func joinPath(dir, name string) string {
	if dir == "." || dir == "/" || dir == "" {
		return name
	}
	return dir + "/" + name
}

// cleanPath checks a path in the named volume and brings it into the form "a/b", "."
// for the root.
func cleanPath(op, volume, p string) (string, error) {
	c, err := driver.CleanPath(p)
	if err != nil {
		return "", &vole.Error{Op: op, Volume: volume, Path: p, Err: err}
	}
	return c, nil
}

// asksForDir reports whether a path is written so that only a directory can be meant.
func asksForDir(p string) bool {
	return strings.HasSuffix(p, "/") || path.Base(p) == "." || path.Base(p) == ".."
}
