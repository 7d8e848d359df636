// Package transfer copies trees of files: between directories of the host and volumes,
// between volumes, and from and to tar streams.
//
// # What happens to existing files
//
// Directories merge. Everything else is replaced, and each regular file appears whole or
// not at all. A directory and something else never take each other's place: ErrExists.
// A copy that fails leaves what it copied before. One that succeeded is durable in a
// volume.
//
// # What is copied
//
// Links are copied as links and never followed. Several names of a file within what is
// copied are names of one file again. Holes stay holes where they are large. Sockets
// mean nothing elsewhere and are left out.
//
// Permission bits, modification times and extended attributes of users (user.*) are
// kept. Files belong to the user who copies, unless Options.Owner keeps their owners, and with
// these the setuid and setgid bits, devices and, within disk volumes, capabilities and
// access lists. A directory that was there keeps its own metadata, unless owners are kept.
// An attribute, owner or time that the target has no place for is left out with a warning,
// and counted.
//
// No path leaves a tree: the kernel, or the volume's backend, resolves each beneath the
// tree's root. The source, a tar stream above all, need not be trusted.
//
// Layers is for the root file systems of images, with rules of their own.
package transfer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/volehq/vole/internal/sparse"
)

// Tree is a tree of files to copy from and to: a Host, a Volume or a Growing. Paths in
// it have the form "a/b", "." for its root.
type Tree interface {
	newSource() source
	newTarget(opts *Options) target
}

// Options says how to copy.
type Options struct {
	// Owner keeps owners, and with them setuid and setgid bits, and devices.
	Owner bool
	// LoseDevices says why devices are not copied unless owners are kept. Each then counts
	// as lost. nil: they are left out, with a warning.
	LoseDevices error
	// Root: the directory that is copied gives its metadata to one that was there, as
	// the root of a new volume is. Those beneath it do not.
	Root bool
	// Parallel is how many files of a directory are looked at, and copied, at once; 0: one.
	// More is for trees behind a server, where each call waits for an answer. Warn and
	// Progress are never called at once.
	Parallel int
	// Strict ends the copy with an error where something of an item cannot be kept, instead
	// of a warning.
	Strict bool
	// Plain copies directories, regular files and links, with their permissions and times,
	// and nothing else: other types, attributes, and what may not be read are left out
	// without a word. A tree that is deeper than 255 directories is ErrUnsupported.
	Plain bool
	// AllowTruncated takes a tar stream that ends without its end-of-archive blocks, or has
	// nothing at all, for a whole one.
	AllowTruncated bool
	// Op names the operation in the errors that are this package's own; "": "copy".
	Op string
	// Warn is called for each thing that is left out. nil: there are no warnings.
	Warn func(format string, args ...any)
	// Progress is told how far the copy is; may be nil.
	Progress Progress

	lost *losses // of this copy

	// ignoreUnmapped leaves out an owner that the user namespace of this process lacks.
	ignoreUnmapped bool
}

// Progress is told how far a copy is, by the goroutine that copies.
type Progress interface {
	File(name string) // a regular file: has been copied; is being copied, to a tar stream
	Add(n int)        // so many bytes were read
}

func (o *Options) opName() string { return cmp.Or(o.Op, "copy") }

func (o *Options) warnf(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

func (o *Options) reportFile(name string) {
	if o.Progress != nil {
		o.Progress.File(name)
	}
}

func (o *Options) reportRead(n int) {
	if o.Progress != nil {
		o.Progress.Add(n)
	}
}

// isUnreadable reports whether an error says that the caller may not read something, and the
// options leave that out.
func (o *Options) isUnreadable(err error) bool {
	return o.Plain && errors.Is(err, fs.ErrPermission)
}

// targetMode is the mode that a target gives an item: without owners, a setuid program
// would run as the user who copied it, so these bits go with the owner.
func (o *Options) targetMode(it *item) fs.FileMode {
	m := it.mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if !o.Owner {
		m &^= fs.ModeSetuid | fs.ModeSetgid
	}
	return m
}

// writableMode is the mode of an item until it has its attributes: only a user who may write
// to a file may set them.
func (o *Options) writableMode(it *item) fs.FileMode {
	m := o.targetMode(it)
	if len(it.xattrs) > 0 {
		m |= 0o200
	}
	return m
}

// Stats counts what a copy did, also one that failed.
type Stats struct {
	Files       int64 `json:"files"`       // regular files, further names of one not counted
	Directories int64 `json:"directories"` // made or merged into
	Links       int64 `json:"links"`       // symbolic links, and further names of a file
	Others      int64 `json:"others"`      // fifos and devices
	Bytes       int64 `json:"bytes"`       // read from the source; holes not counted
	Skipped     int64 `json:"skipped"`     // sockets, and devices where owners are not kept
	Lost        int64 `json:"lost"`        // attributes, owners, times and devices that the target cannot hold or should not
}

// Copy copies the file or directory at p of src to the place at of dst, whose parent is
// there. The two trees may be the same; that neither place is in the other is the
// caller's to see to.
func Copy(ctx context.Context, dst Tree, at string, src Tree, p string, opts Options) (Stats, error) {
	from := src.newSource()
	defer closeSource(from)
	if h, ok := from.(*hostSource); ok {
		h.plain = opts.Plain
	}
	it, err := from.lstat(ctx, p)
	if err != nil {
		return Stats{}, err
	}
	if h, ok := dst.(*Host); ok && it.mode.IsDir() {
		sub, made, err := h.openSubdirectory(at, it.mode.Perm())
		if err != nil {
			return Stats{}, err
		}
		if sub != nil {
			defer sub.Close()
			dst, at, opts.Root = sub, ".", opts.Root || made
		}
	}
	c := newCopier(dst, &opts)
	err = c.copyTree(ctx, from, p, at, &it)
	if err == nil && opts.Root && it.mode.IsDir() {
		err = c.to.setMetadata(ctx, at, &it)
	}
	return c.finishCopy(ctx, err)
}

// closeSource ends the use of a source.
func closeSource(s source) {
	if c, ok := s.(io.Closer); ok {
		c.Close() // it was read only
	}
}

// WriteFile makes what r yields a regular file at the place at of dst, whose parent is
// there, with the permission bits of mode and the given modification time.
func WriteFile(ctx context.Context, dst Tree, at string, r io.Reader, mode fs.FileMode, mtime time.Time, opts Options) (Stats, error) {
	c := newCopier(dst, &opts)
	it := &item{mode: mode &^ fs.ModeType, mtime: mtime, nlink: 1}
	return c.finishCopy(ctx, c.writeFile(ctx, at, it, sparse.Stream(r)))
}

// copyBuf is the size of one read: so large that the cost of a call does not show.
const copyBuf = 256 << 10
