package ext4

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A tree that is being removed, or created by Copy, lies in lost+found under a name with one
// of these prefixes: so it disappears from its place, or appears there, atomically. The next
// open removes trees that a crash left there.
const (
	trashDir      = "lost+found"
	trashRemoved  = ".removed-"
	trashUnplaced = ".copying-"
)

// trashDirectory returns lost+found, which it creates if it is missing.
func (fs *FS) trashDirectory() (*inode, error) {
	root, err := fs.readInode(rootInode)
	if err != nil {
		return nil, err
	}
	t, err := fs.lookupChild(root, trashDir)
	if errors.Is(err, errNoEntry) {
		return fs.createInode(root, trashDir, typeDir|0o700, nil)
	}
	if err == nil && !t.isDir() {
		err = errNotDir
	}
	return t, err
}

// RemoveAll removes the file at path, or the directory with everything in it. A path that
// does not exist is no error. The name is gone at once; the content follows. EINVAL: the
// root.
func (fs *FS) RemoveAll(ctx context.Context, path string) error {
	if path == "." {
		return errInvalid
	}
	var tree, gone uint32
	var at string // in lost+found; "": in place
	seq, err := fs.runOperation(func() (err error) {
		tree, gone, at, err = fs.detachTree(path)
		return err
	})
	if errors.Is(err, errNoEntry) || errors.Is(err, errNotDir) {
		return nil
	}
	if err != nil || tree == 0 {
		return fs.reclaimAndCommit(seq, err, gone)
	}
	if err := fs.emptyTree(ctx, tree); err != nil {
		return err
	}
	return fs.runAndReclaim(func() (uint32, error) {
		dir, name, err := fs.resolveParent(path)
		if at != "" {
			dir, err = fs.trashDirectory()
			name = at
		}
		if err != nil {
			return 0, err
		}
		return fs.unlinkName(dir, name)
	})
}

// unusedTrashName returns a name for a tree that does not exist in lost+found.
func (fs *FS) unusedTrashName(trash *inode, prefix string, num uint32) (string, error) {
	// Other files in lost+found may have such a name by chance.
	name := fmt.Sprintf("%s%d", prefix, num)
	for k := 1; ; k++ {
		if _, err := fs.findEntry(trash, name); errors.Is(err, errNoEntry) {
			return name, nil
		} else if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s%d-%d", prefix, num, k)
	}
}

// detachTree removes a file, or moves a directory to lost+found, where it can be emptied
// in many operations. tree is the directory, at its name in lost+found.
func (fs *FS) detachTree(path string) (tree, gone uint32, at string, err error) {
	dir, name, err := fs.resolveParent(path)
	if err != nil {
		return 0, 0, "", err
	}
	i, err := fs.lookupChild(dir, name)
	if err != nil {
		return 0, 0, "", err
	}
	if !i.isDir() {
		gone, err = fs.unlinkName(dir, name)
		return 0, gone, "", err
	}
	t, err := fs.trashDirectory()
	if err != nil {
		return 0, 0, "", err
	}
	if i.num == t.num {
		return i.num, 0, "", nil
	}
	// It may have been made just now, in the same directory.
	if dir, err = fs.readInode(dir.num); err != nil {
		return 0, 0, "", err
	}
	if t.num == dir.num {
		dir = t
	}
	if at, err = fs.unusedTrashName(t, trashRemoved, i.num); err != nil {
		return 0, 0, "", err
	}
	_, err = fs.moveName(dir, name, i, t, at, true)
	return i.num, 0, at, err
}

// dirLevel is a directory that is being emptied, on the stack of emptyTree.
type dirLevel struct {
	num   uint32
	name  string // in the one above
	block uint32 // before this one there is nothing left
}

// emptyTree removes everything in a directory, deepest first.
func (fs *FS) emptyTree(ctx context.Context, num uint32) error {
	stack := []dirLevel{{num: num}}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		top := &stack[len(stack)-1]
		sub, empty, err := fs.emptyStep(top)
		if err != nil {
			return err
		}
		switch {
		case sub.num != 0:
			if len(stack) > maxOrphans {
				return corruptf("directories are nested too deep")
			}
			stack = append(stack, sub)
		case empty && len(stack) == 1:
			return nil
		case empty:
			name := top.name
			stack = stack[:len(stack)-1]
			if err := fs.unlinkInDir(stack[len(stack)-1].num, name); err != nil {
				return err
			}
		}
	}
}

// unlinkInDir removes a name from the directory with inode number dir, and reclaims its
// inode.
func (fs *FS) unlinkInDir(dir uint32, name string) error {
	var gone uint32
	_, err := fs.runOperation(func() error {
		d, err := fs.readInode(dir)
		if err != nil {
			return err
		}
		gone, err = fs.unlinkName(d, name)
		return err
	})
	if err != nil || gone == 0 {
		return err
	}
	return fs.reclaimInode(gone)
}

// emptyStep removes entries of a directory in one operation, until it meets a directory
// that is not empty, which it returns, or the operation is full.
func (fs *FS) emptyStep(top *dirLevel) (sub dirLevel, empty bool, err error) {
	var gone []uint32
	_, err = fs.runOperation(func() error {
		sub, empty, gone = dirLevel{}, false, nil
		block := top.block
		dir, err := fs.readInode(top.num)
		if err != nil {
			return err
		}
		for !fs.operationFull() {
			name, num, err := fs.firstRealEntry(dir, &block)
			if err != nil {
				return err
			}
			if num == 0 {
				empty = true
				break
			}
			i, err := fs.lookupChild(dir, name)
			if err != nil {
				return err
			}
			if i.isDir() {
				if vacant, err := fs.isEmptyDir(i); err != nil {
					return err
				} else if !vacant {
					sub = dirLevel{num: i.num, name: name}
					break
				}
			}
			g, err := fs.unlinkName(dir, name)
			if err != nil {
				return err
			}
			if g != 0 {
				gone = append(gone, g)
			}
		}
		top.block = block
		return nil
	})
	for _, g := range gone {
		if err == nil {
			err = fs.reclaimInode(g)
		}
	}
	return sub, empty, err
}

// firstRealEntry returns the first entry at or after a block of a directory, except "."
// and ".."; num is 0 if there is none.
func (fs *FS) firstRealEntry(dir *inode, block *uint32) (name string, num uint32, err error) {
	for ; *block < fs.dirBlockCount(dir); *block++ {
		if fs.usesIndex(dir) {
			index, err := fs.isIndexBlock(dir, *block)
			if err != nil {
				return "", 0, err
			}
			if index {
				continue
			}
		}
		b, _, err := fs.readDirBlock(dir, *block, false)
		if err != nil {
			return "", 0, err
		}
		err = fs.eachEntry(dir.num, b.data, fs.entriesEnd(), func(e dirent) bool {
			if isDotName(string(e.name)) {
				return false
			}
			name, num = string(e.name), e.ino
			return true
		})
		if err != nil || num != 0 {
			return name, num, err
		}
	}
	return "", 0, nil
}

// emptyTrash removes the trees that a crash left in lost+found.
func (fs *FS) emptyTrash() error {
	d, err := fs.OpenDir(trashDir, true)
	if err != nil {
		if errors.Is(err, errNoEntry) || errors.Is(err, errNotDir) {
			return nil
		}
		return err
	}
	var names []string
	for {
		list, err := d.Read(256)
		if err != nil {
			break
		}
		for _, e := range list {
			if e.Mode.IsDir() && (strings.HasPrefix(e.Name, trashRemoved) || strings.HasPrefix(e.Name, trashUnplaced)) {
				names = append(names, e.Name)
			}
		}
	}
	for _, n := range names {
		if err := fs.RemoveAll(context.Background(), trashDir+"/"+n); err != nil {
			return err
		}
	}
	return nil
}
