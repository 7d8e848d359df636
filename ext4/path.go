package ext4

import (
	iofs "io/fs"
	"strings"
)

// Paths are in the form of io/fs.ValidPath: elements separated by slashes, without
// "." and "..", and "." alone for the root. Symbolic links may have any form, but may
// not lead above the root, and absolute ones lead out of the image.

// pathWalker resolves one path. It keeps the directories on the way, for "..".
type pathWalker struct {
	fs    *FS
	above []uint32 // inode numbers of the directories above dirs, from the root
	dirs  []*inode // views, from the root, or from the one that a lastDir led to, to where we are
	links int      // followed
}

// lastDir caches the directory in which a path was last resolved: most calls that follow
// are about the same one. It is valid as long as no entry of any directory was removed or
// changed; new entries do not change where a resolved path leads.
type lastDir struct {
	path  string
	chain []uint32 // inodes, from the root to the directory itself
	moves uint64   // FS.moves then
}

// resolvePath returns the inode at a path. With follow a symbolic link at its end is
// followed.
func (fs *FS) resolvePath(path string, follow bool) (*inode, error) {
	i, err := fs.resolveView(path, follow)
	return i.cloneInode(), err
}

// resolveView is resolvePath without the copy: see viewInode.
func (fs *FS) resolveView(path string, follow bool) (*inode, error) {
	w, name, err := fs.startWalk(path)
	if err != nil {
		return nil, err
	}
	i, _, err := w.resolveLast(name, follow)
	return i, err
}

// resolveParent returns the directory of a path's last element, and that element. EINVAL:
// the path is the root.
func (fs *FS) resolveParent(path string) (dir *inode, name string, err error) {
	w, name, err := fs.startWalk(path)
	if err != nil {
		return nil, "", err
	}
	if name == "" {
		return nil, "", errInvalid
	}
	return w.ownCurrentDir(), name, nil
}

// startWalk resolves all elements of a path but the last, name; it is "" for the root.
func (fs *FS) startWalk(path string) (*pathWalker, string, error) {
	if !iofs.ValidPath(path) || strings.ContainsRune(path, 0) {
		// Names that are not UTF-8 are fine for a Linux file system.
		if !validBytePath(path) {
			return nil, "", errInvalid
		}
	}
	dir, name := splitLastElement(path)
	if last := fs.lastDir.Load(); last != nil && last.moves == fs.nameChanges && last.path == dir {
		n := len(last.chain) - 1
		i, err := fs.viewInode(last.chain[n])
		if err != nil {
			return nil, "", err
		}
		return &pathWalker{fs: fs, above: last.chain[:n], dirs: []*inode{i}}, name, nil
	}
	root, err := fs.viewInode(rootInode)
	if err != nil {
		return nil, "", err
	}
	if !root.isDir() {
		return nil, "", corruptf("the root inode is not a directory")
	}
	walk := &pathWalker{fs: fs, dirs: []*inode{root}}
	if path == "." {
		return walk, "", nil
	}
	if err := walk.walkPath(dir); err != nil {
		return walk, name, err
	}
	if dir != "" {
		walk.rememberDir(dir)
	}
	return walk, name, nil
}

// rememberDir makes the current directory, which is at path, the FS's lastDir.
func (w *pathWalker) rememberDir(path string) {
	last := &lastDir{path: path, chain: make([]uint32, len(w.dirs)), moves: w.fs.nameChanges}
	for k, i := range w.dirs {
		last.chain[k] = i.num
	}
	w.fs.lastDir.Store(last)
}

// enterParent goes to the directory above. ErrEscape at the root.
func (w *pathWalker) enterParent() error {
	n := len(w.dirs) - 1
	if n > 0 {
		w.dirs = w.dirs[:n]
		return nil
	}
	if n = len(w.above) - 1; n < 0 {
		return ErrEscape
	}
	i, err := w.fs.viewInode(w.above[n])
	if err == nil {
		w.dirs[0], w.above = i, w.above[:n]
	}
	return err
}

// splitLastElement splits a path before its last element.
func splitLastElement(path string) (dir, name string) {
	k := strings.LastIndexByte(path, '/')
	return path[:max(k, 0)], path[k+1:]
}

// validBytePath is io/fs.ValidPath for names that need not be UTF-8.
func validBytePath(path string) bool {
	if path == "." {
		return true
	}
	for el := range strings.SplitSeq(path, "/") {
		if el == "" || isDotName(el) || strings.ContainsRune(el, 0) {
			return false
		}
	}
	return true
}

// currentDir returns the directory that the walk has reached.
func (w *pathWalker) currentDir() *inode { return w.dirs[len(w.dirs)-1] }

// ownCurrentDir returns the current directory as a copy that the caller may change; the
// walk goes on from that copy.
func (w *pathWalker) ownCurrentDir() *inode {
	n := len(w.dirs) - 1
	w.dirs[n] = w.dirs[n].cloneInode()
	return w.dirs[n]
}

// walkPath enters the elements of a path, one after the other.
func (w *pathWalker) walkPath(path string) error {
	for el := range strings.SplitSeq(path, "/") {
		if err := w.enterElement(el); err != nil {
			return err
		}
	}
	return nil
}

// enterElement enters one element, which must lead to a directory. Links are followed.
func (w *pathWalker) enterElement(el string) error {
	switch el {
	case "", ".":
		return nil
	case "..":
		return w.enterParent()
	}
	i, err := w.fs.viewChild(w.currentDir(), el)
	if err != nil {
		return err
	}
	if i.fileType() == typeSymlink {
		target, err := w.followTarget(i)
		if err != nil {
			return err
		}
		return w.walkPath(target)
	}
	if !i.isDir() {
		return errNotDir
	}
	w.dirs = append(w.dirs, i)
	return nil
}

// followTarget returns the target of a symbolic link that is about to be followed. ELOOP;
// ErrEscape for an absolute target.
func (w *pathWalker) followTarget(i *inode) (string, error) {
	if w.links++; w.links > maxSymlinks {
		return "", errLoop
	}
	t, err := w.fs.readSymlink(i)
	if err == nil && strings.HasPrefix(t, "/") {
		err = ErrEscape
	}
	return t, err
}

// resolveLast returns the inode of a path's last element, and its name in the directory
// that the walk has reached: that of the target if a symbolic link was followed. Where only
// that name is missing the error is ENOENT, and a file can be created there; the name is ""
// if it cannot.
func (w *pathWalker) resolveLast(name string, follow bool) (i *inode, last string, err error) {
	mustBeDir := false // a target ended with a slash
	for {
		if name == "" || isDotName(name) {
			err := w.enterElement(name)
			return w.currentDir(), "", err
		}
		i, err := w.fs.viewChild(w.currentDir(), name)
		if err != nil || i.fileType() != typeSymlink || !follow {
			if mustBeDir && err == nil && !i.isDir() {
				err = errNotDir
			}
			if mustBeDir {
				name = ""
			}
			return i, name, err
		}
		target, err := w.followTarget(i)
		if err != nil {
			return nil, "", err
		}
		trimmed := strings.TrimRight(target, "/")
		mustBeDir = mustBeDir || trimmed != target
		dir := ""
		dir, name = splitLastElement(trimmed)
		if err := w.walkPath(dir); err != nil {
			return nil, "", err
		}
	}
}

// isFastSymlink reports whether a symbolic link's target lies in its inode.
func (fs *FS) isFastSymlink(i *inode) bool {
	return i.size() < blockAreaLen && !i.hasFlag(flagExtents|flagInline)
}

// readSymlink returns the target of a symbolic link.
func (fs *FS) readSymlink(i *inode) (string, error) {
	n := i.size()
	if n == 0 || n > maxSymlinkLen {
		return "", corruptf("symbolic link %d has a target of %d bytes", i.num, n)
	}
	if fs.isFastSymlink(i) {
		return string(i.blockArea()[:n]), nil
	}
	b := make([]byte, n)
	if i.hasFlag(flagInline) {
		_, err := fs.readContent(i, b, 0)
		return string(b), err
	}
	// The target is metadata, and lies in one block.
	e, err := fs.lookupExtent(i, 0)
	if err != nil {
		return "", err
	}
	if e.start == 0 || n > fs.sb.blockSize {
		// Blocks of 1 KiB hold at most 1023 bytes.
		return "", corruptf("symbolic link %d has no valid target", i.num)
	}
	blk, err := fs.getBlock(e.start)
	if err != nil {
		return "", err
	}
	copy(b, blk.data)
	return string(b), nil
}

// viewPath runs f with the inode at a path, for reading only, with mu held shared: see
// viewInode.
func (fs *FS) viewPath(path string, follow bool, f func(*inode) error) error {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	if fs.closed {
		return errClosed
	}
	i, err := fs.resolveView(path, follow)
	if err != nil {
		return err
	}
	return f(i)
}

// changePath runs f as an operation on the inode at a path, and stores the inode.
func (fs *FS) changePath(path string, follow bool, f func(*inode) error) error {
	return fs.runDurably(func() error {
		i, err := fs.resolvePath(path, follow)
		if err != nil {
			return err
		}
		if err := f(i); err != nil {
			return err
		}
		return fs.storeInode(i)
	})
}
