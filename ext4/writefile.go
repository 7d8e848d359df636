package ext4

import (
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
	Exclusive bool          // EEXIST if something is there
	Size      int64         // of the file, if it is known: needed with NextData

	// NextData, if not nil, says where the data of a sparse file belongs: the next n
	// bytes that r yields are what the file holds from off on. Ranges ascend and end
	// within Size; io.EOF: there are no more. All else is holes.
	NextData func(ctx context.Context) (off, n int64, err error)

	// Meta, if not nil, is metadata that the file gets with its name.
	Meta *FileMeta
}

// FileMeta is the metadata of a file that is written.
type FileMeta struct {
	Mode     iofs.FileMode // permission, setuid, setgid and sticky bits, exactly
	UID, GID int           // -1: those that any new file gets
	Mtime    time.Time     // the access time as well; zero: the time of the write
}

// setMeta gives a new file metadata, if there is any.
func (fs *FS) setMeta(i *inode, m *FileMeta) error {
	if m == nil {
		return nil
	}
	bits, uid, gid := permBits(m.Mode), i.uid(), i.gid()
	if m.UID >= 0 {
		uid = uint32(m.UID)
	}
	if m.GID >= 0 {
		gid = uint32(m.GID)
	}
	i.setOwner(typeRegular|bits, uid, gid)
	if !m.Mtime.IsZero() {
		i.setTime(stampAtime, m.Mtime)
		i.setTime(stampMtime, m.Mtime)
	}
	return fs.chmodACL(i, bits)
}

var chunks = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// WriteFile replaces the file at path by what r yields, and returns its size. Others
// see the old file or the new one, never a part; when it fails, the old one stays.
// Missing parents are made, 0755. A symbolic link at path is replaced.
// EISDIR; EEXIST: see Exclusive; an error of r.
func (fs *FS) WriteFile(ctx context.Context, path string, r io.Reader, opts WriteOptions) (int64, error) {
	if path == "." {
		return 0, errIsDir
	}
	if fs.opts.ReadOnly {
		return 0, ErrReadOnly
	}
	if opts.Size > chunk || opts.NextData != nil {
		if err := fs.precheck(path, opts.Exclusive); err != nil {
			return 0, err
		}
	}
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	if opts.NextData == nil {
		n, err := readChunk(ctx, r, *buf)
		if err == io.EOF {
			return int64(n), fs.writeSmall(path, (*buf)[:n], opts)
		}
		if err != nil {
			return 0, err
		}
		return fs.writeLarge(ctx, path, io.MultiReader(newSlice((*buf)[:n]), r), opts)
	}
	return fs.writeLarge(ctx, path, r, opts)
}

// precheck finds early what place would refuse.
func (fs *FS) precheck(path string, exclusive bool) error {
	err := fs.view(path, false, func(i *inode) error {
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

// ctxReader stops reading when its context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// readChunk fills buf. An error, which may be io.EOF, means that r yielded no more than the n
// bytes. io.ReadFull would not tell a short chunk from an io.ErrUnexpectedEOF of r, which is
// how archives and requests say that they were cut off.
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

// newSlice returns a reader of b, which b's owner may use again once it is read.
func newSlice(b []byte) io.Reader { return &sliceReader{b} }

type sliceReader struct{ b []byte }

func (s *sliceReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

// writeSmall writes a file that is in memory, in one operation.
func (fs *FS) writeSmall(path string, data []byte, opts WriteOptions) error {
	var gone uint32
	seq, err := fs.update(func() error {
		dir, name, err := fs.makeParent(path)
		if err != nil {
			return err
		}
		old, err := fs.replaceable(dir, name, opts.Exclusive)
		if err != nil {
			return err
		}
		i, err := fs.makeInode(dir, typeRegular|newMode(old, opts.Mode))
		if err != nil {
			return err
		}
		for n := 0; n < len(data); {
			k, err := fs.writeAt(i, data[n:], int64(n))
			if err != nil {
				return err
			}
			n += k
		}
		if err := fs.setMeta(i, opts.Meta); err != nil {
			return err
		}
		gone, err = fs.place(dir, name, i, old)
		return err
	})
	return fs.finish(seq, err, gone)
}

// makeParent makes the missing parents of a path, and resolves it.
func (fs *FS) makeParent(path string) (*inode, string, error) {
	dir, name, err := fs.resolveParent(path)
	if !errors.Is(err, errNoEntry) {
		return dir, name, err
	}
	parent, _ := splitLast(path)
	if _, err := fs.mkdirAll(parent, 0o755, true); err != nil {
		return nil, "", err
	}
	return fs.resolveParent(path)
}

// newMode returns the permission bits of a file that is about to replace old, if that
// is not nil.
func newMode(old *inode, mode iofs.FileMode) uint16 {
	switch {
	case mode != 0:
		return permBits(mode)
	case old != nil && old.isRegular():
		return old.mode() & 0o7777
	}
	return 0o644
}

// replaceable returns what has a name in a directory, which is about to be given to a
// file; nil: nothing.
func (fs *FS) replaceable(dir *inode, name string, exclusive bool) (*inode, error) {
	old, err := fs.child(dir, name)
	switch {
	case errors.Is(err, errNoEntry):
		if dir.links() == 0 {
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

// place gives an inode a name in a directory, in the place of old if that is not nil,
// and stores both.
func (fs *FS) place(dir *inode, name string, i, old *inode) (gone uint32, err error) {
	if old == nil {
		return 0, fs.link(dir, name, i)
	}
	if gone, err = fs.enterName(dir, name, i, old); err != nil {
		return 0, err
	}
	if err := fs.addLinks(i, 1); err != nil {
		return 0, err
	}
	return gone, errors.Join(fs.putInode(dir), fs.putInode(i))
}

// writeLarge writes a file in many operations to an inode without a name, which the
// last one places. After a crash the inode is in the list of orphans.
func (fs *FS) writeLarge(ctx context.Context, path string, r io.Reader, opts WriteOptions) (int64, error) {
	f, err := fs.openNameless(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if opts.NextData != nil {
		err = f.fillSparse(ctx, r, opts)
	} else {
		err = f.fill(ctx, r)
	}
	if err != nil {
		return 0, err
	}
	return fs.placeFile(f, path, func(dir, i, old *inode) error {
		mode := newMode(old, opts.Mode)
		i.setOwner(typeRegular|mode, fs.opts.UID, fs.gidIn(dir))
		return errors.Join(fs.inheritACL(dir, i), fs.setMeta(i, opts.Meta))
	}, opts.Exclusive)
}

// placeFile gives an open file without a name one; set completes its inode.
func (fs *FS) placeFile(f *File, path string, set func(dir, i, old *inode) error, exclusive bool) (int64, error) {
	var gone uint32
	var size int64
	seq, err := fs.update(func() error {
		dir, name, err := fs.makeParent(path)
		if err != nil {
			return err
		}
		i, err := fs.inode(f.in.num)
		if err != nil {
			return err
		}
		if err := fs.removeOrphan(i); err != nil {
			return err
		}
		old, err := fs.replaceable(dir, name, exclusive)
		if err != nil {
			return err
		}
		if err := set(dir, i, old); err != nil {
			return err
		}
		size = i.size()
		gone, err = fs.place(dir, name, i, old)
		return err
	})
	return size, fs.finish(seq, err, gone)
}

// openNameless opens a new file that has no name yet, for the directory of a path.
func (fs *FS) openNameless(path string) (*File, error) {
	f := &File{fs: fs, write: true}
	_, err := fs.update(func() error {
		dir, err := fs.nearest(path)
		if err != nil {
			return err
		}
		i, err := fs.newInode(dir, false)
		if err != nil {
			return err
		}
		i.setOwner(typeRegular|0o600, fs.opts.UID, fs.opts.GID)
		initExtNode(i.area(), 0, 0)
		le.PutUint32(i.raw[inFlags:], flagExtents)
		fs.addOrphan(i)
		f.in = fs.ref(i.num)
		return fs.putInode(i)
	})
	if err != nil && f.in != nil {
		fs.unref(f.in)
	}
	return f, err
}

// nearest returns the directory of a path, or the root when it is not there yet.
func (fs *FS) nearest(path string) (*inode, error) {
	dir, _, err := fs.resolveParent(path)
	if errors.Is(err, errNoEntry) {
		return fs.inode(rootInode)
	}
	return dir, err
}

// fill appends all that r yields.
func (f *File) fill(ctx context.Context, r io.Reader) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
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

// fillSparse writes the ranges of a sparse file.
func (f *File) fillSparse(ctx context.Context, r io.Reader, opts WriteOptions) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
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
			k := min(last-off, chunk)
			if _, err := io.ReadFull(ctxReader{ctx, r}, (*buf)[:k]); err != nil {
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
