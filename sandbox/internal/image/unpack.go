package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sparse"
)

// Whiteouts of the OCI image specification.
// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// unpacker applies layers to a directory.
//
// Entries are named through links of the image itself, which may be absolute and then
// mean the image's root; [os.Root] would take those for an escape. So parents are
// resolved here, into a path without links, and os.Root is the guard beneath: whatever
// a mistake here, the kernel refuses to leave the directory.
type unpacker struct {
	ctx      context.Context
	root     *os.Root
	opts     Options
	left     int64 // bytes that layers may still have
	bytes    int64 // of files
	entries  int64
	lookups  int64
	dirBytes int64               // of memory for dirs
	own      pathSet             // of the layer in work, for whiteouts
	cleared  pathSet             // directories that are opaque in it
	dirs     map[string]dirTimes // set at the end, since entries change their parents
	lastDir  [2]string           // the last parent, as named and as resolved
}

type dirTimes struct {
	mode fs.FileMode
	time time.Time
}

func newUnpacker(ctx context.Context, root *os.Root, opts Options) *unpacker {
	return &unpacker{ctx: ctx, root: root, opts: opts, left: opts.Limits.maxBytes(), dirs: map[string]dirTimes{}}
}

// limit bounds what is unpacked by the size of the image as it is packed.
func (u *unpacker) limit(size int64) {
	u.opts.Limits = u.opts.Limits.scaledToFile(size)
	u.left = u.opts.Limits.maxBytes()
}

// layer applies one tar. Whiteouts mean something only in images.
func (u *unpacker) layer(r io.Reader, whiteouts bool) error {
	u.own, u.cleared = newPathSet(), newPathSet()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := u.ctx.Err(); err != nil {
			return err
		}
		if err := u.countEntry(); err != nil {
			return err
		}
		if err := u.entry(h, t, whiteouts); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, refuse(err))
		}
	}
}

// countEntry counts an entry, or a parent that none names.
func (u *unpacker) countEntry() error {
	if u.entries++; u.entries > u.opts.Limits.maxEntries() {
		return driver.Errorf(vole.ErrNoSpace, "more than %d entries", u.opts.Limits.maxEntries())
	}
	return nil
}

// lookup counts a name that the kernel is to find at the given depth.
func (u *unpacker) lookup(at string) error {
	depth := int64(strings.Count(at, "/")) + 1
	if u.lookups += depth; u.lookups > maxLookups {
		return driver.Errorf(vole.ErrNoSpace, "to unpack it takes more than %d look-ups of names", int64(maxLookups))
	}
	if depth > maxDepth {
		return driver.Errorf(vole.ErrUnsupported, "the path is deeper than %d directories", maxDepth)
	}
	return nil
}

// refuse gives the error of os.Root for an escape its kind here.
func refuse(err error) error {
	if err != nil && strings.HasSuffix(err.Error(), "path escapes from parent") {
		return driver.Errorf(vole.ErrPathEscape, "%v", err)
	}
	return err
}

// clean brings an entry's name into the form of fs.ValidPath. "" is the root.
func clean(name string) (string, error) {
	if strings.ContainsRune(name, 0) || len(name) > driver.MaxPathLen {
		return "", driver.Errorf(vole.ErrCorrupt, "the name has a NUL byte or more than %d bytes", driver.MaxPathLen)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", driver.Errorf(vole.ErrPathEscape, "the name has a '..' element")
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader, whiteouts bool) error {
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return nil // the root itself keeps the mode it was made with
	}
	dir, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	if whiteouts && strings.HasPrefix(base, whiteout) {
		return u.white(dir, base)
	}
	full := path.Join(dir, base)
	if err := u.lookup(full); err != nil {
		return err
	}
	u.mark(full)
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(full, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(full, h, r)
	case tar.TypeSymlink:
		return u.symlink(full, h)
	case tar.TypeLink:
		return u.hardlink(full, h)
	case tar.TypeFifo:
		return u.fifo(full, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeXGlobalHeader:
		return nil
	}
	return driver.Errorf(vole.ErrCorrupt, "unknown type %q", h.Typeflag)
}

// mark remembers that full, and so its parents, are of this layer.
func (u *unpacker) mark(full string) {
	for p := full; p != "." && !u.own.has(p); p = path.Dir(p) {
		u.own.add(p)
	}
}

// parent returns dir without links, made when missing.
func (u *unpacker) parent(dir string) (string, error) {
	if dir == "." {
		return ".", nil
	}
	if u.lastDir[0] == dir {
		return u.lastDir[1], nil
	}
	real, err := u.resolve(dir, true)
	if err != nil {
		return "", err
	}
	u.lastDir = [2]string{dir, real}
	return real, nil
}

// resolve follows name from the root as if that were "/", so that links cannot lead out,
// and returns the path without links. With mkdir, missing directories are made, and a
// file in the way of one is an error.
func (u *unpacker) resolve(name string, mkdir bool) (string, error) {
	todo := strings.Split(name, "/")
	at := "."
	for links := 0; len(todo) > 0; {
		e := todo[0]
		todo = todo[1:]
		switch e {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, e)
		if err := u.lookup(next); err != nil {
			return "", err
		}
		st, err := u.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && mkdir:
			if err := u.countEntry(); err != nil {
				return "", err
			}
			if err := u.root.Mkdir(next, 0o755); err != nil {
				return "", err
			}
			at = next
		case err != nil:
			return "", err
		case st.Mode()&fs.ModeSymlink != 0:
			if links++; links > 40 {
				return "", driver.Errorf(vole.ErrLoop, "%q: too many links", name)
			}
			target, err := u.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			todo = append(strings.Split(target, "/"), todo...)
		case !st.IsDir() && (mkdir || len(todo) > 0):
			return "", driver.Errorf(vole.ErrNotDir, "%q is not a directory", next)
		default:
			at = next
		}
	}
	return at, nil
}

// white applies a whiteout found in dir.
func (u *unpacker) white(dir, base string) error {
	u.lastDir = [2]string{}
	if base == opaque {
		return u.clear(dir)
	}
	hidden := strings.TrimPrefix(base, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return driver.Errorf(vole.ErrCorrupt, "a whiteout of nothing")
	}
	if strings.HasPrefix(base, ".wh..wh.") {
		return nil // other names that the specification reserves
	}
	if full := path.Join(dir, hidden); !u.own.has(full) {
		return u.root.RemoveAll(full)
	}
	return nil
}

// clear removes from dir what lower layers put there.
func (u *unpacker) clear(dir string) error {
	if u.cleared.has(dir) {
		return nil
	}
	u.cleared.add(dir)
	list, err := readDir(u.root, dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		full := path.Join(dir, e.Name())
		if err := u.lookup(full); err != nil {
			return err
		}
		switch {
		case !u.own.has(full):
			err = u.root.RemoveAll(full)
		case e.IsDir():
			err = u.clear(full)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// replace makes room for an entry that is not a directory.
func (u *unpacker) replace(full string) error {
	_, err := u.root.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	u.lastDir = [2]string{} // a directory, or a link that it was named through
	return u.root.RemoveAll(full)
}

func perm(h *tar.Header) fs.FileMode {
	return fs.FileMode(h.Mode&0o777) | fs.FileMode(h.Mode&0o1000)<<11 // ModeSticky is bit 20, S_ISVTX bit 9
}

func (u *unpacker) dir(full string, h *tar.Header) error {
	st, err := u.root.Lstat(full)
	if err == nil && !st.IsDir() {
		if err := u.replace(full); err != nil {
			return err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = u.root.Mkdir(full, 0o700)
	}
	if err != nil {
		return err
	}
	if _, ok := u.dirs[full]; !ok {
		if u.dirBytes += int64(len(full)) + dirOverhead; u.dirBytes > maxDirectories {
			return driver.Errorf(vole.ErrNoSpace, "the names of its directories take more than %v", vole.Size(maxDirectories))
		}
	}
	u.dirs[full] = dirTimes{perm(h), h.ModTime}
	return u.chown(full, h)
}

func (u *unpacker) file(full string, h *tar.Header, r io.Reader) error {
	if err := u.replace(full); err != nil {
		return err
	}
	if h.Size > u.opts.Limits.maxBytes()-u.bytes {
		return u.opts.Limits.exceededError()
	}
	u.bytes += h.Size
	f, err := u.root.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(u.fill(f, h.Size, r), f.Close())
	if err == nil {
		err = u.chown(full, h)
	}
	if err == nil {
		err = u.root.Chmod(full, perm(h))
	}
	if err == nil {
		err = u.root.Chtimes(full, h.ModTime, h.ModTime)
	}
	return err
}

// fill writes a file's content. What is zero becomes a hole: a header of some bytes can
// claim gigabytes of it.
func (u *unpacker) fill(f *os.File, size int64, r io.Reader) error {
	in := &counter{r: r}
	err := sparse.Copy(u.ctx, sparse.Stream(in), size, func(b []byte, off int64) error {
		_, err := f.WriteAt(b, off)
		return err
	})
	if err == nil && in.n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	return f.Truncate(size)
}

// counter counts what is read from r.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (u *unpacker) symlink(full string, h *tar.Header) error {
	if err := u.replace(full); err != nil {
		return err
	}
	u.lastDir = [2]string{}
	if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) {
		return driver.Errorf(vole.ErrCorrupt, "a link to nothing")
	}
	// Any target is fine: it is followed only by what takes this directory for "/".
	if err := u.root.Symlink(h.Linkname, full); err != nil {
		return err
	}
	return u.chown(full, h)
}

func (u *unpacker) hardlink(full string, h *tar.Header) error {
	target, err := clean(h.Linkname)
	if err != nil {
		return err
	}
	dir, err := u.resolve(path.Dir(target), false)
	if err != nil {
		return err
	}
	old := path.Join(dir, path.Base(target))
	st, err := u.root.Lstat(old)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return driver.Errorf(vole.ErrCorrupt, "a hard link to a directory")
	}
	if old == full {
		return nil
	}
	if err := u.replace(full); err != nil {
		return err
	}
	return u.root.Link(old, full)
}

func (u *unpacker) chown(full string, h *tar.Header) error {
	if !u.opts.Chown {
		return nil
	}
	err := u.root.Lchown(full, h.Uid, h.Gid)
	if errors.Is(err, fs.ErrInvalid) || isEINVAL(err) {
		return nil // not an owner of this user namespace
	}
	return err
}

// finish gives directories their modes and times, the deepest first.
func (u *unpacker) finish() error {
	names := slices.Sorted(maps.Keys(u.dirs))
	for _, name := range slices.Backward(names) {
		d := u.dirs[name]
		st, err := u.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
			continue // a later layer took it away
		}
		if err != nil {
			return err
		}
		if err := u.root.Chmod(name, d.mode); err != nil {
			return err
		}
		if err := u.root.Chtimes(name, d.time, d.time); err != nil {
			return err
		}
	}
	return nil
}
