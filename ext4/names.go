package ext4

import (
	"context"
	"errors"
	iofs "io/fs"
	"slices"
	"strings"
	"time"
)

// create makes an inode of the given mode in a directory, and stores both. Fill, if
// not nil, completes the new inode first.
func (fs *FS) create(dir *inode, name string, mode uint16, fill func(*inode) error) (*inode, error) {
	if err := fs.mayAdd(dir, name); err != nil {
		return nil, err
	}
	i, err := fs.makeInode(dir, mode)
	if err != nil {
		return nil, err
	}
	if fill != nil {
		if err := fill(i); err != nil {
			return nil, err
		}
	}
	links := 1
	if i.isDir() {
		links = 2
		if err := fs.addLinks(dir, 1); err != nil {
			return nil, err
		}
	}
	if err := fs.addLinks(i, links); err != nil {
		return nil, err
	}
	if err := fs.addEntry(dir, name, i.num, typeOf(mode)); err != nil {
		return nil, err
	}
	if err := fs.putInode(dir); err != nil {
		return nil, err
	}
	return i, fs.putInode(i)
}

// mayAdd checks that a name can be added to a directory.
func (fs *FS) mayAdd(dir *inode, name string) error {
	if !dir.isDir() {
		return errNotDir
	}
	_, err := fs.find(dir, name)
	switch {
	case err == nil:
		return errExists
	case !errors.Is(err, errNoEntry):
		return err
	case dir.links() == 0:
		return errNoEntry // it was removed
	}
	return nil
}

// makeInode makes an inode without a name for a directory.
func (fs *FS) makeInode(dir *inode, mode uint16) (*inode, error) {
	isDir := mode&typeMask == typeDir
	i, err := fs.newInode(dir, isDir)
	if err != nil {
		return nil, err
	}
	if isDir {
		mode |= dir.mode() & 0o2000
	}
	i.setOwner(mode, fs.opts.UID, fs.gidIn(dir))
	switch mode & typeMask {
	case typeRegular:
		initExtNode(i.area(), 0, 0)
		le.PutUint32(i.raw[inFlags:], flagExtents)
	case typeDir:
		if err := fs.initDir(i, dir.num); err != nil {
			return nil, err
		}
	}
	return i, fs.inheritACL(dir, i)
}

// gidIn returns the group of what is made in a directory.
func (fs *FS) gidIn(dir *inode) uint32 {
	if dir.mode()&0o2000 != 0 {
		return dir.gid()
	}
	return fs.opts.GID
}

// Mkdir makes a directory with these permission bits, or what the default access
// list of its parent leaves of them. EEXIST.
func (fs *FS) Mkdir(path string, mode iofs.FileMode) error {
	return fs.change(func() error {
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		_, err = fs.create(dir, name, typeDir|permBits(mode), nil)
		return err
	})
}

// parentFor is resolveParent for a path that is to be made: the root is there.
func (fs *FS) parentFor(path string) (*inode, string, error) {
	if path == "." {
		return nil, "", errExists
	}
	return fs.resolveParent(path)
}

// MkdirAll makes a directory and its missing parents, with these permission bits.
func (fs *FS) MkdirAll(path string, mode iofs.FileMode) error {
	var seq uint64
	for done := false; !done; {
		var err error
		seq, err = fs.update(func() (err error) {
			done, err = fs.mkdirAll(path, mode, false)
			return err
		})
		if err != nil {
			return err
		}
	}
	return fs.finish(seq, nil, 0)
}

// mkdirAll makes all of a path or, unless whole, as much as one operation may, and
// reports whether that was all.
func (fs *FS) mkdirAll(path string, mode iofs.FileMode, whole bool) (done bool, err error) {
	w, _, err := fs.startWalk(".")
	if err != nil {
		return false, err
	}
	if !validBytes(path) {
		return false, errInvalid
	}
	for el := range strings.SplitSeq(path, "/") {
		_, err := fs.find(w.here(), el)
		switch {
		case err == nil:
			err = w.step(el)
		case errors.Is(err, errNoEntry):
			if !whole && fs.opFull() {
				return false, nil
			}
			var i *inode
			i, err = fs.create(w.here(), el, typeDir|permBits(mode), nil)
			w.dirs = append(w.dirs, i)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// Symlink makes a symbolic link that says target. EEXIST; ENAMETOOLONG: more than 4095 bytes.
func (fs *FS) Symlink(target, path string) error {
	if target == "" || strings.ContainsRune(target, 0) {
		return errInvalid
	}
	if len(target) > maxSymlinkLen || int64(len(target)) >= fs.sb.blockSize {
		return errNameLong
	}
	return fs.change(func() error {
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		_, err = fs.create(dir, name, typeSymlink|0o777, func(i *inode) error { return fs.setTarget(i, target) })
		return err
	})
}

func (fs *FS) setTarget(i *inode, target string) error {
	fs.setSize(i, int64(len(target)))
	if len(target) < blockAreaLen {
		copy(i.area(), target)
		return nil
	}
	initExtNode(i.area(), 0, 0)
	le.PutUint32(i.raw[inFlags:], i.flags()|flagExtents)
	r, err := fs.alloc(fs.goalFor(i, 0), 1)
	if err != nil {
		return err
	}
	copy(fs.fresh(r.start), target)
	fs.addBlocks(i, 1)
	return fs.insertExtent(i, extent{n: 1, start: r.start})
}

// Readlink returns what a symbolic link says. EINVAL: it is none.
func (fs *FS) Readlink(path string) (target string, err error) {
	err = fs.view(path, false, func(i *inode) error {
		if i.kind() != typeSymlink {
			return errInvalid
		}
		target, err = fs.linkTarget(i)
		return err
	})
	return target, err
}

// Mknod makes the fifo, socket or device that the type bits of mode say; rdev is as
// makedev(3) makes it. EEXIST; EINVAL: another type.
func (fs *FS) Mknod(path string, mode iofs.FileMode, rdev uint64) error {
	var kind uint16
	switch mode.Type() {
	case iofs.ModeNamedPipe:
		kind = typeFifo
	case iofs.ModeSocket:
		kind = typeSocket
	case iofs.ModeDevice:
		kind = typeBlock
	case iofs.ModeDevice | iofs.ModeCharDevice:
		kind = typeChar
	default:
		return errInvalid
	}
	return fs.change(func() error {
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		_, err = fs.create(dir, name, kind|permBits(mode), func(i *inode) error {
			if kind == typeBlock || kind == typeChar {
				i.setRdev(rdev)
			}
			return nil
		})
		return err
	})
}

// Link makes path another name of the file at target, which is not followed. EEXIST;
// EPERM: target is a directory; EMLINK: it has 65000 names.
func (fs *FS) Link(target, path string) error {
	return fs.change(func() error {
		i, err := fs.resolve(target, false)
		if err != nil {
			return err
		}
		if i.isDir() {
			return errPerm
		}
		dir, name, err := fs.parentFor(path)
		if err != nil {
			return err
		}
		if err := fs.mayAdd(dir, name); err != nil {
			return err
		}
		return fs.link(dir, name, i)
	})
}

// link gives an inode a name that is not taken, and stores both.
func (fs *FS) link(dir *inode, name string, i *inode) error {
	if err := fs.addLinks(i, 1); err != nil {
		return err
	}
	fs.touch(i, stampCtime)
	if err := fs.addEntry(dir, name, i.num, typeOf(i.mode())); err != nil {
		return err
	}
	if err := fs.putInode(dir); err != nil {
		return err
	}
	return fs.putInode(i)
}

// Remove removes a file, link, node or empty directory. ENOTEMPTY; EINVAL: the root.
func (fs *FS) Remove(path string) error {
	var gone uint32
	seq, err := fs.update(func() error {
		dir, name, err := fs.resolveParent(path)
		if err != nil {
			return err
		}
		gone, err = fs.unlink(dir, name)
		return err
	})
	return fs.finish(seq, err, gone)
}

// finish reclaims an inode that an operation left without a name, if nothing has it
// open, and makes the operation durable.
func (fs *FS) finish(seq uint64, err error, gone uint32) error {
	if err != nil {
		return err
	}
	if gone != 0 && !fs.isOpen(gone) {
		if err := fs.reclaim(gone); err != nil {
			return err
		}
	}
	if fs.opts.Batch {
		return nil
	}
	return fs.commit(seq)
}

func (fs *FS) isOpen(num uint32) bool {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.inodes[num] != nil
}

// unlink removes a name, and stores what it changes. It returns the inode that now
// has no name, which is in the list of orphans; 0: it has others, or is gone already.
func (fs *FS) unlink(dir *inode, name string) (gone uint32, err error) {
	if !dir.isDir() {
		return 0, errNotDir
	}
	p, err := fs.find(dir, name)
	if err != nil {
		return 0, err
	}
	i, err := fs.child(dir, name)
	if err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.mayRemoveDir(dir, i); err != nil {
			return 0, err
		}
	}
	if err := fs.removeEntry(dir, p); err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.addLinks(dir, -1); err != nil {
			return 0, err
		}
	}
	if err := fs.putInode(dir); err != nil {
		return 0, err
	}
	return fs.dropName(i)
}

func (fs *FS) mayRemoveDir(dir, i *inode) error {
	if i.num == rootInode || i.num == dir.num {
		return corruptf("directory %d holds itself", i.num)
	}
	empty, err := fs.isEmpty(i)
	if err == nil && !empty {
		err = errNotEmpty
	}
	return err
}

// dropName takes a link from an inode; see unlink.
func (fs *FS) dropName(i *inode) (gone uint32, err error) {
	n := uint16(0)
	if !i.isDir() && i.links() > 0 {
		n = i.links() - 1
	}
	le.PutUint16(i.raw[inLinks:], n)
	fs.touch(i, stampCtime)
	if n > 0 {
		return 0, fs.putInode(i)
	}
	if slices.Contains(fs.orphans, i.num) {
		return i.num, fs.putInode(i) // it is being truncated
	}
	// What is small and not in use goes in the same operation.
	if fs.inodes[i.num] == nil && (!fs.ownsBlocks(i) || i.has(flagExtents) && extNode(i.area()).depth() == 0) {
		done, err := fs.reclaimSome(i)
		if err != nil || done {
			return 0, err
		}
	}
	fs.addOrphan(i)
	return i.num, fs.putInode(i)
}

// Rename moves a file or a tree as rename(2) does. With noReplace the target must not
// be there. EISDIR, ENOTDIR, ENOTEMPTY; EINVAL: a directory into itself, or the root.
func (fs *FS) Rename(from, to string, noReplace bool) error {
	var gone uint32
	seq, err := fs.update(func() (err error) {
		gone, err = fs.rename(from, to, noReplace)
		return err
	})
	return fs.finish(seq, err, gone)
}

func (fs *FS) rename(from, to string, noReplace bool) (gone uint32, err error) {
	fromDir, fromName, err := fs.resolveParent(from)
	if err != nil {
		return 0, err
	}
	i, err := fs.child(fromDir, fromName)
	if err != nil {
		return 0, err
	}
	toDir, toName, err := fs.resolveParent(to)
	if err != nil {
		return 0, err
	}
	if i.isDir() {
		if err := fs.notBeneath(toDir, i.num); err != nil {
			return 0, err
		}
	}
	return fs.move(fromDir, fromName, i, toDir, toName, noReplace)
}

// notBeneath refuses a directory that is num or beneath it.
func (fs *FS) notBeneath(dir *inode, num uint32) error {
	for range maxOrphans {
		if dir.num == num {
			return errInvalid
		}
		if dir.num == rootInode {
			return nil
		}
		up, err := fs.parentOf(dir)
		if err != nil {
			return err
		}
		if dir, err = fs.inode(up); err != nil {
			return err
		}
		if !dir.isDir() {
			break
		}
	}
	return corruptf("directory %d is not beneath the root", dir.num)
}

// move gives an inode another name, which may be taken, and takes the old one away.
func (fs *FS) move(fromDir *inode, fromName string, i *inode, toDir *inode, toName string, noReplace bool) (gone uint32, err error) {
	if toDir.num == fromDir.num {
		toDir = fromDir // one copy of the inode
	}
	old, err := fs.child(toDir, toName)
	switch {
	case err == nil && noReplace:
		return 0, errExists
	case err == nil && old.num == i.num:
		return 0, nil
	case err == nil:
		if err := fs.mayReplace(toDir, old, i); err != nil {
			return 0, err
		}
	case !errors.Is(err, errNoEntry):
		return 0, err
	default:
		old = nil
		if err := fs.mayAdd(toDir, toName); err != nil {
			return 0, err
		}
	}
	if gone, err = fs.enterName(toDir, toName, i, old); err != nil {
		return 0, err
	}
	p, err := fs.find(fromDir, fromName)
	if err != nil {
		return 0, err
	}
	if err := fs.removeEntry(fromDir, p); err != nil {
		return 0, err
	}
	if i.isDir() && toDir != fromDir {
		if err := fs.setParent(i, toDir.num); err != nil {
			return 0, err
		}
		if err := errors.Join(fs.addLinks(fromDir, -1), fs.addLinks(toDir, 1)); err != nil {
			return 0, err
		}
	}
	fs.touch(i, stampCtime)
	return gone, errors.Join(fs.putInode(fromDir), fs.putInode(toDir), fs.putInode(i))
}

func (fs *FS) mayReplace(dir, old, by *inode) error {
	switch {
	case old.isDir() && !by.isDir():
		return errIsDir
	case !old.isDir() && by.isDir():
		return errNotDir
	case old.isDir():
		return fs.mayRemoveDir(dir, old)
	}
	return nil
}

// enterName makes a name lead to an inode, in place of old if that is not nil.
func (fs *FS) enterName(dir *inode, name string, i, old *inode) (gone uint32, err error) {
	kind := typeOf(i.mode())
	if old == nil {
		return 0, fs.addEntry(dir, name, i.num, kind)
	}
	p, err := fs.find(dir, name)
	if err != nil {
		return 0, err
	}
	if err := fs.setEntry(dir, p, i.num, kind); err != nil {
		return 0, err
	}
	if old.isDir() {
		if err := fs.addLinks(dir, -1); err != nil {
			return 0, err
		}
	}
	return fs.dropName(old)
}

// Chmod sets the permission, setuid, setgid and sticky bits of what path leads to.
func (fs *FS) Chmod(path string, mode iofs.FileMode) error {
	return fs.changeAt(path, true, func(i *inode) error {
		bits := permBits(mode)
		le.PutUint16(i.raw[inMode:], i.mode()&typeMask|bits)
		fs.touch(i, stampCtime)
		return fs.chmodACL(i, bits)
	})
}

// Chown sets the owner of what is at path; -1 keeps one. As Linux does, it clears the
// setuid and setgid bits of files that are executed with them.
func (fs *FS) Chown(path string, uid, gid int) error {
	return fs.changeAt(path, false, func(i *inode) error {
		u, g := i.uid(), i.gid()
		if uid >= 0 {
			u = uint32(uid)
		}
		if gid >= 0 {
			g = uint32(gid)
		}
		mode := i.mode()
		if !i.isDir() {
			mode &^= 0o4000
			if mode&0o010 != 0 {
				mode &^= 0o2000
			}
		}
		i.setOwner(mode, u, g)
		fs.touch(i, stampCtime)
		return nil
	})
}

// Chtimes sets access and modification time of what is at path; a zero time stays.
// Times that ext4 cannot hold (before 1901, after 2446) become the nearest it can.
func (fs *FS) Chtimes(path string, atime, mtime time.Time) error {
	return fs.changeAt(path, false, func(i *inode) error {
		if !atime.IsZero() {
			i.setTime(stampAtime, atime)
		}
		if !mtime.IsZero() {
			i.setTime(stampMtime, mtime)
		}
		fs.touch(i, stampCtime)
		return nil
	})
}

// Stat describes what path leads to.
func (fs *FS) Stat(path string) (Info, error) { return fs.stat(path, true) }

// Lstat describes what is at path, a symbolic link included.
func (fs *FS) Lstat(path string) (Info, error) { return fs.stat(path, false) }

func (fs *FS) stat(path string, follow bool) (info Info, err error) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	err = fs.view(path, follow, func(i *inode) error {
		info = fs.info(i, name)
		return nil
	})
	return info, err
}

// Usage tells how much of the file system is in use. Sizes are bytes.
type Usage struct {
	Size       int64 // what files and their metadata can take at most
	Free       int64 // of that
	Inodes     int64
	FreeInodes int64
	// FileBytes is by how much the sum of the sizes of all regular files has changed
	// since the FS was opened; SumSizes tells the sum itself.
	FileBytes int64
}

// Usage tells how much of the file system is in use.
func (fs *FS) Usage() Usage {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	c, sb := fs.counters, fs.sb
	over := int64(fs.overhead()) * sb.blockSize
	return Usage{
		Size: max(int64(sb.blocks)*sb.blockSize-over, 0), Free: int64(c.freeBlocks) * sb.blockSize,
		Inodes: int64(sb.inodes), FreeInodes: int64(c.freeInodes), FileBytes: c.fileBytes,
	}
}

// overhead is how many blocks hold no files: as the superblock says, or an estimate.
func (fs *FS) overhead() uint64 {
	if n := uint64(le.Uint32(fs.sb.raw[sbOverhead:])); n > 0 && n < fs.sb.blocks {
		return n * uint64(fs.sb.cluster)
	}
	n := fs.sb.tableBlocks() + 2
	return min(n*uint64(fs.sb.groups), fs.sb.blocks)
}

// SumSizes adds up the sizes of all regular files that have a name or are open.
func (fs *FS) SumSizes(ctx context.Context) (int64, error) {
	var sum int64
	err := fs.eachInode(ctx, func(i *inode) error {
		if i.isRegular() && !i.has(flagEAInode) && (i.links() > 0 || fs.inodes[i.num] != nil) {
			sum += i.size()
		}
		return nil
	})
	return sum, err
}

// eachInode calls f for each inode in use, but for the reserved ones.
func (fs *FS) eachInode(ctx context.Context, f func(*inode) error) error {
	for g := range fs.sb.groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fs.eachInodeOf(g, f); err != nil {
			return err
		}
	}
	return nil
}

func (fs *FS) eachInodeOf(g uint32, f func(*inode) error) error {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if fs.closed {
		return errClosed
	}
	d, err := fs.desc(g)
	if err != nil || d.freeInodes() >= fs.sb.inodesPer {
		return err
	}
	bitmap, err := fs.readBitmap(g, d, true)
	if err != nil || bitmap == nil {
		return err
	}
	for k := range fs.sb.inodesPer {
		num := g*fs.sb.inodesPer + k + 1
		if !bit(bitmap, uint64(k)) || num < fs.sb.firstIno {
			continue
		}
		if num == le.Uint32(fs.sb.raw[sbOrphanFile:]) && fs.sb.compat&compatOrphanFile != 0 {
			continue
		}
		i, err := fs.inode(num)
		if err != nil {
			return err
		}
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}
