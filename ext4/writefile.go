package ext4

import (
	"bytes"
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"sync"
	"time"
)

// WriteOptions says how to write a whole file.
type WriteOptions struct {
	Mode      iofs.FileMode // permission bits; 0: those of the replaced file, else 0644
	Exclusive bool          // EEXIST if the path exists
	Size      int64         // of the file, if it is known: needed with NextData

	// NextData, if not nil, says where the data of a sparse file belongs: the next n
	// bytes of r are the file's content from off on. Ranges ascend and end within Size;
	// io.EOF ends them. Everything else is holes.
	NextData func(ctx context.Context) (off, n int64, err error)

	// Meta, if not nil, is metadata that the file gets with its name.
	Meta *FileMeta
}

// FileMeta is metadata for a file that is written.
type FileMeta struct {
	Mode     iofs.FileMode // permission, setuid, setgid and sticky bits, exactly
	UID, GID int           // -1: those that any new file gets
	Mtime    time.Time     // the access time as well; zero: the time of the write
}

// applyFileMeta gives a new file the requested metadata.
func (fs *FS) applyFileMeta(i *inode, m *FileMeta) error {
	if m == nil {
		return nil
	}
	bits := permBitsOf(m.Mode)
	i.setModeAndKeptOwner(typeRegular|bits, m.UID, m.GID)
	if !m.Mtime.IsZero() {
		i.setTime(stampAtime, m.Mtime)
		i.setTime(stampMtime, m.Mtime)
	}
	return fs.applyModeToACL(i, bits)
}

// chunkBuffers holds buffers of maxOperationBytes.
var chunkBuffers = sync.Pool{New: func() any { b := make([]byte, maxOperationBytes); return &b }}

// WriteFile replaces the file at path by the content of r, and returns its size. Readers
// see the old file or the new one, never a part; if it fails, the old one stays. Missing
// parents are created, 0755. A symbolic link at path is replaced. EISDIR; EEXIST: see
// Exclusive; an error of r.
func (fs *FS) WriteFile(ctx context.Context, path string, r io.Reader, opts WriteOptions) (int64, error) {
	if path == "." {
		return 0, errIsDir
	}
	if fs.opts.ReadOnly {
		return 0, ErrReadOnly
	}
	if opts.Size > maxOperationBytes || opts.NextData != nil {
		if err := fs.checkWriteTarget(path, opts.Exclusive); err != nil {
			return 0, err
		}
	}
	buf := chunkBuffers.Get().(*[]byte)
	defer chunkBuffers.Put(buf)
	if opts.NextData == nil {
		n, err := readChunk(ctx, r, *buf)
		if err == io.EOF {
			return int64(n), fs.writeSmallFile(path, (*buf)[:n], opts)
		}
		if err != nil {
			return 0, err
		}
		return fs.writeLargeFile(ctx, path, io.MultiReader(bytes.NewReader((*buf)[:n]), r), opts)
	}
	return fs.writeLargeFile(ctx, path, r, opts)
}

// checkWriteTarget finds early what findReplaceable would refuse, before r is read.
func (fs *FS) checkWriteTarget(path string, exclusive bool) error {
	err := fs.viewPath(path, false, func(i *inode) error {
		switch {
		case i.isDir():
			return errIsDir
		case exclusive:
			return errExists
		}
		return nil
	})
	if errors.Is(err, errNoEntry) {
		return nil
	}
	return err
}

// readChunk fills buf. An error, which may be io.EOF, means that r yielded only n bytes.
// io.ReadFull could not tell a short chunk from an io.ErrUnexpectedEOF of r, with which
// archives and requests report that they were cut off.
func readChunk(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

// writeSmallFile writes a file whose content is in memory, in one operation.
func (fs *FS) writeSmallFile(path string, data []byte, opts WriteOptions) error {
	return fs.runAndReclaim(func() (uint32, error) {
		dir, name, old, err := fs.prepareReplace(path, opts.Exclusive)
		if err != nil {
			return 0, err
		}
		i, err := fs.newUnnamedInode(dir, typeRegular|newFileMode(old, opts.Mode))
		if err != nil {
			return 0, err
		}
		for n := 0; n < len(data); {
			k, err := fs.writeContent(i, data[n:], int64(n))
			if err != nil {
				return 0, err
			}
			n += k
		}
		if err := fs.applyFileMeta(i, opts.Meta); err != nil {
			return 0, err
		}
		return fs.placeInode(dir, name, i, old)
	})
}

// prepareReplace returns where a new file goes, creating missing directories, and the file
// there that it replaces, or nil: see findReplaceable.
func (fs *FS) prepareReplace(path string, exclusive bool) (dir *inode, name string, old *inode, err error) {
	if dir, name, err = fs.makeMissingParents(path); err == nil {
		old, err = fs.findReplaceable(dir, name, exclusive)
	}
	return dir, name, old, err
}

// makeMissingParents is resolveParent, but creates missing directories.
func (fs *FS) makeMissingParents(path string) (*inode, string, error) {
	dir, name, err := fs.resolveParent(path)
	if !errors.Is(err, errNoEntry) {
		return dir, name, err
	}
	parent, _ := splitLastElement(path)
	if _, err := fs.makeDirectories(parent, 0o755, true); err != nil {
		return nil, "", err
	}
	return fs.resolveParent(path)
}

// newFileMode returns the permission bits of a new file that replaces old, which may be
// nil.
func newFileMode(old *inode, mode iofs.FileMode) uint16 {
	switch {
	case mode != 0:
		return permBitsOf(mode)
	case old != nil && old.isRegular():
		return old.mode() & 0o7777
	}
	return 0o644
}

// findReplaceable returns the file with a name in a directory, which a new file is to
// replace; nil if there is none.
func (fs *FS) findReplaceable(dir *inode, name string, exclusive bool) (*inode, error) {
	old, err := fs.lookupChild(dir, name)
	switch {
	case errors.Is(err, errNoEntry):
		if dir.linkCount() == 0 {
			return nil, errNoEntry // the directory was removed
		}
		return nil, nil
	case err != nil:
		return nil, err
	case old.isDir():
		return nil, errIsDir
	case exclusive:
		return nil, errExists
	}
	return old, nil
}

// placeInode gives an inode a name in a directory, in place of old if that is not nil, and
// stores both.
func (fs *FS) placeInode(dir *inode, name string, i, old *inode) (gone uint32, err error) {
	if old == nil {
		return 0, fs.linkInode(dir, name, i)
	}
	if gone, err = fs.addOrRetargetEntry(dir, name, i, old); err != nil {
		return 0, err
	}
	if err := fs.changeLinkCount(i, 1); err != nil {
		return 0, err
	}
	return gone, errors.Join(fs.storeInode(dir), fs.storeInode(i))
}

// writeLargeFile writes a file in many operations to an inode without a name, which the
// last one names. Until then the inode is an orphan, so a crash leaves nothing of it.
func (fs *FS) writeLargeFile(ctx context.Context, path string, r io.Reader, opts WriteOptions) (int64, error) {
	f, err := fs.openUnnamedFile(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if opts.NextData != nil {
		err = f.writeSparseFrom(ctx, r, opts)
	} else {
		err = f.writeFrom(ctx, r)
	}
	if err != nil {
		return 0, err
	}
	return fs.placeUnnamedFile(f, path, func(dir, i, old *inode) error {
		mode := newFileMode(old, opts.Mode)
		i.setModeAndOwner(typeRegular|mode, fs.opts.UID, fs.groupForChild(dir))
		return errors.Join(fs.inheritDefaultACL(dir, i), fs.applyFileMeta(i, opts.Meta))
	}, opts.Exclusive)
}

// placeUnnamedFile names an open file that has no name; set completes its inode before.
func (fs *FS) placeUnnamedFile(f *File, path string, set func(dir, i, old *inode) error, exclusive bool) (int64, error) {
	var size int64
	err := fs.runAndReclaim(func() (uint32, error) {
		i, err := fs.readInode(f.openInode.num)
		if err != nil {
			return 0, err
		}
		if err := fs.removeOrphan(i); err != nil {
			return 0, err
		}
		// Only now: the file there may be the orphan before this one, which has changed.
		dir, name, old, err := fs.prepareReplace(path, exclusive)
		if err != nil {
			return 0, err
		}
		if err := set(dir, i, old); err != nil {
			return 0, err
		}
		size = i.size()
		return fs.placeInode(dir, name, i, old)
	})
	return size, err
}

// openUnnamedFile opens a new file without a name, near the directory of a path.
func (fs *FS) openUnnamedFile(path string) (*File, error) {
	f := &File{fs: fs, write: true}
	_, err := fs.runOperation(func() error {
		dir, err := fs.nearestDirectory(path)
		if err != nil {
			return err
		}
		i, err := fs.allocInode(dir, false)
		if err != nil {
			return err
		}
		i.setModeAndOwner(typeRegular|0o600, fs.opts.UID, fs.opts.GID)
		initExtentNode(i.blockArea(), 0, 0)
		le.PutUint32(i.raw[inFlags:], flagExtents)
		fs.addOrphan(i)
		f.openInode = fs.acquireInode(i.num)
		return fs.storeInode(i)
	})
	if err != nil && f.openInode != nil {
		fs.releaseInode(f.openInode)
	}
	return f, err
}

// nearestDirectory returns the directory of a path, or the root if it does not exist.
func (fs *FS) nearestDirectory(path string) (*inode, error) {
	dir, _, err := fs.resolveParent(path)
	if errors.Is(err, errNoEntry) {
		return fs.readInode(rootInode)
	}
	return dir, err
}

// writeFrom writes the content of r.
func (f *File) writeFrom(ctx context.Context, r io.Reader) error {
	buf := chunkBuffers.Get().(*[]byte)
	defer chunkBuffers.Put(buf)
	for off := int64(0); ; {
		n, rerr := readChunk(ctx, r, *buf)
		if n > 0 {
			if _, err := f.WriteAt((*buf)[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

// writeSparseFrom writes the data ranges of a sparse file.
func (f *File) writeSparseFrom(ctx context.Context, r io.Reader, opts WriteOptions) error {
	buf := chunkBuffers.Get().(*[]byte)
	defer chunkBuffers.Put(buf)
	last := int64(0)
	for {
		off, n, err := opts.NextData(ctx)
		if err == io.EOF {
			return f.Truncate(opts.Size)
		}
		if err != nil {
			return err
		}
		if off < last || n < 0 || off+n > opts.Size || off+n < off {
			return errInvalid
		}
		for last = off + n; off < last; {
			k := min(last-off, maxOperationBytes)
			if got, err := readChunk(ctx, r, (*buf)[:k]); int64(got) < k {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			if _, err := f.WriteAt((*buf)[:k], off); err != nil {
				return err
			}
			off += k
		}
	}
}
