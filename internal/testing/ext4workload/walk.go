package ext4workload

import (
	"errors"
	"strings"
	"syscall"
)

// errEscape is the model's ext4.ErrEscape.
var errEscape = errors.New("the path leads out")

// pathWalker resolves one path in the model.
type pathWalker struct {
	m     *Model
	dirs  []*fileNode // from the root to the current directory
	links int         // followed so far
}

func (w *pathWalker) currentDir() *fileNode { return w.dirs[len(w.dirs)-1] }

// enterElements enters the directories of a path, one after the other, and follows links.
func (w *pathWalker) enterElements(path string) error {
	for _, el := range strings.Split(path, "/") {
		switch el {
		case "", ".":
			continue
		case "..":
			// At the root a system call would stay there; package ext4 refuses.
			if len(w.dirs) == 1 {
				return errEscape
			}
			w.dirs = w.dirs[:len(w.dirs)-1]
			continue
		}
		if len(el) > 255 {
			return syscall.ENAMETOOLONG
		}
		kid := w.currentDir().children[el]
		if kid == nil {
			return syscall.ENOENT
		}
		if kid.isSymlink() {
			if err := w.followSymlink(kid); err != nil {
				return err
			}
			continue
		}
		if !kid.isDirectory() {
			return syscall.ENOTDIR
		}
		w.dirs = append(w.dirs, kid)
	}
	return nil
}

// followSymlink enters the directory that a symbolic link leads to.
func (w *pathWalker) followSymlink(link *fileNode) error {
	if w.links++; w.links > 40 {
		return syscall.ELOOP
	}
	if strings.HasPrefix(link.target, "/") {
		return errEscape
	}
	return w.enterElements(link.target)
}

// resolveParent resolves all elements of a path but the last, name.
func (m *Model) resolveParent(path string) (dir *fileNode, name string, err error) {
	w := &pathWalker{m: m, dirs: []*fileNode{m.root}}
	k := strings.LastIndexByte(path, '/')
	if err := w.enterElements(path[:max(k, 0)]); err != nil {
		return nil, "", err
	}
	if path == "." {
		return nil, "", syscall.EINVAL
	}
	return w.currentDir(), path[k+1:], nil
}

// resolvePath resolves a path; with follow a symbolic link at its end is followed.
func (m *Model) resolvePath(path string, follow bool) (*fileNode, error) {
	if path == "." {
		return m.root, nil
	}
	dir, name, err := m.resolveParent(path)
	if err != nil {
		return nil, err
	}
	if len(name) > 255 {
		return nil, syscall.ENAMETOOLONG
	}
	n := dir.children[name]
	if n == nil {
		return nil, syscall.ENOENT
	}
	if !follow || !n.isSymlink() {
		return n, nil
	}
	return m.followLastLink(path)
}

// followLastLink resolves a path that ends with a symbolic link, through at most 40 of
// them, as Linux does.
func (m *Model) followLastLink(path string) (*fileNode, error) {
	w := &pathWalker{m: m, dirs: []*fileNode{m.root}}
	// Each round resolves one link; path is relative to where the walk has arrived.
	for {
		k := strings.LastIndexByte(path, '/')
		if err := w.enterElements(path[:max(k, 0)]); err != nil {
			return nil, err
		}
		name := path[k+1:]
		if name == "" || name == "." || name == ".." {
			err := w.enterElements(name)
			return w.currentDir(), err
		}
		if len(name) > 255 {
			return nil, syscall.ENAMETOOLONG
		}
		n := w.currentDir().children[name]
		if n == nil {
			return nil, syscall.ENOENT
		}
		if !n.isSymlink() {
			return n, nil
		}
		if w.links++; w.links > 40 {
			return nil, syscall.ELOOP
		}
		if path = n.target; strings.HasPrefix(path, "/") {
			return nil, errEscape
		}
	}
}

// isBeneath reports whether n is dir or beneath it.
func isBeneath(n, dir *fileNode) bool {
	for ; ; n = n.parent {
		if n == dir {
			return true
		}
		if n.parent == n || n.parent == nil {
			return false
		}
	}
}
