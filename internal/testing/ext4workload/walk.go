package ext4workload

import (
	"errors"
	"strings"
	"syscall"
)

// errEscape stands for ext4.ErrEscape.
var errEscape = errors.New("the path leads out")

// pathWalker resolves one path in the model.
type pathWalker struct {
	m     *Model
	dirs  []*fileNode
	links int
}

func (w *pathWalker) currentDir() *fileNode { return w.dirs[len(w.dirs)-1] }

// step enters an element, following links; last says not to follow the last one.
func (w *pathWalker) enterElements(path string) error {
	for _, el := range strings.Split(path, "/") {
		switch el {
		case "", ".":
			continue
		case "..":
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

func (w *pathWalker) followSymlink(link *fileNode) error {
	if w.links++; w.links > 40 {
		return syscall.ELOOP
	}
	if strings.HasPrefix(link.target, "/") {
		return errEscape
	}
	return w.enterElements(link.target)
}

// resolveParent resolves all but the last element.
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

// resolvePath resolves a path; with follow what it leads to. The walk ends in the directory.
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

// followLastLink follows the link at the end of a path.
func (m *Model) followLastLink(path string) (*fileNode, error) {
	w := &pathWalker{m: m, dirs: []*fileNode{m.root}}
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
