package transfer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/pathwalk"
)

// What layers may cost, whatever they say: a few kilobytes can be compressed gigabytes, and
// a name of many elements takes many look-ups each time it is used.
const (
	maxLayerDepth   = 255      // elements of a path
	maxLayerLookups = 1 << 26  // names looked up or listed, each counted by its depth
	maxLayerDirs    = 96 << 20 // bytes of memory for directories whose metadata is set at the end
	layerDirCost    = 128      // bytes that one takes beside its name, about
)

// LayerOptions says how layers are unpacked.
type LayerOptions struct {
	// Owner gives files the owners that the layers say; without it, all belong to the
	// caller. An owner that the caller's user namespace lacks is left out.
	Owner bool
	// MaxBytes bounds the sizes of all files, and MaxEntries the entries of all layers,
	// missing parents included.
	MaxBytes, MaxEntries int64
}

// Layers unpacks tar streams into an empty directory of the host, one over the other, as
// the layers of an image are: what a later one has replaces what an earlier one had, of
// whatever type. The streams are not trusted.
//
// Entries are named through links of the image itself, which may be absolute and then mean
// the image's root; os.Root would take those for an escape. So parents are resolved here,
// into a path without links, and os.Root is the guard beneath: whatever a mistake here, the
// kernel refuses to leave the directory.
//
// Directories, regular files, links and fifos are unpacked, with their permissions and
// times. Devices, setuid and setgid bits and extended attributes are left out: a sandbox
// has a /dev of its own, and gains nothing by the others.
type Layers struct {
	tree    *hostTree
	opts    LayerOptions
	bytes   int64 // of files, as their headers say
	entries int64
	lookups int64

	own     pathSet // of the layer in work, which its whiteouts spare
	cleared pathSet // directories that are opaque in it

	dirs     map[string]layerDir // metadata is set at the end, since entries change their parents
	dirsCost int64               // bytes of memory for dirs
	parent   struct{ named, real string }
}

// layerDir is the metadata of a directory, as its last entry has it.
type layerDir struct {
	mode     fs.FileMode
	uid, gid int
	mtime    time.Time
}

// NewLayers begins to unpack layers into dst, which the caller closes.
func NewLayers(dst *Host, opts LayerOptions) *Layers {
	tree := &hostTree{dst, &Options{Op: "unpack", Owner: opts.Owner, ignoreUnmapped: true, lost: &losses{}}}
	return &Layers{tree: tree, opts: opts, dirs: map[string]layerDir{}}
}

// Unpack applies a layer, a tar stream that is not compressed. With whiteouts, names that
// begin with ".wh." remove what earlier layers have; without, they are names. What follows
// the end of the archive is not read.
func (l *Layers) Unpack(ctx context.Context, r io.Reader, whiteouts bool) error {
	l.own, l.cleared = newPathSet(), newPathSet()
	t := newTarEntries(r)
	for {
		hdr, err := t.nextHeader(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := l.countEntry(); err != nil {
			return err
		}
		global, err := t.applyGlobals(hdr)
		if err = asCorrupt(err); err == nil && !global {
			err = l.unpackEntry(ctx, t, hdr, whiteouts)
		}
		if err != nil {
			return fmt.Errorf("entry %.200q: %w", hdr.Name, explainEscape(err))
		}
	}
}

// Finish gives directories their metadata, the deepest first, once all layers are unpacked.
func (l *Layers) Finish(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(l.dirs))
	for _, name := range slices.Backward(names) {
		st, err := l.tree.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
			continue // a later layer took it away
		}
		if err != nil {
			return err
		}
		d := l.dirs[name]
		if err := l.tree.setMetadata(ctx, name, &item{mode: d.mode, uid: d.uid, gid: d.gid, mtime: d.mtime}); err != nil {
			return err
		}
	}
	return nil
}

// countEntry counts an entry, or a parent that none names.
func (l *Layers) countEntry() error {
	if l.entries++; l.entries > l.opts.MaxEntries {
		return driver.Errorf(vole.ErrNoSpace, "more than %d entries", l.opts.MaxEntries)
	}
	return nil
}

// countLookup counts a name that the kernel is about to find at the depth of p.
func (l *Layers) countLookup(p string) error {
	depth := int64(strings.Count(p, "/")) + 1
	if l.lookups += depth; l.lookups > maxLayerLookups {
		return driver.Errorf(vole.ErrNoSpace, "to unpack it takes more than %d look-ups of names", int64(maxLayerLookups))
	}
	if depth > maxLayerDepth {
		return driver.Errorf(vole.ErrUnsupported, "the path is deeper than %d directories", maxLayerDepth)
	}
	return nil
}

// explainEscape gives the error of os.Root for an escape its kind here.
func explainEscape(err error) error {
	if strings.HasSuffix(err.Error(), "path escapes from parent") {
		return driver.Errorf(vole.ErrPathEscape, "%v", err)
	}
	return err
}

// asCorrupt makes ErrCorrupt of an error that says that a header or a map makes no sense, or
// that the stream ends within a sparse file: an image is no input of the user's.
func asCorrupt(err error) error {
	if errors.Is(err, vole.ErrInvalid) || errors.Is(err, errCutRange) {
		return driver.Errorf(vole.ErrCorrupt, "%v", err)
	}
	return err
}

// cleanLayerName brings an entry's name into the form of fs.ValidPath. "" is the root.
func cleanLayerName(name string) (string, error) {
	if strings.ContainsRune(name, 0) || len(name) > driver.MaxPathLen {
		return "", driver.Errorf(vole.ErrCorrupt, "the name has a NUL byte or more than %d bytes", driver.MaxPathLen)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", driver.Errorf(vole.ErrPathEscape, "the name has a '..' element")
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// unpackEntry applies one entry, which is a whiteout or replaces what has its name.
func (l *Layers) unpackEntry(ctx context.Context, t *tarEntries, hdr *tar.Header, whiteouts bool) error {
	name, err := cleanLayerName(hdr.Name)
	if err != nil || name == "" {
		return err // the root itself keeps the mode that it was made with
	}
	dir, err := l.resolveParent(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	if whiteouts && strings.HasPrefix(base, whiteoutPrefix) {
		return l.applyWhiteout(dir, base)
	}
	full := path.Join(dir, base)
	if err := l.countLookup(full); err != nil {
		return err
	}
	l.markOwn(full)
	it := itemOfHeader(hdr)
	it.mode &^= fs.ModeSetuid | fs.ModeSetgid
	switch hdr.Typeflag {
	case tar.TypeDir:
		return l.makeDirectory(ctx, full, &it)
	case tar.TypeReg:
		return l.writeFile(ctx, full, &it, t)
	case tar.TypeSymlink:
		return l.makeLink(ctx, full, &it)
	case tar.TypeLink:
		return l.makeHardLink(ctx, full, hdr.Linkname)
	case tar.TypeFifo:
		return l.replaceExisting(ctx, full, &it, func() error { return l.tree.makeNode(ctx, full, it.mode, 0) })
	case tar.TypeChar, tar.TypeBlock:
		return nil
	}
	return driver.Errorf(vole.ErrCorrupt, "unknown type %q", hdr.Typeflag)
}

// resolveParent returns dir without links, made when it is missing. The last answer is
// remembered: entries of a directory follow one another.
func (l *Layers) resolveParent(dir string) (string, error) {
	switch dir {
	case ".":
		return ".", nil
	case l.parent.named:
		return l.parent.real, nil
	}
	real, err := l.resolvePath(dir, true)
	if err != nil {
		return "", err
	}
	l.parent.named, l.parent.real = dir, real
	return real, nil
}

// forgetParent is called when a directory or a link may have gone that the last parent was
// named through.
func (l *Layers) forgetParent() { l.parent.named = "" }

// resolvePath follows name from the root as if that were "/", so that links cannot lead
// out, and returns the path without links. With mkdir, missing directories are made, and
// anything else in the way of one is an error.
func (l *Layers) resolvePath(name string, mkdir bool) (string, error) {
	walker := pathwalk.Walker[string]{
		Chroot: true,
		Lookup: func(dir string, s pathwalk.Step) (string, pathwalk.Kind, error) {
			next := path.Join(dir, s.Name)
			if err := l.countLookup(next); err != nil {
				return "", 0, err
			}
			st, err := l.tree.root.Lstat(next)
			switch {
			case errors.Is(err, fs.ErrNotExist) && mkdir:
				if err := l.countEntry(); err != nil {
					return "", 0, err
				}
				return next, pathwalk.Directory, l.tree.root.Mkdir(next, 0o755)
			case err != nil:
				return "", 0, err
			case st.Mode()&fs.ModeSymlink != 0:
				return next, pathwalk.Link, nil
			case st.IsDir():
				return next, pathwalk.Directory, nil
			case mkdir:
				return "", 0, driver.Errorf(vole.ErrNotDir, "%q is not a directory", next)
			}
			return next, pathwalk.Other, nil
		},
		Readlink: l.tree.root.Readlink,
	}
	steps, err := walker.Walk(".", name)
	if err != nil {
		return "", fmt.Errorf("%.200q: %w", name, err)
	}
	return steps[len(steps)-1], nil
}

// removeExisting makes room for an entry that is not a directory.
func (l *Layers) removeExisting(full string) error {
	_, err := l.tree.root.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l.forgetParent()
	return l.tree.root.RemoveAll(full)
}

// makeDirectory makes a directory in the place of anything but one, or keeps the one there. Its
// metadata is set by Finish; until then the caller can write to it.
func (l *Layers) makeDirectory(ctx context.Context, full string, it *item) error {
	st, err := l.tree.root.Lstat(full)
	if err == nil && !st.IsDir() {
		if err := l.removeExisting(full); err != nil {
			return err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = l.tree.makeDirectory(ctx, full, 0o700)
	}
	if err != nil {
		return err
	}
	if _, ok := l.dirs[full]; !ok {
		if l.dirsCost += int64(len(full)) + layerDirCost; l.dirsCost > maxLayerDirs {
			return driver.Errorf(vole.ErrNoSpace, "the names of its directories take more than %v", vole.Size(maxLayerDirs))
		}
	}
	l.dirs[full] = layerDir{it.mode, it.uid, it.gid, it.mtime}
	return nil
}

// writeFile writes a regular file. There is no temporary name: nobody sees a layer half unpacked.
func (l *Layers) writeFile(ctx context.Context, full string, it *item, t *tarEntries) error {
	if err := l.removeExisting(full); err != nil {
		return err
	}
	content, err := t.openContent(it)
	if err != nil {
		return asCorrupt(err)
	}
	if it.size > l.opts.MaxBytes-l.bytes {
		return driver.Errorf(vole.ErrNoSpace, "it unpacks to more than %v, the most for a file of this size", vole.Size(l.opts.MaxBytes))
	}
	l.bytes += it.size
	// Zeros become holes, too: a header of some bytes can claim gigabytes of them.
	it.sparse = it.sparse || it.size >= holeMin
	return asCorrupt(l.tree.createFile(ctx, full, full, it, content))
}

// makeLink makes a symbolic link.
func (l *Layers) makeLink(ctx context.Context, full string, it *item) error {
	l.forgetParent()
	if it.target == "" || strings.ContainsRune(it.target, 0) {
		return driver.Errorf(vole.ErrCorrupt, "a link to nothing")
	}
	// Any target is fine: it is followed only by what takes this directory for "/".
	return l.replaceExisting(ctx, full, it, func() error { return l.tree.makeSymlink(ctx, it.target, full) })
}

// replaceExisting makes a link or a node by make in the place of what is there.
func (l *Layers) replaceExisting(ctx context.Context, full string, it *item, make func() error) error {
	if err := l.removeExisting(full); err != nil {
		return err
	}
	if err := make(); err != nil {
		return err
	}
	return l.tree.setMetadata(ctx, full, it)
}

// makeHardLink makes full another name of target, which is resolved like the name of an entry, but
// for its last element: a link itself gets the name, not what it leads to.
func (l *Layers) makeHardLink(ctx context.Context, full, target string) error {
	target, err := cleanLayerName(target)
	if err != nil {
		return err
	}
	dir, err := l.resolvePath(path.Dir(target), false)
	if err != nil {
		return err
	}
	old := path.Join(dir, path.Base(target))
	st, err := l.tree.root.Lstat(old)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return driver.Errorf(vole.ErrCorrupt, "a hard link to a directory")
	}
	if old == full {
		return nil
	}
	if err := l.removeExisting(full); err != nil {
		return err
	}
	return l.tree.makeHardLink(ctx, old, full)
}
