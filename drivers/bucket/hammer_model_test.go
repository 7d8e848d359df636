package bucket_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/volehq/vole"
)

// hamModel is what a volume, or one directory of it, must hold: the simplest file
// system that keeps the contract. One worker owns what it is a model of, so each call
// has one outcome.
type hamModel struct {
	root *hamNode
	all  []*hamNode // every inode that is, or may still be, charged
	// quota is what the volume may hold; 0: others use it too, so what fits is not known.
	quota int64
	// top is how many directories from the root down are not the owner's alone.
	top int
}

// hamNode is an inode of the model.
type hamNode struct {
	mode   fs.FileMode
	data   []byte
	target string
	names  map[string]*hamNode // of a directory
	xattrs map[string]string
	nlink  int
	opens  int // handles
}

// errUnsure marks a call whose outcome depends on what others do; it is not made.
var errUnsure = errors.New("the outcome is not known")

func newHamModel(quota int64, prefix string) *hamModel {
	m := &hamModel{quota: quota}
	m.root = m.make(fs.ModeDir | 0o755)
	if prefix != "" {
		m.top = 1
		m.put(m.root, prefix, m.make(fs.ModeDir|0o755))
	}
	return m
}

func (m *hamModel) make(mode fs.FileMode) *hamNode {
	n := &hamNode{mode: mode, xattrs: map[string]string{}}
	if mode.IsDir() {
		n.names = map[string]*hamNode{}
	}
	m.all = append(m.all, n)
	return n
}

func (n *hamNode) isDir() bool  { return n != nil && n.mode.IsDir() }
func (n *hamNode) isLink() bool { return n != nil && n.mode.Type() == fs.ModeSymlink }
func (n *hamNode) isFile() bool { return n != nil && n.mode.IsRegular() }

// used is the sum of the sizes of files that have a name or are open.
func (m *hamModel) used() int64 {
	sum := int64(0)
	m.all = slices.DeleteFunc(m.all, func(n *hamNode) bool { return n != m.root && n.nlink == 0 && n.opens == 0 })
	for _, n := range m.all {
		sum += int64(len(n.data))
	}
	return sum
}

// freed is what removing one name of n gives back.
func freed(n *hamNode) int64 {
	if n == nil || n.nlink != 1 || n.opens != 0 {
		return 0
	}
	return int64(len(n.data))
}

// spot is where a path leads: a directory, a name in it, and what has that name.
type spot struct {
	dirs    []*hamNode
	name    string
	n       *hamNode // nil: nothing is there
	missing []string // directories that would have to be made first
}

func (s spot) dir() *hamNode { return s.dirs[len(s.dirs)-1] }

type hamStep struct {
	name string
	link bool // of a link's target
}

func hamSteps(p string, link bool) []hamStep {
	var list []hamStep
	for e := range strings.SplitSeq(p, "/") {
		if e != "" && e != "." {
			list = append(list, hamStep{e, link})
		}
	}
	return list
}

// walk resolves p. With follow, a link as the last element is followed; with parents,
// missing directories are no error.
func (m *hamModel) walk(p string, follow, parents bool) (spot, error) {
	at := spot{dirs: []*hamNode{m.root}}
	todo := hamSteps(p, false)
	links := 0
	for len(todo) > 0 {
		s := todo[0]
		if s.name == ".." {
			if len(at.dirs) == 1 {
				return at, vole.ErrPathEscape
			}
			at.dirs, todo = at.dirs[:len(at.dirs)-1], todo[1:]
			if len(at.dirs) <= m.top {
				return at, errUnsure
			}
			continue
		}
		n := at.dir().names[s.name]
		switch {
		case n == nil:
			return at.without(todo, parents)
		case n.isLink() && (len(todo) > 1 || follow):
			if links++; links > 40 {
				return at, vole.ErrLoop
			}
			if strings.HasPrefix(n.target, "/") {
				return at, vole.ErrPathEscape
			}
			todo = append(hamSteps(n.target, true), todo[1:]...)
			continue
		case len(todo) == 1:
			at.name, at.n = s.name, n
			return at, nil
		case !n.isDir():
			return at, vole.ErrNotDir
		}
		at.dirs, todo = append(slices.Clip(at.dirs), n), todo[1:]
	}
	at.n = at.dir()
	return at, nil
}

// without ends a walk where the next step leads nowhere.
func (s spot) without(todo []hamStep, parents bool) (spot, error) {
	last := len(todo) - 1
	s.name = todo[last].name
	if last > 0 && !parents {
		return s, vole.ErrNotExist
	}
	for _, t := range todo[:last] {
		if t.link || t.name == ".." {
			return s, vole.ErrNotExist
		}
		s.missing = append(s.missing, t.name)
	}
	return s, nil
}

// there is walk where something must be.
func (m *hamModel) there(p string, follow bool) (spot, error) {
	at, err := m.walk(p, follow, false)
	if err == nil && at.n == nil {
		err = vole.ErrNotExist
	}
	return at, err
}

// parents makes the directories that a spot lacks and returns the last.
func (m *hamModel) parents(at spot, mode fs.FileMode) *hamNode {
	d := at.dir()
	for _, name := range at.missing {
		next := m.make(fs.ModeDir | mode)
		next.nlink = 1
		d.names[name] = next
		d = next
	}
	return d
}

// put gives n a name, taking the name from what has it.
func (m *hamModel) put(d *hamNode, name string, n *hamNode) {
	if old := d.names[name]; old != nil {
		m.unlink(old)
	}
	n.nlink++
	d.names[name] = n
}

func (m *hamModel) unlink(n *hamNode) {
	n.nlink--
	for name, child := range n.names {
		m.unlink(child)
		delete(n.names, name)
	}
}

// clone copies a tree; names of one file stay names of one file. The copies count
// once they are put into all.
func (n *hamNode) clone(seen map[*hamNode]*hamNode) *hamNode {
	if c, again := seen[n]; again {
		return c
	}
	c := &hamNode{mode: n.mode, data: n.data, target: n.target, xattrs: maps.Clone(n.xattrs)}
	seen[n] = c
	if n.isDir() {
		c.names = map[string]*hamNode{}
		for name, child := range n.names {
			cc := child.clone(seen)
			cc.nlink++
			c.names[name] = cc
		}
	}
	return c
}

// hamTree describes what lies beneath a directory, by path.
type hamTree map[string]string

func (m *hamModel) tree(prefix string) hamTree {
	all := hamTree{}
	n := m.root
	if prefix != "" {
		n = n.names[prefix]
	}
	n.treeInto(all, ".")
	return all
}

func (n *hamNode) treeInto(all hamTree, p string) {
	for name, child := range n.names {
		at := path.Join(p, name)
		all[at] = child.describe()
		child.treeInto(all, at)
	}
}

func (n *hamNode) describe() string {
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		attrs = append(attrs, k+"="+n.xattrs[k])
	}
	switch {
	case n.isDir():
		links := 2
		for _, c := range n.names {
			if c.isDir() {
				links++
			}
		}
		return fmt.Sprintf("%v, %d links, %v", n.mode, links, attrs)
	case n.isLink():
		return fmt.Sprintf("link to %s, %d names", n.target, n.nlink)
	}
	return fmt.Sprintf("%v %s, %d names, %v", n.mode, digest(n.data), n.nlink, attrs)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%d bytes %x", len(b), sum[:6])
}

// diff says how b is another than a; "": it is not.
func (a hamTree) diff(b hamTree) string {
	var s strings.Builder
	for _, p := range slices.Sorted(maps.Keys(a)) {
		if got, is := b[p]; !is {
			fmt.Fprintf(&s, "\n  %s is missing: %s", p, a[p])
		} else if got != a[p] {
			fmt.Fprintf(&s, "\n  %s: %s, want %s", p, got, a[p])
		}
	}
	for _, p := range slices.Sorted(maps.Keys(b)) {
		if _, is := a[p]; !is {
			fmt.Fprintf(&s, "\n  %s should not be there: %s", p, b[p])
		}
	}
	return s.String()
}
