package main

import (
	"context"
	"io"
	"io/fs"
	"time"
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

// content is what a regular file holds, read once from the beginning.
type content interface {
	io.Reader
	io.Closer
	// nextData moves to the next range that may hold data and returns it; io.EOF
	// when none is left. The caller reads n bytes before it calls again.
	nextData(ctx context.Context) (off, n int64, err error)
}

// source is a tree of files that a copy reads. Paths have the form "a/b", "." for the
// root. Links are never followed.
type source interface {
	lstat(ctx context.Context, p string) (item, error)
	// names lists a directory, sorted.
	names(ctx context.Context, p string) ([]string, error)
	open(ctx context.Context, p string) (content, error)
	// display is the path as messages show it.
	display(p string) string
	close() error
}

// target is a tree of files that a copy writes. Nothing is ever written outside its
// root. Methods fail with fs.ErrExist when something is in the way, but for file,
// which replaces what is no directory.
type target interface {
	lstat(ctx context.Context, p string) (item, error)
	mkdir(ctx context.Context, p string, perm fs.FileMode) error
	// mkdirAll makes a directory and its missing parents, 0755.
	mkdirAll(ctx context.Context, p string) error
	// file writes a whole regular file with all its metadata: others see the old
	// one or the new.
	file(ctx context.Context, p string, it *item, c content) error
	symlink(ctx context.Context, to, p string) error
	link(ctx context.Context, old, p string) error
	mknod(ctx context.Context, p string, mode fs.FileMode, rdev uint64) error
	rename(ctx context.Context, from, to string) error
	remove(ctx context.Context, p string) error
	// setMeta applies mode (not of links), owner, xattrs and times.
	setMeta(ctx context.Context, p string, it *item) error
	display(p string) string
	// close ends the copy; what it wrote to a volume is durable then.
	close(ctx context.Context) error
	// abandon ends a copy that failed.
	abandon() error
}

// metaOptions says which metadata a target is to set.
type metaOptions struct {
	owner bool // keep owners, and with them setuid and setgid, and devices
	// lenient leaves devices out where owners are not kept, instead of failing.
	lenient bool
	warn    func(format string, args ...any)
}

// setBits is the mode that a target gives an item: without owners, a setuid program
// would run as whoever copied it, so these bits go with the owner.
func (o metaOptions) setBits(it *item) fs.FileMode {
	m := it.mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if !o.owner {
		m &^= fs.ModeSetuid | fs.ModeSetgid
	}
	return m
}
