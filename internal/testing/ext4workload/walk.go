package ext4workload

import (
	"errors"
	"strings"
	"syscall"
)

// errEscape stands for ext4.ErrEscape.
var errEscape = errors.New("the path leads out")

// walker resolves one path in the model.
type walker struct {
	m     *Model
	dirs  []*node
	links int
}

func (w *walker) here() *node { return w.dirs[len(w.dirs)-1] }

// step enters an element, following links; last says not to follow the last one.
func (w *walker) steps(path string) error {
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
		kid := w.here().kids[el]
		if kid == nil {
			return syscall.ENOENT
		}
		if kid.isLink() {
			if err := w.follow(kid); err != nil {
				return err
			}
			continue
		}
		if !kid.isDir() {
			return syscall.ENOTDIR
		}
		w.dirs = append(w.dirs, kid)
	}
	return nil
}

func (w *walker) follow(link *node) error {
	if w.links++; w.links > 40 {
		return syscall.ELOOP
	}
	if strings.HasPrefix(link.target, "/") {
		return errEscape
	}
	return w.steps(link.target)
}

// parent resolves all but the last element.
func (m *Model) parent(path string) (dir *node, name string, err error) {
	w := &walker{m: m, dirs: []*node{m.root}}
	k := strings.LastIndexByte(path, '/')
	if err := w.steps(path[:max(k, 0)]); err != nil {
		return nil, "", err
	}
	if path == "." {
		return nil, "", syscall.EINVAL
	}
	return w.here(), path[k+1:], nil
}

// get resolves a path; with follow what it leads to. The walk ends in the directory.
func (m *Model) get(path string, follow bool) (*node, error) {
	if path == "." {
		return m.root, nil
	}
	dir, name, err := m.parent(path)
	if err != nil {
		return nil, err
	}
	if len(name) > 255 {
		return nil, syscall.ENAMETOOLONG
	}
	n := dir.kids[name]
	if n == nil {
		return nil, syscall.ENOENT
	}
	if !follow || !n.isLink() {
		return n, nil
	}
	return m.chase(path)
}

// chase follows the link at the end of a path.
func (m *Model) chase(path string) (*node, error) {
	w := &walker{m: m, dirs: []*node{m.root}}
	for {
		k := strings.LastIndexByte(path, '/')
		if err := w.steps(path[:max(k, 0)]); err != nil {
			return nil, err
		}
		name := path[k+1:]
		if name == "" || name == "." || name == ".." {
			err := w.steps(name)
			return w.here(), err
		}
		if len(name) > 255 {
			return nil, syscall.ENAMETOOLONG
		}
		n := w.here().kids[name]
		if n == nil {
			return nil, syscall.ENOENT
		}
		if !n.isLink() {
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

// inside reports whether n is dir or beneath it.
func inside(n, dir *node) bool {
	for ; ; n = n.parent {
		if n == dir {
			return true
		}
		if n.parent == n || n.parent == nil {
			return false
		}
	}
}
