package ext4workload

import (
	"io"
	"slices"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

const page = 4096

// node is a file of the model.
type node struct {
	ino      uint64
	mode     uint32
	uid, gid uint32
	links    int
	size     int64
	pages    map[int64]*[page]byte // that are not all zeros
	target   string
	dev      uint64
	xattrs   map[string]string
	atime    *ext4oracle.Time // nil: not known
	mtime    *ext4oracle.Time
	parent   *node // of a directory that is in the tree
	names    []string
	kids     map[string]*node
	at       map[string]int // of a name in names

	shown *ext4oracle.Node // nil: changed since
}

func (n *node) isDir() bool     { return n.mode&ext4oracle.TypeMask == ext4oracle.TypeDir }
func (n *node) isRegular() bool { return n.mode&ext4oracle.TypeMask == ext4oracle.TypeRegular }
func (n *node) isLink() bool    { return n.mode&ext4oracle.TypeMask == ext4oracle.TypeSymlink }

func (n *node) add(name string, kid *node) {
	n.at[name] = len(n.names)
	n.names = append(n.names, name)
	n.kids[name] = kid
	if kid.isDir() {
		kid.parent = n
		n.links++
	}
	n.changed()
	n.mtime = nil
}

func (n *node) remove(name string) {
	kid := n.kids[name]
	i, last := n.at[name], len(n.names)-1
	n.names[i] = n.names[last]
	n.at[n.names[i]] = i
	n.names = n.names[:last]
	delete(n.at, name)
	delete(n.kids, name)
	if kid.isDir() {
		n.links--
	}
	n.changed()
	n.mtime = nil
}

func (n *node) changed() { n.shown = nil }

func (n *node) wrote() {
	n.shown = nil
	n.mtime = nil
}

// ReadAt implements io.ReaderAt for the content.
func (n *node) ReadAt(p []byte, off int64) (int, error) {
	if off >= n.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.size-off)]
	clear(p)
	for k := off / page; k*page < off+int64(len(p)); k++ {
		if g := n.pages[k]; g != nil {
			at := k*page - off
			copy(p[max(at, 0):], g[max(-at, 0):])
		}
	}
	return len(p), nil
}

func (n *node) write(b []byte, off int64) {
	n.wrote()
	n.size = max(n.size, off+int64(len(b)))
	for len(b) > 0 {
		k, in := off/page, off%page
		c := min(page-in, int64(len(b)))
		g := n.pages[k]
		if g == nil && !allZero(b[:c]) {
			g = new([page]byte)
			n.pages[k] = g
		}
		if g != nil {
			copy(g[in:], b[:c])
		}
		b, off = b[c:], off+c
	}
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// zero makes a range read as zeros.
func (n *node) zero(from, to int64) {
	for k, g := range n.pages {
		lo, hi := max(from, k*page), min(to, (k+1)*page)
		if lo >= hi {
			continue
		}
		if hi-lo == page {
			delete(n.pages, k)
		} else {
			clear(g[lo-k*page : hi-k*page])
		}
	}
}

func (n *node) truncate(size int64) {
	n.zero(size, max(n.size, size))
	n.size = size
	n.wrote()
}

// ranges returns where the pages are, in order.
func (n *node) ranges() []ext4oracle.Range {
	keys := make([]int64, 0, len(n.pages))
	for k := range n.pages {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var list []ext4oracle.Range
	for _, k := range keys {
		list = append(list, ext4oracle.Range{Off: k * page, Len: min(page, n.size-k*page)})
	}
	return list
}

// show returns the node as the oracles describe it. It does not change any more.
func (n *node) show() *ext4oracle.Node {
	if n.shown != nil {
		return n.shown
	}
	s := &ext4oracle.Node{Mode: n.mode, UID: n.uid, GID: n.gid, Size: n.size, Nlink: uint64(n.links), Ino: n.ino,
		Target: n.target, Xattrs: map[string]string{}}
	for k, v := range n.xattrs {
		s.Xattrs[k] = v
	}
	if n.mtime != nil {
		s.Mtime = *n.mtime
	}
	if n.atime != nil {
		s.Atime = *n.atime
	}
	switch n.mode & ext4oracle.TypeMask {
	case ext4oracle.TypeRegular:
		s.Sum, _ = ext4oracle.SumAt(n, n.size, n.ranges())
	case ext4oracle.TypeSymlink:
		s.Size = int64(len(n.target))
	case ext4oracle.TypeChar, ext4oracle.TypeBlock:
		s.Major, s.Minor = uint32(n.dev>>8&0xfff), uint32(n.dev&0xff|n.dev>>12&0xffffff00)
	}
	n.shown = s
	return s
}

// Model is a file system in memory.
type Model struct {
	root    *node
	nextIno uint64
	slots   map[int]*node
	block   int64
	counted int // files, some time ago
}

// NewModel returns what Format makes: a root and lost+found. Its limits are those of
// blocks of a size.
func NewModel(block int64) *Model {
	m := &Model{slots: map[int]*node{}, block: block}
	m.root = m.newNode(ext4oracle.TypeDir | 0o755)
	m.root.links = 2
	m.root.parent = m.root
	lost := m.newNode(ext4oracle.TypeDir | 0o700)
	lost.links = 2
	m.root.add("lost+found", lost)
	return m
}

func (m *Model) newNode(mode uint32) *node {
	m.nextIno++
	n := &node{ino: m.nextIno, mode: mode, xattrs: map[string]string{}}
	switch mode & ext4oracle.TypeMask {
	case ext4oracle.TypeDir:
		n.kids, n.at = map[string]*node{}, map[string]int{}
	case ext4oracle.TypeRegular:
		n.pages = map[int64]*[page]byte{}
	}
	return n
}

// Tree returns what should be there. Later operations do not change it. Times are
// known where an operation has set them since; see Times.
func (m *Model) Tree() ext4oracle.Tree {
	t := ext4oracle.Tree{}
	addTree(t, ".", m.root)
	return t
}

func addTree(t ext4oracle.Tree, path string, n *node) {
	t[path] = n.show()
	for name, kid := range n.kids {
		p := name
		if path != "." {
			p = path + "/" + name
		}
		addTree(t, p, kid)
	}
}

// ForgetTimes forgets all that is known of times.
func (m *Model) ForgetTimes() { forgetTimes(m.root) }

func forgetTimes(n *node) {
	n.wrote()
	for _, kid := range n.kids {
		forgetTimes(kid)
	}
}

// CloseAll forgets all open files.
func (m *Model) CloseAll() { clear(m.slots) }

// Slots returns how many files are open.
func (m *Model) Slots() int { return len(m.slots) }

// Partly does the part of a write or an allocation that was done before it failed: data
// is what the range then holds, and size that of the file. It reports whether such a part
// could have been left.
func (m *Model) Partly(o *Op, data []byte, size int64) bool {
	n, err := m.fileOf(o)
	if err == nil {
		n.wrote()
	}
	if err != nil || size < 0 || o.Kind != WriteAt && o.Kind != Allocate {
		return true
	}
	if size != n.size && (size < n.size || size > o.Off+o.Len) {
		return false
	}
	if o.Kind == Allocate {
		n.truncate(size)
		return true
	}
	old, now := make([]byte, len(data)), Content(o.Seed, o.Len)
	if n.size > o.Off {
		_, _ = n.ReadAt(old, o.Off)
	}
	k := 0
	for k < len(data) && data[k] == now[k] {
		k++
	}
	for j := k; j < len(data); j++ {
		if data[j] != old[j] {
			return false
		}
	}
	n.write(data, o.Off)
	n.truncate(size)
	return true
}
