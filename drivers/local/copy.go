//go:build unix

package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/nofollow"
	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sys/unix"
)

// Copy implements driver.FS. The copy is built in tmp and then renamed, so it appears whole or
// not at all.
func (f *volumeFS) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	return f.changeResolved(ctx, from, func(c *counter, src resolved) error {
		st, err := src.lstat()
		if err != nil {
			return err
		}
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		// By inodes: a link in the path of the target may lead out of the directory.
		if dir && (from == "." || to == from || f.isInsideDirectory(to, st.Ino)) {
			return driver.Errorf(driver.ErrInvalid, "a directory cannot be copied into itself")
		}
		if !dir && !opts.NoReplace && f.copiesOntoItself(from, src, to) {
			return nil // onto itself, by whatever name
		}
		return f.copyThroughTemp(ctx, c, src, to, dir || opts.NoReplace)
	})
}

// copiesOntoItself reports whether to names the file that from names, or leads to through a
// link.
func (f *volumeFS) copiesOntoItself(from string, src resolved, to string) bool {
	dst, err := f.resolve(to)
	if err != nil {
		return false
	}
	defer dst.release()
	there, err := dst.lstat()
	if err != nil {
		return false
	}
	is := func(st *unix.Stat_t) bool { return st.Ino == there.Ino && st.Dev == there.Dev }
	if st, err := src.lstat(); err == nil && is(&st) {
		return true
	}
	info, err := f.root.Stat(from)
	return err == nil && is(toUnixStat(info.Sys().(*syscall.Stat_t)))
}

// copyThroughTemp copies src to a temporary name and renames it to the name to. Missing parents
// of to are made only when the copy is complete.
func (f *volumeFS) copyThroughTemp(ctx context.Context, c *counter, src resolved, to string, exclusive bool) error {
	var old *unix.Stat_t
	dst, err := f.resolve(to)
	if err == nil {
		defer dst.release()
		old, err = statTarget(dst, exclusive)
	}
	orphan := errors.Is(err, fs.ErrNotExist)
	if err != nil && !orphan {
		return err
	}
	tmp, err := f.newTempName()
	if err != nil {
		return err
	}
	credit, unnamed := bytesFreedBy(old), f.unnamedLimiter(c)
	var lost tally
	if old != nil {
		lost = c.freedTally(dst, old)
	} else if err := f.admitNewEntries(c, to, tally{}); err != nil {
		return err
	}
	cp := copier{
		ctx: ctx, host: f.b.host, noDevices: !f.b.devices, tmpFD: tmp.parentFD(), copiedLinks: map[uint64]string{},
		admitBytes: func(n int64) error { return errors.Join(c.admitBytes(n-credit), unnamed(n)) },
		admitTally: func(t tally) error { return c.page.admitTally(t.plus(entryTally(path.Base(to))).minus(lost)) },
	}
	if cp.targetInode, err = f.nearestParentInode(to); err == nil {
		err = cp.copyNode(src, tmp, tmp.name)
	}
	if err == nil && !f.batch {
		err = cp.syncCopy(f, tmp)
	}
	if err == nil && orphan {
		if dst, err = f.resolveMakingParents(ctx, c, to); err == nil {
			defer dst.release()
		}
	}
	if err == nil {
		err = f.commitTemp(ctx, c, tmp, dst, tempContent{cp.bytes, cp.held}, exclusive)
	}
	if err != nil {
		f.discardTemp(c, tmp)
	}
	return err
}

// isInsideDirectory reports whether name is, or would be, in the directory with inode dir or
// beneath it. It allows an early error; copyDirectory checks again, against renames in between.
func (f *volumeFS) isInsideDirectory(name string, dir uint64) bool {
	at, err := f.root.Open(path.Dir(name))
	for errors.Is(err, fs.ErrNotExist) && name != "." {
		name = path.Dir(name)
		at, err = f.root.Open(path.Dir(name))
	}
	if err != nil {
		return false
	}
	root, err := f.root.Stat(".")
	if err != nil {
		at.Close()
		return false
	}
	return isBeneath(at, root, dir)
}

// isBeneath reports whether at, which it closes, is the directory with inode dir, or is beneath
// it and inside root. It walks up the ".." entries.
func isBeneath(at *os.File, root fs.FileInfo, dir uint64) bool {
	var below fs.FileInfo
	for {
		info, err := at.Stat()
		found := err == nil && toUnixStat(info.Sys().(*syscall.Stat_t)).Ino == dir
		// A directory that is moved out of the tree to be removed leads up to the
		// root of the host, which is its own parent.
		if err != nil || found || os.SameFile(info, root) || below != nil && os.SameFile(info, below) {
			at.Close()
			return found
		}
		below = info
		up, err := unix.Openat(int(at.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		at.Close()
		if err != nil {
			return false
		}
		at = os.NewFile(uintptr(up), "..")
	}
}

// nearestParentInode returns the inode of the nearest existing directory above name.
func (f *volumeFS) nearestParentInode(name string) (uint64, error) {
	for {
		name = path.Dir(name)
		info, err := f.root.Stat(name)
		if err == nil {
			return toUnixStat(info.Sys().(*syscall.Stat_t)).Ino, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || name == "." {
			return 0, err
		}
	}
}

// copier copies one file or tree. All new names are made beneath tmp, which no other operation
// looks at.
type copier struct {
	ctx         context.Context
	host        hostFS
	admitBytes  func(n int64) error // may the copy have n bytes?
	targetInode uint64              // inode of the directory that must not be inside the tree
	admitTally  func(tally) error   // may the copy hold that beside?
	held        tally               // what the copy is charged but for its name
	bytes       int64               // sizes of the regular files made
	nodes       int                 // how many names were made
	noDevices   bool                // device nodes are refused
	tmpFD       int                 // descriptor of tmp, where no other operation makes links
	copiedLinks map[uint64]string   // by inode, paths beneath tmp: copies of files with several names
}

// syncCopy makes the copy durable: one file by itself, a tree with everything.
func (cp *copier) syncCopy(f *volumeFS, tmp resolved) error {
	if cp.nodes > 1 {
		return f.syncVolume()
	}
	return f.syncResolved(tmp)
}

// copyNode copies what is at src, and all beneath it, to dst. rel is the path of dst beneath
// tmp.
func (cp *copier) copyNode(src, dst resolved, rel string) error {
	if err := cp.ctx.Err(); err != nil {
		return err
	}
	st, err := src.lstat()
	if err != nil {
		return err
	}
	cp.nodes++
	if cp.nodes > 1 { // the first gets its name at the end
		cp.held = cp.held.plus(entryTally(dst.name))
	}
	cp.held = cp.held.plus(symlinkTally(&st))
	if err := cp.admitTally(cp.held); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return cp.copyFile(src, dst, rel, &st)
	case unix.S_IFDIR:
		return cp.copyDirectory(src, dst, rel, &st)
	case unix.S_IFLNK:
		err = cp.copySymlink(src, dst, &st)
	default:
		if cp.noDevices && isDevice(&st) {
			return errNoDevices()
		}
		err = cp.host.mutate("mknod", dst.name, func() error { return mknod(dst.parentFD(), dst.name, uint32(st.Mode), uint64(st.Rdev)) })
	}
	if err != nil {
		return err
	}
	return cp.copyMetadata(linkXattrs(src), dst, &st)
}

// copySymlink copies a symbolic link that was charged by its state st. Another link may have
// replaced it since, of which the charge is corrected.
func (cp *copier) copySymlink(src, dst resolved, st *unix.Stat_t) error {
	buf := make([]byte, driver.MaxPathLen+1)
	n, err := unix.Readlinkat(src.parentFD(), src.name, buf)
	if err != nil {
		return err
	}
	cp.held = cp.held.plus(tally{names: int64(n)}).minus(symlinkTally(st))
	return cp.host.mutate("symlink", dst.name, func() error { return unix.Symlinkat(string(buf[:n]), dst.parentFD(), dst.name) })
}

// copyDirectory copies a directory and everything beneath it. ErrInvalid: the target is inside
// it.
func (cp *copier) copyDirectory(src, dst resolved, rel string, st *unix.Stat_t) error {
	if st.Ino == cp.targetInode {
		return driver.Errorf(driver.ErrInvalid, "a directory cannot be copied into itself")
	}
	from, err := openDirAt(src.parent, src.name)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := cp.host.mutate("mkdir", dst.name, func() error { return unix.Mkdirat(dst.parentFD(), dst.name, 0o700) }); err != nil {
		return err
	}
	to, err := openDirAt(dst.parent, dst.name)
	if err != nil {
		return err
	}
	defer to.Close()
	err = forEachName(from, func(name string) error {
		return cp.copyUnlessGone(resolved{parent: from, name: name}, resolved{parent: to, name: name}, rel+"/"+name)
	})
	if err != nil {
		return err
	}
	return cp.copyMetadata(openXattrs(from), dst, st)
}

// copyUnlessGone copies an entry of a directory. One that is removed while it is copied is left
// out: its partial copy is deleted and not charged.
func (cp *copier) copyUnlessGone(src, dst resolved, rel string) error {
	held, bytes := cp.held, cp.bytes
	err := cp.copyNode(src, dst, rel)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cp.held, cp.bytes = held, bytes
	return cp.host.removeTree(dst.parent, dst.name, cp.host.plainRemoval())
}

// copyFile copies a regular file. A further name of a file that was copied becomes a link to the
// copy.
func (cp *copier) copyFile(src, dst resolved, rel string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		if first, ok := cp.copiedLinks[uint64(st.Ino)]; ok {
			return cp.host.mutate("link", dst.name, func() error {
				return unix.Linkat(cp.tmpFD, first, dst.parentFD(), dst.name, 0)
			})
		}
	}
	in, err := cp.host.openResolved("open", src, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	// The open file is copied, even if its name leads elsewhere by now.
	if err := unix.Fstat(int(in.Fd()), st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fs.ErrNotExist
	}
	if err := cp.copyData(in, dst, st.Size); err != nil {
		return err
	}
	if err := cp.copyMetadata(openXattrs(in), dst, st); err != nil {
		return err
	}
	if st.Nlink > 1 {
		cp.copiedLinks[uint64(st.Ino)] = rel
	}
	return nil
}

// copyData copies size bytes of a file and leaves its holes.
func (cp *copier) copyData(in *os.File, dst resolved, size int64) error {
	if err := cp.admitBytes(cp.bytes + size); err != nil {
		return err
	}
	out, err := cp.host.openResolved("open", dst, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := cp.copyDataRanges(out, in, size); err != nil {
		return err
	}
	cp.bytes += size
	return nil
}

// copyDataRanges shares the storage of in where the file system can; elsewhere it copies range
// by range and skips holes.
func (cp *copier) copyDataRanges(out, in *os.File, size int64) error {
	if cloneFile(out, in) == nil {
		return out.Truncate(size) // it may have grown since it was looked at
	}
	for off := int64(0); off < size; {
		start, end, err := sparse.FindData(int(in.Fd()), off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		end = min(end, size)
		if err := cp.copyDataRange(out, in, start, end); err != nil {
			return err
		}
		off = max(end, off+1)
	}
	return out.Truncate(size)
}

// copyDataRange copies the bytes from off to end, in steps between which it looks at the
// context.
func (cp *copier) copyDataRange(out, in *os.File, off, end int64) error {
	for off < end {
		if err := cp.ctx.Err(); err != nil {
			return err
		}
		if _, err := in.Seek(off, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(off, io.SeekStart); err != nil {
			return err
		}
		var n int64
		err := cp.host.faults.Do("write", out.Name(), func() (err error) {
			// By copy_file_range(2), where the system has it.
			n, err = io.Copy(out, io.LimitReader(in, min(kernelCopyStep, end-off)))
			return err
		})
		if err != nil || n == 0 {
			return err // truncated since it was opened; the rest is a hole
		}
		off += n
	}
	return nil
}

// copyMetadata copies owner, mode, extended attributes and times; the owner only as far as this
// process may set it. The order matters: a change of owner clears setuid bits, and every change
// but the last one changes a time.
func (cp *copier) copyMetadata(src xattrs, dst resolved, st *unix.Stat_t) error {
	err := unix.Fchownat(dst.parentFD(), dst.name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	cp.held.xattrs += chargedXattrBytes(linkXattrs(dst))
	if err := cp.admitTally(cp.held); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := nofollow.Chmod(dst.parentFD(), dst.name, uint32(st.Mode)&0o7777); err != nil {
			return err
		}
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(dst.parentFD(), dst.name, ts, unix.AT_SYMLINK_NOFOLLOW)
}
