package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/sparse"
)

// volumeTarget writes to a volume.
type volumeTarget struct {
	f    *vole.FS
	opts *Options

	inherited inheritedLists
}

func (t *volumeTarget) displayPath(p string) string { return displayVolumePath(t.f, p) }

func (t *volumeTarget) lstat(ctx context.Context, p string) (item, error) {
	e, err := t.f.Lstat(ctx, p)
	return itemOfEntry(e), err
}

func (t *volumeTarget) makeDirectory(ctx context.Context, p string, perm fs.FileMode) error {
	if err := t.f.Mkdir(ctx, p, perm); err != nil {
		return err
	}
	return t.removeInheritedLists(ctx, p, accessACL, defaultACL)
}

func (t *volumeTarget) makeParentDirs(ctx context.Context, p string) error {
	return t.f.MkdirAll(ctx, p, 0o755)
}

func (t *volumeTarget) makeSymlink(ctx context.Context, to, p string) error {
	return t.f.Symlink(ctx, to, p)
}

func (t *volumeTarget) makeHardLink(ctx context.Context, old, p string) error {
	return t.f.Link(ctx, old, p)
}

func (t *volumeTarget) makeNode(ctx context.Context, p string, mode fs.FileMode, rdev uint64) error {
	if err := t.f.Mknod(ctx, p, mode, rdev); err != nil {
		return err
	}
	return t.removeInheritedLists(ctx, p, accessACL)
}

func (t *volumeTarget) rename(ctx context.Context, from, to string) error {
	return t.f.Rename(ctx, from, to, vole.RenameOptions{})
}

func (t *volumeTarget) remove(ctx context.Context, p string) error { return t.f.Remove(ctx, p) }

func (t *volumeTarget) syncVolume(ctx context.Context) error { return t.f.Sync(ctx) }

// keepsOwner reports whether the item's owner can be kept. In a disk volume it is a number in
// an image, and a server has rights of its own.
func (t *volumeTarget) keepsOwner(p string, it *item) (bool, error) {
	info := t.f.Volume().Info()
	return t.opts.keepsOwner(t.displayPath, p, it, os.Geteuid() == 0 || info.Kind == vole.KindDisk || info.Backend != "local")
}

// writeFile writes a file with its owner, mode and time in one call, and attributes after it: the
// mode is writable until these are set.
func (t *volumeTarget) writeFile(ctx context.Context, p string, it *item, c sparse.Content) error {
	meta := vole.FileMeta{UID: -1, GID: -1}
	keep, err := t.keepsOwner(p, it)
	if err != nil {
		return err
	}
	if keep {
		meta.UID, meta.GID = it.uid, it.gid
	}
	meta.Mode = t.opts.writableMode(it)
	if !isUnusualTime(it.mtime) {
		meta.Mtime = it.mtime
	}
	opts := vole.WriteOptions{Size: it.size, Meta: &meta}
	r := io.Reader(struct{ io.Reader }{c})
	if it.sparse {
		s := &sparseStream{c, it.size}
		r, opts.NextData = s, s.nextData
	}
	if _, err := t.f.WriteFrom(ctx, p, r, opts); err != nil {
		return err
	}
	if err := t.removeInheritedLists(ctx, p, accessACL); err != nil {
		return err
	}
	if meta.Mtime.IsZero() {
		err = t.setXattrsAndTimes(ctx, p, it)
	} else {
		err = t.setXattrs(ctx, p, it)
	}
	return errors.Join(err, t.setFinalMode(ctx, p, it))
}

// setFinalMode sets the real mode of an entry whose attributes are set.
func (t *volumeTarget) setFinalMode(ctx context.Context, p string, it *item) error {
	if mode := t.opts.targetMode(it); mode != t.opts.writableMode(it) {
		return t.f.Chmod(ctx, p, mode)
	}
	return nil
}

// sparseStream gives content as vole.WriteOptions.NextData wants it, whatever becomes
// of the file while it is read.
type sparseStream struct {
	c    sparse.Content
	size int64
}

func (s *sparseStream) nextData(ctx context.Context) (off, n int64, err error) {
	off, n, err = s.c.NextData(ctx)
	if err == nil && off >= s.size {
		err = io.EOF // the file has grown
	}
	return off, min(n, s.size-off), err
}

func (s *sparseStream) Read(p []byte) (int, error) {
	n, err := s.c.Read(p)
	if errors.Is(err, io.EOF) { // within a range: the file has shrunk
		clear(p[n:])
		return len(p), nil
	}
	return n, err
}

// setMetadata sets the metadata of anything but a regular file.
func (t *volumeTarget) setMetadata(ctx context.Context, p string, it *item) error {
	keep, err := t.keepsOwner(p, it)
	if err == nil && keep { // before the mode: a change of owner clears setuid
		err = t.f.Chown(ctx, p, it.uid, it.gid)
	}
	if err != nil {
		return err
	}
	if it.mode&fs.ModeSymlink != 0 {
		return t.setXattrsAndTimes(ctx, p, it)
	}
	if err := t.f.Chmod(ctx, p, t.opts.writableMode(it)); err != nil {
		return err
	}
	return errors.Join(t.setXattrsAndTimes(ctx, p, it), t.setFinalMode(ctx, p, it))
}

// setXattrsAndTimes sets the metadata besides owner and mode.
func (t *volumeTarget) setXattrsAndTimes(ctx context.Context, p string, it *item) error {
	if err := t.setXattrs(ctx, p, it); err != nil {
		return err
	}
	err := t.f.Chtimes(ctx, p, it.mtime, it.mtime)
	if errors.Is(err, vole.ErrInvalid) {
		return t.opts.leaveOut(t.displayPath(p), "the time", err)
	}
	if err != nil {
		return err
	}
	return t.opts.checkKeptTime(t.displayPath(p), it.mtime, func() (time.Time, error) {
		e, err := t.f.Lstat(ctx, p)
		return e.Mtime, err
	})
}

// setXattrs sets attributes of users, and those of the system where the volume keeps them. One that
// the volume cannot hold is left out.
func (t *volumeTarget) setXattrs(ctx context.Context, p string, it *item) error {
	attrs := []map[string][]byte{it.xattrs, it.system}
	if !t.keepsSystemAttrs() {
		t.opts.countLostSystemAttrs(it)
		attrs = attrs[:1]
	}
	for _, m := range attrs {
		for _, n := range slices.Sorted(maps.Keys(m)) { // what does not fit is the same each time
			err := t.f.Setxattr(ctx, p, n, m[n])
			if err != nil && cannotHoldMetadata(err) {
				err = t.opts.leaveOut(t.displayPath(p), "the attribute "+n, err)
			}
			if err != nil {
				return err
			}
			if n == defaultACL {
				t.inherited.forgetDir()
			}
		}
	}
	return nil
}
