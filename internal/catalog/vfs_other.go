//go:build unix && !linux

package catalog

import "os"

// pathInOpenDir would return a path by which SQLite reaches name in an open directory. This
// system has no such path, so the database is opened by its own.
func pathInOpenDir(dir *os.File, name string) (path, vfs string, ok bool) { return "", "", false }
