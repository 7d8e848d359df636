package transfer

import (
	"context"
	"io/fs"
	"time"

	"github.com/volehq/vole/internal/sparse"
)

// item is one file, directory, link or node on its way from a source to a target.
type item struct {
	mode     fs.FileMode
	size     int64
	uid, gid int
	mtime    time.Time
	rdev     uint64 // of a device, as Linux's makedev(3) makes it
	target   string // of a symbolic link
	xattrs   map[string][]byte
	system   map[string][]byte // attributes that disk volumes keep, see isSystemAttribute

	// id tells the names of one file from those of others, where nlink > 1.
	id    fileID
	nlink uint64
	// sparse says that the file has holes worth keeping.
	sparse bool
	// stored is how much storage the content takes in the source, if that is known.
	stored int64
}

// fileID identifies a file within one source.
type fileID struct{ dev, ino uint64 }

// holeMin is how many bytes of a file must take no storage for it to be copied as a
// sparse file, range by range. File systems store small files in odd ways.
const holeMin = 64 << 10

// source is a tree of files that a copy reads. Paths have the form "a/b", "." for the
// root. Links are never followed.
type source interface {
	lstat(ctx context.Context, p string) (item, error)
	// listNames lists a directory that lstat described, sorted.
	listNames(ctx context.Context, p string, it *item) ([]string, error)
	// openFile opens a regular file that lstat said has that size.
	openFile(ctx context.Context, p string, size int64) (sparse.Content, error)
}

// target is a tree of files that a copy writes. Nothing is ever written outside its
// root. Methods fail with fs.ErrExist when something is in the way, but for file,
// which replaces anything but a directory.
type target interface {
	lstat(ctx context.Context, p string) (item, error)
	makeDirectory(ctx context.Context, p string, perm fs.FileMode) error
	// makeParentDirs makes a directory and its missing parents, 0755.
	makeParentDirs(ctx context.Context, p string) error
	// writeFile writes a whole regular file with all its metadata: others see the old
	// one or the new.
	writeFile(ctx context.Context, p string, it *item, c sparse.Content) error
	makeSymlink(ctx context.Context, to, p string) error
	makeHardLink(ctx context.Context, old, p string) error
	makeNode(ctx context.Context, p string, mode fs.FileMode, rdev uint64) error
	rename(ctx context.Context, from, to string) error
	remove(ctx context.Context, p string) error
	// setMetadata applies mode (not of links), owner, xattrs and times.
	setMetadata(ctx context.Context, p string, it *item) error
	// setXattrs applies the xattrs of a directory alone.
	setXattrs(ctx context.Context, p string, it *item) error
	// syncVolume makes a copy to a volume durable.
	syncVolume(ctx context.Context) error
	// displayPath is the path as messages show it.
	displayPath(p string) string
}
