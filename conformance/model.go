package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/pathwalk"
)

// model is the expected content of a volume: the simplest file system that keeps the
// contract, in memory. Its operations return every error that the real one may give
// for a call, because the contract does not say which of two faults is reported first.
type model struct {
	root  *modelInode
	all   []*modelInode // every file ever made, for the count of bytes
	quota int64         // 0: none
}

// modelInode is an inode of the model.
type modelInode struct {
	mode   fs.FileMode
	data   []byte
	target string
	names  map[string]*modelInode // of a directory
	xattrs map[string]string
	nlink  int
	opens  int // handles
}

// errUnsure marks a call whose outcome the contract leaves open; it is not made.
var errUnsure = errors.New("the contract leaves this open")

func newModel(quota int64) *model {
	m := &model{quota: quota}
	m.root = m.make(fs.ModeDir | 0o755)
	return m
}

func (m *model) make(mode fs.FileMode) *modelInode {
	n := &modelInode{mode: mode, xattrs: map[string]string{}}
	if mode.IsDir() {
		n.names = map[string]*modelInode{}
	}
	m.all = append(m.all, n)
	return n
}

func (n *modelInode) isDir() bool  { return n != nil && n.mode.IsDir() }
func (n *modelInode) isLink() bool { return n != nil && n.mode.Type() == fs.ModeSymlink }
func (n *modelInode) isFile() bool { return n != nil && n.mode.IsRegular() }

// used is the sum of the sizes of files that have a name or are open.
func (m *model) used() int64 {
	sum := int64(0)
	m.all = slices.DeleteFunc(m.all, func(n *modelInode) bool { return n != m.root && n.nlink == 0 && n.opens == 0 })
	for _, n := range m.all {
		sum += int64(len(n.data))
	}
	return sum
}

// fits returns ErrQuota when delta more bytes would exceed the quota.
func (m *model) fits(delta int64) error {
	if m.quota != 0 && delta > 0 && m.used()+delta > m.quota {
		return vole.ErrQuota
	}
	return nil
}

// freed is what removing one name of n gives back.
func freed(n *modelInode) int64 {
	if n == nil || n.nlink != 1 || n.opens != 0 {
		return 0
	}
	return int64(len(n.data))
}

// resolved is the result of resolving a path: a directory, a name in it, and the node of that
// name.
type resolved struct {
	dirs    []*modelInode // from the root to the directory
	name    string        // "" when the path ends in a directory by "." or ".."
	n       *modelInode   // nil: nothing has the name
	missing []string      // directories that would have to be made first
}

func (r resolved) dir() *modelInode { return r.dirs[len(r.dirs)-1] }

// maxSure is how many links every backend follows; more than pathwalk.MaxLinks none does.
const maxSure = 8

// named is an inode of the model under one of its names; its node is nil when the name
// does not exist.
type named struct {
	name string
	*modelInode
}

// resolve resolves p. With follow, a link as the last element is followed; with parents,
// missing directories are no error.
func (m *model) resolve(p string, follow, parents bool) (resolved, error) {
	links, byName := 0, false // byName: the last element so far was a name, not "." or ".."
	w := pathwalk.Walker[named]{
		KeepLast: !follow,
		Lookup: func(dir named, s pathwalk.Step) (named, pathwalk.Kind, error) {
			byName = s.Last
			next := named{name: s.Name}
			if dir.modelInode != nil {
				next.modelInode = dir.names[s.Name]
			}
			switch {
			case next.modelInode == nil && !s.Last && !parents:
				return next, 0, vole.ErrNotExist
			case next.modelInode == nil && !s.Last && s.InLink:
				return next, 0, errUnsure // making directories through a dangling link
			case next.modelInode == nil:
				return next, pathwalk.Missing, nil
			case next.isLink():
				return next, pathwalk.Link, nil
			case next.isDir():
				return next, pathwalk.Directory, nil
			}
			return next, pathwalk.Other, nil
		},
		Readlink: func(link named) (string, error) {
			links++
			byName = false
			return link.target, nil
		},
	}
	entries, err := w.Walk(named{modelInode: m.root}, p)
	if err == nil && links > maxSure {
		err = errUnsure
	}
	if err != nil {
		return resolved{}, err
	}
	var r resolved
	if last := entries[len(entries)-1]; byName {
		r.name, r.n = last.name, last.modelInode
		entries = entries[:len(entries)-1]
	} else {
		r.n = last.modelInode
	}
	for _, e := range entries {
		if e.modelInode == nil {
			r.missing = append(r.missing, e.name)
		} else {
			r.dirs = append(r.dirs, e.modelInode)
		}
	}
	return r, nil
}

// makeParents makes the directories that at lacks and returns the last.
func (m *model) makeParents(at resolved) *modelInode {
	d := at.dir()
	for _, name := range at.missing {
		next := m.make(fs.ModeDir | 0o755)
		next.nlink = 1
		d.names[name] = next
		d = next
	}
	return d
}

// put gives n a name and takes it from the node that has it.
func (m *model) put(d *modelInode, name string, n *modelInode) {
	if old := d.names[name]; old != nil {
		m.unlink(old)
	}
	n.nlink++
	d.names[name] = n
}

func (m *model) unlink(n *modelInode) {
	n.nlink--
	for name, child := range n.names {
		m.unlink(child)
		delete(n.names, name)
	}
}

// tree describes the model as files.modelTree describes a volume.
func (m *model) tree() tree {
	all := tree{}
	m.root.treeInto(all, ".")
	return all
}

func (n *modelInode) treeInto(all tree, p string) {
	for name, child := range n.names {
		at := path.Join(p, name)
		all[at] = child.describe()
		child.treeInto(all, at)
	}
}

func (n *modelInode) describe() string {
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		attrs = append(attrs, k+"="+n.xattrs[k])
	}
	switch {
	case n.isDir():
		return fmt.Sprintf("%v %v", n.mode, attrs)
	case n.isLink():
		return fmt.Sprintf("link to %s, %d names", n.target, n.nlink)
	}
	return fmt.Sprintf("%v %s, %d names, %v", n.mode, digest(string(n.data)), n.nlink, attrs)
}

// modelTree describes a volume as model.tree does.
func (f *files) modelTree() tree {
	f.t.Helper()
	all := tree{}
	f.modelTreeInto(all, ".")
	return all
}

func (f *files) modelTreeInto(all tree, dir string) {
	f.t.Helper()
	list, err := f.ReadDir(f.ctx, dir)
	must(f.t, "list "+dir, err)
	for _, e := range list {
		p := path.Join(dir, e.Name)
		if p == "lost+found" {
			continue
		}
		n := &modelInode{mode: e.Mode, nlink: int(e.Nlink), xattrs: map[string]string{}}
		switch e.Mode.Type() {
		case 0:
			n.data = []byte(f.read(p))
		case fs.ModeSymlink:
			n.target = f.readlink(p)
		case fs.ModeDir:
			f.modelTreeInto(all, p)
		}
		if f.e.caps.Xattrs && (e.IsDir() || e.Mode.IsRegular()) {
			f.xattrsInto(n.xattrs, p)
		}
		all[p] = n.describe()
	}
}

func (f *files) xattrsInto(attrs map[string]string, p string) {
	f.t.Helper()
	names, err := f.Listxattr(f.ctx, p)
	must(f.t, "listxattr "+p, err)
	for _, name := range names {
		v, err := f.Getxattr(f.ctx, p, name)
		must(f.t, "getxattr "+p, err)
		attrs[name] = string(v)
	}
}
