package ext4

import (
	"errors"
	"io"
	iofs "io/fs"
	"slices"
	"sync/atomic"
)

// OpenFlags says how to open a file. The zero value opens for reading.
type OpenFlags struct {
	Write     bool          // reading and writing
	Create    bool          // make the file if it is missing; implies Write
	Exclusive bool          // with Create: EEXIST if it exists
	Truncate  bool          // with Write: empty it
	NoFollow  bool          // ELOOP if the last element is a symbolic link
	Mode      iofs.FileMode // permission bits of a new file; 0: 0644
}

// File is an open regular file. Its methods may be called concurrently. A file whose last
// name is removed stays usable until it is closed.
type File struct {
	fs        *FS
	openInode *openInode
	write     bool
	dirty     atomic.Bool
	closed    atomic.Bool
}

// maxOperationBytes is how much one operation writes at most, in bytes: readers wait that long.
const maxOperationBytes = 1 << 20

// OpenFile opens a regular file. EISDIR; EEXIST; ELOOP; ErrUnsupported: neither file
// nor directory.
func (fs *FS) OpenFile(path string, flags OpenFlags) (*File, error) {
	flags.Write = flags.Write || flags.Create
	f := &File{fs: fs, write: flags.Write}
	if !flags.Write {
		_, err := fs.openExisting(f, path, flags)
		return f, err
	}
	if fs.opts.ReadOnly {
		return nil, ErrReadOnly
	}
	if !flags.Create {
		if _, err := fs.openExisting(f, path, flags); err != nil {
			return nil, err
		}
	} else if err := fs.runDurably(func() error { return fs.openOrCreate(f, path, flags) }); err != nil {
		if f.openInode != nil {
			fs.releaseInode(f.openInode)
		}
		return nil, err
	}
	if flags.Truncate {
		if err := f.Truncate(0); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// OpenEntry opens the regular file at path for reading and describes it: Lstat and OpenFile
// in one step, which looks the path up once. ELOOP if it is a symbolic link.
func (fs *FS) OpenEntry(path string) (*File, Info, error) {
	f := &File{fs: fs}
	info, err := fs.openExisting(f, path, OpenFlags{NoFollow: true})
	return f, info, err
}

// openExisting opens the regular file at a path, and describes it.
func (fs *FS) openExisting(f *File, path string, flags OpenFlags) (Info, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return Info{}, errClosed
	}
	i, err := fs.resolveView(path, !flags.NoFollow)
	if err != nil {
		return Info{}, err
	}
	if err := checkOpenable(i); err != nil {
		return Info{}, err
	}
	f.openInode = fs.acquireInode(i.num)
	_, name := splitLastElement(path)
	return fs.inodeInfo(i, name), nil
}

// checkOpenable returns the error for an inode that is not a regular file.
func checkOpenable(i *inode) error {
	switch i.fileType() {
	case typeRegular:
		return nil
	case typeDir:
		return errIsDir
	case typeSymlink:
		return errLoop
	}
	return unsupportedf("opening fifos, sockets and devices")
}

// openOrCreate opens a file or creates it. A dangling symbolic link is followed: the file
// is created where it leads.
func (fs *FS) openOrCreate(f *File, path string, flags OpenFlags) error {
	walk, name, err := fs.startWalk(path)
	if err != nil {
		return err
	}
	i, name, err := walk.resolveLast(name, !flags.NoFollow && !flags.Exclusive)
	switch {
	case err == nil && flags.Exclusive:
		return errExists
	case err == nil:
		if err := checkOpenable(i); err != nil {
			return err
		}
	case name == "" || !errors.Is(err, errNoEntry):
		return err
	default:
		mode := permBitsOf(flags.Mode)
		if flags.Mode == 0 {
			mode = 0o644
		}
		if i, err = fs.createInode(walk.ownCurrentDir(), name, typeRegular|mode, nil); err != nil {
			return err
		}
	}
	f.openInode = fs.acquireInode(i.num)
	return nil
}

// acquireInode takes a reference to an open inode. fs.mu is held alone.
func (fs *FS) acquireInode(num uint32) *openInode {
	in := fs.openInodes[num]
	if in == nil {
		in = &openInode{num: num}
		fs.openInodes[num] = in
	}
	in.refs++
	return in
}

// releaseInode drops a reference, and reports whether the inode now has neither references
// nor a name: the caller reclaims it then.
func (fs *FS) releaseInode(in *openInode) (gone bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if in.refs--; in.refs > 0 {
		return false
	}
	delete(fs.openInodes, in.num)
	return !fs.closed && !fs.opts.ReadOnly && slices.Contains(fs.orphans, in.num)
}

// viewInode runs fn with the file's inode, for reading only: it is not a copy.
func (f *File) viewInode(fn func(*inode) error) error {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	if f.closed.Load() || f.fs.closed {
		return iofs.ErrClosed
	}
	i, err := f.fs.viewInode(f.openInode.num)
	if err != nil {
		return err
	}
	return fn(i)
}

// modifyInSteps runs fn, as one operation after the other on the file's inode, until it
// reports that it is done. Other changes of the content wait; readers get in between.
func (f *File) modifyInSteps(fn func(*inode) (done bool, err error)) error {
	if !f.write {
		return errClosed
	}
	f.openInode.mu.Lock()
	defer f.openInode.mu.Unlock()
	return f.modifyInStepsLocked(fn)
}

// modifyInStepsLocked is modifyInSteps with the inode's mutex held.
func (f *File) modifyInStepsLocked(fn func(*inode) (done bool, err error)) error {
	f.dirty.Store(true)
	for done := false; !done; {
		_, err := f.fs.runOperation(func() error {
			if f.closed.Load() {
				return iofs.ErrClosed
			}
			i, err := f.fs.readInode(f.openInode.num)
			if err != nil {
				return err
			}
			if done, err = fn(i); err != nil {
				return err
			}
			return f.fs.storeInode(i)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) || n == 0 {
		var k int
		part := p[n:min(len(p), n+maxOperationBytes)]
		err = f.viewInode(func(i *inode) error {
			k, err = f.fs.readContent(i, part, off+int64(n))
			return err
		})
		if n += k; err != nil || len(p) == 0 {
			return n, err
		}
	}
	return n, nil
}

// WriteAt implements io.WriterAt. A gap before off becomes a hole. The data is durable
// once Sync or Close returned nil.
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errInvalid
	}
	if len(p) == 0 {
		return 0, nil
	}
	part := 0
	write := func(i *inode) (bool, error) {
		k, err := f.fs.writeContent(i, p[n:min(len(p), n+maxOperationBytes)], off+int64(n))
		if err != nil {
			part = k
			return false, err
		}
		n += k
		return n == len(p), nil
	}
	if err = f.modifyInSteps(write); err != nil && part > 0 {
		// Old content may be overwritten already: keep the part that was written.
		p = p[:n+part]
		err = errors.Join(err, f.modifyInSteps(write))
	}
	return n, err
}

// Append writes all of p at the end, and returns where that was.
func (f *File) Append(p []byte) (off int64, err error) {
	if !f.write {
		return 0, errClosed
	}
	f.openInode.mu.Lock()
	defer f.openInode.mu.Unlock()
	off, n, wrote := -1, 0, false
	err = f.modifyInStepsLocked(func(i *inode) (bool, error) {
		at := i.size()
		off = max(at-int64(n), 0)
		if len(p) == 0 {
			return true, nil
		}
		k, err := f.fs.writeContent(i, p[n:min(len(p), n+maxOperationBytes)], at)
		if wrote = wrote || k > 0; err == nil {
			n += k
		}
		return n == len(p), err
	})
	if err != nil && wrote {
		// All or nothing: take back the part that was written.
		err = errors.Join(err, f.truncateLocked(off))
	}
	return max(off, 0), err
}

// NextData returns the next range at or after off that may hold data, and io.EOF when
// there is none.
func (f *File) NextData(off int64) (start, end int64, err error) {
	if off < 0 {
		return 0, 0, errInvalid
	}
	err = f.viewInode(func(i *inode) error {
		start, end, err = f.fs.nextDataRange(i, off)
		return err
	})
	return start, end, err
}

// nextDataRange implements File.NextData.
func (fs *FS) nextDataRange(i *inode, off int64) (start, end int64, err error) {
	blockSize, size := fs.sb.blockSize, i.size()
	if off >= size {
		return 0, 0, io.EOF
	}
	if i.hasFlag(flagInline) {
		return off, size, nil
	}
	found := false
	err = fs.eachExtent(i, uint32(off/blockSize), func(e extent) (bool, error) {
		lo, hi := int64(e.logical)*blockSize, int64(e.endBlock())*blockSize
		switch {
		case lo >= size:
			return false, nil
		case e.unwritten:
			return !found, nil
		case found:
			if lo != end {
				return false, nil
			}
			end = hi
			return true, nil
		}
		found, start, end = true, max(lo, off), hi
		return true, nil
	})
	if err == nil && !found {
		err = io.EOF
	}
	return start, min(end, size), err
}

// Stat describes the file.
func (f *File) Stat() (info Info, err error) {
	err = f.viewInode(func(i *inode) error {
		info = f.fs.inodeInfo(i, "")
		return nil
	})
	return info, err
}

// Sync makes all earlier writes durable.
func (f *File) Sync() error {
	if f.closed.Load() {
		return iofs.ErrClosed
	}
	if !f.dirty.Swap(false) {
		return nil
	}
	f.fs.mu.RLock()
	seq := f.fs.tx.seq
	f.fs.mu.RUnlock()
	return f.fs.commitUpTo(seq)
}

// Close makes all earlier writes durable, unless in batch mode, and closes the file.
func (f *File) Close() error {
	var err error
	if f.closed.Load() {
		return nil
	}
	if !f.fs.opts.Batch {
		err = f.Sync()
	}
	if f.closed.Swap(true) {
		return err
	}
	if f.fs.releaseInode(f.openInode) {
		err = errors.Join(err, f.fs.reclaimInode(f.openInode.num))
	}
	return err
}
