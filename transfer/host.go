package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sparse"
)

// Host is a directory of the host as a Tree. Every path is resolved beneath it: what a
// copy writes cannot leave it, whatever links the copied files bring along.
type Host struct {
	root *os.Root
	dir  string
}

// OpenHost opens a directory of the host. The caller closes it.
func OpenHost(dir string) (*Host, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, HostError("open", dir, err)
	}
	return &Host{root, dir}, nil
}

// Is reports whether the directory is the one that info describes.
func (h *Host) Is(info fs.FileInfo) bool {
	is, err := h.root.Stat(".")
	return err == nil && os.SameFile(info, is)
}

// openSubdirectory opens the directory at that a tree is copied to as a root of its own, so that
// nothing of the tree gets into a directory beside it, and makes it if it is missing. nil: it
// is the root already, or is no directory, which the copy then refuses to replace.
func (h *Host) openSubdirectory(at string, perm fs.FileMode) (sub *Host, made bool, err error) {
	if path.Clean(at) == "." {
		return nil, false, nil
	}
	display := filepath.Join(h.dir, filepath.FromSlash(at))
	err = h.root.Mkdir(at, perm|0o700) // the owner can write until the metadata is set
	if made = err == nil; !made && !errors.Is(err, fs.ErrExist) {
		return nil, false, HostError("mkdir", display, err)
	}
	was, err := h.root.Lstat(at)
	if err != nil {
		return nil, false, HostError("lstat", display, err)
	}
	if !was.IsDir() {
		return nil, false, nil
	}
	root, err := h.root.OpenRoot(at)
	if err != nil {
		return nil, false, HostError("open", display, err)
	}
	if sub = (&Host{root, display}); !sub.Is(was) {
		root.Close()
		return nil, false, HostError("open", display, driver.Errorf(vole.ErrExists, "another user replaced it while it was opened"))
	}
	return sub, made, nil
}

// Close closes the directory.
func (h *Host) Close() error { return h.root.Close() }

func (h *Host) newSource() source              { return newHostSource(h) }
func (h *Host) newTarget(opts *Options) target { return &hostTree{h, opts} }

// hostTree is a Host in one copy.
type hostTree struct {
	*Host
	opts *Options // as a target
}

// HostError gives an error of the host the whole path, and Vole's sentinels.
func HostError(op, p string, err error) error {
	if err == nil {
		return nil
	}
	for {
		if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err
		} else if le := (*os.LinkError)(nil); errors.As(err, &le) {
			err = le.Err
		} else {
			break
		}
	}
	if e, ok := err.(syscall.Errno); ok {
		err = driver.FromErrno(e)
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

func (t *hostTree) displayPath(p string) string { return filepath.Join(t.dir, filepath.FromSlash(p)) }

func (t *hostTree) wrapError(op, p string, err error) error {
	return HostError(op, t.displayPath(p), err)
}

func (t *hostTree) lstat(ctx context.Context, p string) (item, error) {
	info, err := t.root.Lstat(p)
	if err != nil {
		return item{}, t.wrapError("lstat", p, err)
	}
	it := item{mode: info.Mode(), size: info.Size(), mtime: info.ModTime()}
	describeSystem(&it, info)
	return it, nil
}

func (t *hostTree) makeDirectory(ctx context.Context, p string, perm fs.FileMode) error {
	return t.wrapError("mkdir", p, t.root.Mkdir(p, perm.Perm()))
}

func (t *hostTree) makeParentDirs(ctx context.Context, p string) error {
	return t.wrapError("mkdir", p, t.root.MkdirAll(p, 0o755))
}

func (t *hostTree) makeSymlink(ctx context.Context, to, p string) error {
	return t.wrapError("symlink", p, t.root.Symlink(to, p))
}

func (t *hostTree) makeHardLink(ctx context.Context, old, p string) error {
	return t.wrapError("link", p, t.root.Link(old, p))
}

// rename replaces the entry to, unless it is a device, fifo or socket.
func (t *hostTree) rename(ctx context.Context, from, to string) error {
	if cur, err := t.root.Lstat(to); err == nil && isSpecialNode(cur.Mode()) {
		return t.wrapError("write", to, nodeExistsError(cur.Mode()))
	}
	return t.wrapError("rename", to, t.root.Rename(from, to))
}

func (t *hostTree) remove(ctx context.Context, p string) error {
	return t.wrapError("remove", p, t.root.Remove(p))
}

// writeFile writes to a temporary name with all metadata, and renames.
func (t *hostTree) writeFile(ctx context.Context, p string, it *item, c sparse.Content) error {
	if cur, err := t.root.Lstat(p); err == nil && cur.IsDir() {
		return t.wrapError("write", p, vole.ErrIsDir)
	} else if err == nil && isSpecialNode(cur.Mode()) {
		return t.wrapError("write", p, nodeExistsError(cur.Mode()))
	}
	tmp := temporaryName(p)
	err := t.createFile(ctx, tmp, p, it, c)
	if err == nil {
		if err = t.rename(ctx, tmp, p); err != nil {
			t.root.Remove(tmp)
		}
	}
	return err
}

// createFile makes a regular file under a name that is free, with its content and all
// metadata, or leaves nothing. p is the name that it will have, for messages.
func (t *hostTree) createFile(ctx context.Context, name, p string, it *item, c sparse.Content) (err error) {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return t.wrapError("write", p, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			t.root.Remove(name)
		}
	}()
	if err := t.writeContent(ctx, f, it, c); err != nil {
		return err
	}
	if err := t.setOpenMetadata(p, name, f, it); err != nil {
		return err
	}
	// Network file systems report a failed write at close.
	return t.wrapError("write", p, f.Close())
}

// buffers holds buffers of copyBuf bytes: one for each of many small files would cost more
// than to copy them.
var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuf); return &b }}

// writeContent writes the content of a file, with its holes if it is sparse.
func (t *hostTree) writeContent(ctx context.Context, f *os.File, it *item, c sparse.Content) error {
	if !it.sparse {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		_, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{c}, *buf)
		return err
	}
	return sparse.CopyToFile(ctx, c, it.size, f)
}

// keepsOwner reports whether the item's owner must be kept, and can be.
func (t *hostTree) keepsOwner(p string, it *item) (bool, error) {
	return t.opts.keepsOwner(t.displayPath, p, it, os.Geteuid() == 0)
}

// setOpenMetadata sets the metadata of an open file or directory. It has the name at now;
// p is the one that it will have.
func (t *hostTree) setOpenMetadata(p, at string, f *os.File, it *item) error {
	keep, err := t.keepsOwner(p, it)
	if err != nil {
		return err
	}
	if keep {
		if err := f.Chown(it.uid, it.gid); err != nil && !t.opts.isUnmapped(err) {
			return t.wrapError("chown", p, err)
		}
	}
	mode := t.opts.writableMode(it)
	if err := f.Chmod(mode); err != nil {
		return t.wrapError("chmod", p, err)
	}
	if err := t.setOpenXattrs(p, f, it); err != nil {
		return err
	}
	if last := t.opts.targetMode(it); last != mode {
		if err := f.Chmod(last); err != nil {
			return t.wrapError("chmod", p, err)
		}
	}
	if err := t.setFileTimes(f, at, it.mtime); err != nil {
		return t.wrapError("chtimes", p, err)
	}
	return t.opts.checkKeptTime(t.displayPath(p), it.mtime, func() (time.Time, error) {
		info, err := f.Stat()
		if err != nil {
			return time.Time{}, err
		}
		return info.ModTime(), nil
	})
}

func (t *hostTree) syncVolume(context.Context) error { return nil }

// temporaryName is a name beside p that no one else uses.
func temporaryName(p string) string {
	var b [8]byte
	rand.Read(b[:])
	return path.Join(path.Dir(p), fmt.Sprintf(".vole-cp-%x", b))
}
