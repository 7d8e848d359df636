package ext4workload

import (
	"io"
	"slices"

	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// pageSize is the unit in which the model stores content, in bytes.
const pageSize = 4096

// fileNode is a file of the model.
type fileNode struct {
	ino      uint64
	mode     uint32 // as in st_mode
	uid, gid uint32
	links    int
	size     int64 // of a regular file, in bytes

	// pages holds the content of a regular file by page number, without pages of zeros.
	pages  map[int64]*[pageSize]byte
	target string // of a symbolic link
	dev    uint64 // of a device, as makedev makes it
	xattrs map[string]string

	// atime and mtime are nil when the model cannot know them.
	atime *ext4oracle.Time
	mtime *ext4oracle.Time

	// The rest is for directories. A name is drawn at random from names in constant time, so
	// nameIndexes has the index of each name in it.
	parent      *fileNode // nil: it is not in the tree
	names       []string
	children    map[string]*fileNode
	nameIndexes map[string]int

	// described is what describeNode returned last; nil: the node has changed since.
	described *ext4oracle.Node
}

func (n *fileNode) isDirectory() bool { return n.mode&ext4oracle.TypeMask == ext4oracle.TypeDir }
func (n *fileNode) isRegular() bool   { return n.mode&ext4oracle.TypeMask == ext4oracle.TypeRegular }
func (n *fileNode) isSymlink() bool   { return n.mode&ext4oracle.TypeMask == ext4oracle.TypeSymlink }

// addChild adds a name to a directory.
func (n *fileNode) addChild(name string, kid *fileNode) {
	n.nameIndexes[name] = len(n.names)
	n.names = append(n.names, name)
	n.children[name] = kid
	if kid.isDirectory() {
		kid.parent = n
		n.links++
	}
	n.noteChange()
	n.mtime = nil
}

// removeChild removes a name from a directory.
func (n *fileNode) removeChild(name string) {
	kid := n.children[name]
	// The last name takes the place of the removed one.
	i, last := n.nameIndexes[name], len(n.names)-1
	n.names[i] = n.names[last]
	n.nameIndexes[n.names[i]] = i
	n.names = n.names[:last]
	delete(n.nameIndexes, name)
	delete(n.children, name)
	if kid.isDirectory() {
		n.links--
	}
	n.noteChange()
	n.mtime = nil
}

// noteChange makes the node's description outdated.
func (n *fileNode) noteChange() { n.described = nil }

// noteContentChange is noteChange for content, which also changes the modification time.
func (n *fileNode) noteContentChange() {
	n.described = nil
	n.mtime = nil
}

// ReadAt implements io.ReaderAt for the content.
func (n *fileNode) ReadAt(p []byte, off int64) (int, error) {
	if off >= n.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.size-off)]
	clear(p)
	for k := off / pageSize; k*pageSize < off+int64(len(p)); k++ {
		if g := n.pages[k]; g != nil {
			at := k*pageSize - off
			copy(p[max(at, 0):], g[max(-at, 0):])
		}
	}
	return len(p), nil
}

// writeContent writes to a file. A page of zeros is not stored unless it was there before,
// so huge sparse files cost little.
func (n *fileNode) writeContent(b []byte, off int64) {
	n.noteContentChange()
	n.size = max(n.size, off+int64(len(b)))
	for len(b) > 0 {
		k, in := off/pageSize, off%pageSize
		// A page that does not exist reads as zeros, and need not exist for zeros.
		c := min(pageSize-in, int64(len(b)))
		g := n.pages[k]
		if g == nil && !isAllZero(b[:c]) {
			g = new([pageSize]byte)
			n.pages[k] = g
		}
		if g != nil {
			copy(g[in:], b[:c])
		}
		b, off = b[c:], off+c
	}
}

// isAllZero reports whether b holds only zeros.
func isAllZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// zeroRange makes a range read as zeros.
func (n *fileNode) zeroRange(from, to int64) {
	// Over the stored pages, not over the range, which may be huge.
	for k, g := range n.pages {
		lo, hi := max(from, k*pageSize), min(to, (k+1)*pageSize)
		if lo >= hi {
			continue
		}
		if hi-lo == pageSize {
			delete(n.pages, k)
		} else {
			clear(g[lo-k*pageSize : hi-k*pageSize])
		}
	}
}

// truncateContent sets the size.
func (n *fileNode) truncateContent(size int64) {
	n.zeroRange(size, max(n.size, size))
	n.size = size
	n.noteContentChange()
}

// dataRanges returns the stored pages, in order.
func (n *fileNode) dataRanges() []ext4oracle.Range {
	keys := make([]int64, 0, len(n.pages))
	for k := range n.pages {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var list []ext4oracle.Range
	for _, k := range keys {
		list = append(list, ext4oracle.Range{Off: k * pageSize, Len: min(pageSize, n.size-k*pageSize)})
	}
	return list
}

// describeNode returns the node in the form of package ext4oracle. The result never
// changes.
func (n *fileNode) describeNode() *ext4oracle.Node {
	if n.described != nil {
		return n.described
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
		s.Sum, _ = ext4oracle.SumAt(n, n.size, n.dataRanges())
	case ext4oracle.TypeSymlink:
		s.Size = int64(len(n.target))
	case ext4oracle.TypeChar, ext4oracle.TypeBlock:
		s.Major, s.Minor = uint32(n.dev>>8&0xfff), uint32(n.dev&0xff|n.dev>>12&0xffffff00)
	}
	n.described = s
	return s
}

// Model is a file system in memory. It implements the semantics of Linux where they are
// the same in package ext4, and those of that package where they differ: whole files
// written atomically, trees copied, links that lead out of the tree refused.
type Model struct {
	root    *fileNode
	nextIno uint64
	slots   map[int]*fileNode // open files
	block   int64             // block size, which limits file sizes and link targets
	counted int               // files when they were counted last, for the generator
}

// NewModel returns an empty file system as Format makes it: a root and lost+found. Its
// limits are those of a block size.
func NewModel(block int64) *Model {
	m := &Model{slots: map[int]*fileNode{}, block: block}
	// The root is its own parent, as by its entry "..".
	m.root = m.newFileNode(ext4oracle.TypeDir | 0o755)
	m.root.links = 2
	m.root.parent = m.root
	lost := m.newFileNode(ext4oracle.TypeDir | 0o700)
	lost.links = 2
	m.root.addChild("lost+found", lost)
	return m
}

// newFileNode returns a node of a mode, in no directory.
func (m *Model) newFileNode(mode uint32) *fileNode {
	m.nextIno++
	n := &fileNode{ino: m.nextIno, mode: mode, xattrs: map[string]string{}}
	switch mode & ext4oracle.TypeMask {
	case ext4oracle.TypeDir:
		n.children, n.nameIndexes = map[string]*fileNode{}, map[string]int{}
	case ext4oracle.TypeRegular:
		n.pages = map[int64]*[pageSize]byte{}
	}
	return n
}

// Tree returns the expected tree. Later operations do not change it. It has only times
// that an operation set; see ForgetTimes.
func (m *Model) Tree() ext4oracle.Tree {
	t := ext4oracle.Tree{}
	addToTree(t, ".", m.root)
	return t
}

// addToTree adds a node and everything beneath it.
func addToTree(t ext4oracle.Tree, path string, n *fileNode) {
	t[path] = n.describeNode()
	for name, kid := range n.children {
		p := name
		if path != "." {
			p = path + "/" + name
		}
		addToTree(t, p, kid)
	}
}

// ForgetTimes forgets all times.
func (m *Model) ForgetTimes() { forgetNodeTimes(m.root) }

// forgetNodeTimes forgets the times of a node and everything beneath it.
func forgetNodeTimes(n *fileNode) {
	n.noteContentChange()
	for _, kid := range n.children {
		forgetNodeTimes(kid)
	}
}

// CloseAll forgets all open files.
func (m *Model) CloseAll() { clear(m.slots) }

// Slots returns how many files are open.
func (m *Model) Slots() int { return len(m.slots) }

// Partly applies the part of a failed write or allocation that was done: data is the
// content of its range afterwards, size that of the file. It reports whether such a part
// is possible: the file did not shrink, did not grow beyond the range, and the range holds
// a prefix of the new content and then the old.
func (m *Model) Partly(o *Op, data []byte, size int64) bool {
	n, err := m.fileOfOp(o)
	if err == nil {
		n.noteContentChange()
	}
	if err != nil || size < 0 || o.Kind != WriteAt && o.Kind != Allocate {
		return true
	}
	// The file may have grown up to the end of the range, and must not have shrunk.
	if size != n.size && (size < n.size || size > o.Off+o.Len) {
		return false
	}
	if o.Kind == Allocate {
		n.truncateContent(size)
		return true
	}
	old, now := make([]byte, len(data)), Content(o.Seed, o.Len)
	if n.size > o.Off {
		_, _ = n.ReadAt(old, o.Off)
	}
	// A failed write leaves a prefix of the new content, and then the old.
	k := 0
	for k < len(data) && data[k] == now[k] {
		k++
	}
	for j := k; j < len(data); j++ {
		if data[j] != old[j] {
			return false
		}
	}
	n.writeContent(data, o.Off)
	n.truncateContent(size)
	return true
}
