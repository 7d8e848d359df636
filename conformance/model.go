package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/volehq/vole"
)

// model is what a volume should hold: the simplest file system that keeps the
// contract, in memory. Its operations return every error that the real one may give
// for a call, because the contract does not say which of two faults is told first.
type model struct {
	root  *node
	all   []*node // every file ever made, to count what is held
	quota int64   // 0: none
}

// node is an inode of the model.
type node struct {
	mode   fs.FileMode
	data   []byte
	target string
	names  map[string]*node // of a directory
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

func (m *model) make(mode fs.FileMode) *node {
	n := &node{mode: mode, xattrs: map[string]string{}}
	if mode.IsDir() {
		n.names = map[string]*node{}
	}
	m.all = append(m.all, n)
	return n
}

func (n *node) isDir() bool  { return n != nil && n.mode.IsDir() }
func (n *node) isLink() bool { return n != nil && n.mode.Type() == fs.ModeSymlink }
func (n *node) isFile() bool { return n != nil && n.mode.IsRegular() }

// used is the sum of the sizes of files that have a name or are open.
func (m *model) used() int64 {
	sum := int64(0)
	m.all = slices.DeleteFunc(m.all, func(n *node) bool { return n != m.root && n.nlink == 0 && n.opens == 0 })
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
func freed(n *node) int64 {
	if n == nil || n.nlink != 1 || n.opens != 0 {
		return 0
	}
	return int64(len(n.data))
}

// place is where a path leads: a directory, a name in it, and what has that name.
type place struct {
	dirs    []*node  // from the root to the directory
	name    string   // "" when the path ends in a directory by "." or ".."
	n       *node    // nil: nothing is there
	missing []string // directories that would have to be made first
}

func (p place) dir() *node { return p.dirs[len(p.dirs)-1] }

// step is one element of a path still to go.
type step struct {
	name   string
	inLink bool // of a link's target
}

func steps(p string, inLink bool) []step {
	var list []step
	for e := range strings.SplitSeq(p, "/") {
		if e != "" && e != "." {
			list = append(list, step{e, inLink})
		}
	}
	return list
}

// maxSure is how many links every backend follows; more than maxLinks none does.
const (
	maxSure  = 8
	maxLinks = 40
)

// walk resolves p. With follow, a link as the last element is followed; with parents,
// missing directories are no error.
func (m *model) walk(p string, follow, parents bool) (place, error) {
	at := place{dirs: []*node{m.root}}
	todo := steps(p, false)
	links := 0
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		if s.name == ".." {
			if len(at.dirs) == 1 {
				return at, vole.ErrPathEscape
			}
			at.dirs = at.dirs[:len(at.dirs)-1]
			continue
		}
		n := at.dir().names[s.name]
		switch {
		case n == nil && len(todo) == 0:
			at.name = s.name
			return at, sure(links)
		case n == nil:
			return missing(at, s, todo, parents, links)
		case n.isLink() && (len(todo) > 0 || follow):
			if links++; links > maxLinks {
				return at, vole.ErrLoop
			}
			if strings.HasPrefix(n.target, "/") {
				return at, vole.ErrPathEscape
			}
			todo = append(steps(n.target, true), todo...)
		case len(todo) == 0:
			at.name, at.n = s.name, n
			return at, sure(links)
		case !n.isDir():
			return at, vole.ErrNotDir
		default:
			at.dirs = append(slices.Clip(at.dirs), n)
		}
	}
	at.n = at.dir()
	return at, sure(links)
}

func sure(links int) error {
	if links > maxSure {
		return errUnsure
	}
	return nil
}

// missing ends a walk at a directory that is not there.
func missing(at place, s step, todo []step, parents bool, links int) (place, error) {
	if !parents {
		return at, vole.ErrNotExist
	}
	if s.inLink {
		return at, errUnsure // making directories through a dangling link
	}
	at.missing = []string{s.name}
	for _, s := range todo[:len(todo)-1] {
		at.missing = append(at.missing, s.name)
	}
	at.name = todo[len(todo)-1].name
	return at, sure(links)
}

// makeParents makes the directories that at lacks and returns the last.
func (m *model) makeParents(at place) *node {
	d := at.dir()
	for _, name := range at.missing {
		next := m.make(fs.ModeDir | 0o755)
		next.nlink = 1
		d.names[name] = next
		d = next
	}
	return d
}

// put gives n a name, taking the name from what has it.
func (m *model) put(d *node, name string, n *node) {
	if old := d.names[name]; old != nil {
		m.unlink(old)
	}
	n.nlink++
	d.names[name] = n
}

func (m *model) unlink(n *node) {
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

func (n *node) treeInto(all tree, p string) {
	for name, child := range n.names {
		at := path.Join(p, name)
		all[at] = child.describe()
		child.treeInto(all, at)
	}
}

func (n *node) describe() string {
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
		n := &node{mode: e.Mode, nlink: int(e.Nlink), xattrs: map[string]string{}}
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
