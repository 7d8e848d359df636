package ext4

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A tree that is being removed, or made by Copy, lies in lost+found, under a name
// that begins like this: so it has its place, or has lost it, at one instant. What a
// crash leaves there is removed by who opens the image next.
const (
	trashDir      = "lost+found"
	trashRemoved  = ".removed-"
	trashUnplaced = ".copying-"
)

// trash returns the directory for trees that have no place, and makes it if need be.
func (fs *FS) trash() (*inode, error) {
	root, err := fs.inode(rootInode)
	if err != nil {
		return nil, err
	}
	t, err := fs.child(root, trashDir)
	if errors.Is(err, errNoEntry) {
		return fs.create(root, trashDir, typeDir|0o700, nil)
	}
	if err == nil && !t.isDir() {
		err = errNotDir
	}
	return t, err
}

// RemoveAll removes what is at path, and a directory with all it holds. Nothing there
// is no error. The name is gone at once. EINVAL: the root.
func (fs *FS) RemoveAll(ctx context.Context, path string) error {
	if path == "." {
		return errInvalid
	}
	var tree, gone uint32
	var at string // in lost+found; "": in place
	seq, err := fs.update(func() (err error) {
		tree, gone, at, err = fs.takeAway(path)
		return err
	})
	if errors.Is(err, errNoEntry) || errors.Is(err, errNotDir) {
		return nil
	}
	if err != nil || tree == 0 {
		return fs.finish(seq, err, gone)
	}
	if err := fs.emptyTree(ctx, tree); err != nil {
		return err
	}
	seq, err = fs.update(func() (err error) {
		dir, name, err := fs.resolveParent(path)
		if at != "" {
			dir, err = fs.trash()
			name = at
		}
		if err == nil {
			gone, err = fs.unlink(dir, name)
		}
		return err
	})
	return fs.finish(seq, err, gone)
}

// trashName returns a name for a tree in lost+found that nothing there has.
func (fs *FS) trashName(trash *inode, prefix string, num uint32) (string, error) {
	name := fmt.Sprintf("%s%d", prefix, num)
	for k := 1; ; k++ {
		if _, err := fs.find(trash, name); errors.Is(err, errNoEntry) {
			return name, nil
		} else if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s%d-%d", prefix, num, k)
	}
}

// takeAway removes a file, or moves a tree to lost+found, where it can be emptied.
func (fs *FS) takeAway(path string) (tree, gone uint32, at string, err error) {
	dir, name, err := fs.resolveParent(path)
	if err != nil {
		return 0, 0, "", err
	}
	i, err := fs.child(dir, name)
	if err != nil {
		return 0, 0, "", err
	}
	if !i.isDir() {
		gone, err = fs.unlink(dir, name)
		return 0, gone, "", err
	}
	t, err := fs.trash()
	if err != nil {
		return 0, 0, "", err
	}
	if i.num == t.num {
		return i.num, 0, "", nil
	}
	// It may have been made just now, in the same directory.
	if dir, err = fs.inode(dir.num); err != nil {
		return 0, 0, "", err
	}
	if t.num == dir.num {
		dir = t
	}
	if at, err = fs.trashName(t, trashRemoved, i.num); err != nil {
		return 0, 0, "", err
	}
	_, err = fs.move(dir, name, i, t, at, true)
	return i.num, 0, at, err
}

// level is a directory that is being emptied.
type level struct {
	num   uint32
	name  string // in the one above
	block uint32 // before this one there is nothing left
}

// emptyTree removes all that a directory holds, deepest first.
func (fs *FS) emptyTree(ctx context.Context, num uint32) error {
	stack := []level{{num: num}}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		top := &stack[len(stack)-1]
		sub, empty, err := fs.emptySome(top)
		if err != nil {
			return err
		}
		switch {
		case sub.num != 0:
			if len(stack) > maxOrphans {
				return corruptf("directories nested too deep")
			}
			stack = append(stack, sub)
		case empty && len(stack) == 1:
			return nil
		case empty:
			name := top.name
			stack = stack[:len(stack)-1]
			if err := fs.unlinkIn(stack[len(stack)-1].num, name); err != nil {
				return err
			}
		}
	}
}

func (fs *FS) unlinkIn(dir uint32, name string) error {
	var gone uint32
	_, err := fs.update(func() error {
		d, err := fs.inode(dir)
		if err != nil {
			return err
		}
		gone, err = fs.unlink(d, name)
		return err
	})
	if err != nil || gone == 0 {
		return err
	}
	return fs.reclaim(gone)
}

// emptySome removes entries of a directory, until it meets a directory that is not
// empty, or has done much.
func (fs *FS) emptySome(top *level) (sub level, empty bool, err error) {
	var gone []uint32
	_, err = fs.update(func() error {
		sub, empty, gone = level{}, false, nil
		block := top.block
		dir, err := fs.inode(top.num)
		if err != nil {
			return err
		}
		for !fs.opFull() {
			name, num, err := fs.firstEntry(dir, &block)
			if err != nil {
				return err
			}
			if num == 0 {
				empty = true
				break
			}
			i, err := fs.child(dir, name)
			if err != nil {
				return err
			}
			if i.isDir() {
				if vacant, err := fs.isEmpty(i); err != nil {
					return err
				} else if !vacant {
					sub = level{num: i.num, name: name}
					break
				}
			}
			g, err := fs.unlink(dir, name)
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
			err = fs.reclaim(g)
		}
	}
	return sub, empty, err
}

// firstEntry returns the first entry of a directory at or after a block; num 0: there
// is none.
func (fs *FS) firstEntry(dir *inode, block *uint32) (name string, num uint32, err error) {
	for ; *block < fs.dirBlocks(dir); *block++ {
		if fs.indexed(dir) {
			if index, err := fs.isIndexBlock(dir, *block); err != nil || index {
				if err != nil {
					return "", 0, err
				}
				continue
			}
		}
		b, _, err := fs.dirBlockAt(dir, *block, false)
		if err != nil {
			return "", 0, err
		}
		err = fs.eachEntry(dir.num, b.data, fs.dirEnd(), func(e dirent) bool {
			if isDot(string(e.name)) {
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

// emptyTrash removes the trees that a crash left without a place.
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
