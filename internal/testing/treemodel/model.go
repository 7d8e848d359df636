// Package treemodel is a reference model of a volume's files: the simplest file system that
// keeps the contract of package vole, in memory. Suites that make random calls ask it what a
// call must do, and compare the whole volume with it.
//
//	model.go    inodes, and the resolution of paths
//	plan.go     what each operation must do, before it is made
//	handle.go   the same for operations on open files
//	call.go     an operation on a volume together with its plan
//	tree.go     a volume or a model as text by path, to compare two
package treemodel

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/pathwalk"
)

// Options says what is known of a volume.
type Options struct {
	// Quota is how many bytes the volume may hold; 0: no quota, or others use the volume too,
	// so that what fits is not known.
	Quota int64
	// Prefix is the directory of the root that the model describes; "": the whole volume.
	// Other names in the root are unknown then.
	Prefix string
	// Xattrs says that the backend keeps extended attributes.
	Xattrs bool
	// Exact expects of each call one outcome, that of the bucket backend, also where the
	// contract leaves open which of two faults is reported or what a link does.
	Exact bool
}

// Model is the expected content of a volume. It is not safe for concurrent use.
type Model struct {
	opts    Options
	root    *Inode
	charged []*Inode // every inode whose bytes count, or counted before it was removed
	opened  int      // handles so far
}

// Inode is an inode of a model.
type Inode struct {
	Mode   fs.FileMode
	Data   []byte // never changed in place: copies share it
	Target string // of a symbolic link
	Names  map[string]*Inode
	Xattrs map[string]string
	Nlink  int // names; of a directory 1, whatever is in it
	Opens  int // handles
}

// ErrUnsure marks a call whose outcome the contract leaves open, or depends on what others do.
// It must not be made.
var ErrUnsure = errors.New("the outcome is not known")

// New returns the model of an empty volume. Its prefix exists.
func New(opts Options) *Model {
	m := &Model{opts: opts}
	m.root = m.newInode(fs.ModeDir | 0o755)
	if opts.Prefix != "" {
		m.bindName(m.root, opts.Prefix, m.newInode(fs.ModeDir|0o755))
	}
	return m
}

// Top returns the directory that the model describes: the prefix, or the root.
func (m *Model) Top() *Inode {
	if m.opts.Prefix != "" {
		return m.root.Names[m.opts.Prefix]
	}
	return m.root
}

func (m *Model) newInode(mode fs.FileMode) *Inode {
	n := &Inode{Mode: mode, Xattrs: map[string]string{}}
	if mode.IsDir() {
		n.Names = map[string]*Inode{}
	}
	m.charged = append(m.charged, n)
	return n
}

// The methods of an Inode also take nil: what does not exist is of no kind.

// IsDir reports whether n is a directory.
func (n *Inode) IsDir() bool { return n != nil && n.Mode.IsDir() }

func (n *Inode) isSymlink() bool { return n != nil && n.Mode.Type() == fs.ModeSymlink }
func (n *Inode) isRegular() bool { return n != nil && n.Mode.IsRegular() }

// Used is the sum of the sizes of files that have a name or are open.
func (m *Model) Used() int64 {
	sum := int64(0)
	m.charged = slices.DeleteFunc(m.charged, func(n *Inode) bool { return n != m.root && n.Nlink == 0 && n.Opens == 0 })
	for _, n := range m.charged {
		sum += int64(len(n.Data))
	}
	return sum
}

// Free is how many more bytes fit, 0 if there is no quota.
func (m *Model) Free() int64 {
	if m.opts.Quota == 0 {
		return 0
	}
	return m.opts.Quota - m.Used()
}

// fitsQuota reports whether the quota allows growth by that many bytes.
func (m *Model) fitsQuota(growth int64) bool {
	return m.opts.Quota == 0 || growth <= max(0, m.Free())
}

// sizeFreed is how many bytes the removal of one name of n gives back.
func sizeFreed(n *Inode) int64 {
	if n == nil || n.Nlink != 1 || n.Opens != 0 {
		return 0
	}
	return int64(len(n.Data))
}

// resolved is the result of resolving a path: a directory, a name in it, and the inode of that
// name.
type resolved struct {
	dirs    []*Inode // from the root to the directory
	name    string   // "" when the path ends in a directory by "." or ".."
	n       *Inode   // nil: nothing has the name
	missing []string // directories that would have to be made first
}

func (r resolved) parentDir() *Inode { return r.dirs[len(r.dirs)-1] }

// maxSureLinks is how many links every backend follows; none follows more than
// pathwalk.MaxLinks.
const maxSureLinks = 8

// namedInode is an inode under one of its names; the inode is nil when the name does not exist.
type namedInode struct {
	name string
	*Inode
}

// resolve resolves p. With follow, a link as the last element is followed; with parents,
// missing directories are no error.
func (m *Model) resolve(p string, follow, parents bool) (resolved, error) {
	links, byName := 0, false // byName: the last element so far was a name, not "." or ".."
	w := pathwalk.Walker[namedInode]{
		KeepLast: !follow,
		Lookup: func(dir namedInode, s pathwalk.Step) (namedInode, pathwalk.Kind, error) {
			byName = s.Last
			return m.lookupName(dir, s, parents)
		},
		Readlink: func(link namedInode) (string, error) {
			links++
			byName = false
			return link.Target, nil
		},
	}
	entries, err := w.Walk(namedInode{Inode: m.root}, p)
	if err == nil && links > maxSureLinks && !m.opts.Exact {
		err = ErrUnsure
	}
	if err != nil {
		return resolved{}, err
	}
	var r resolved
	if last := entries[len(entries)-1]; byName {
		r.name, r.n = last.name, last.Inode
		entries = entries[:len(entries)-1]
	} else {
		r.n = last.Inode
	}
	if m.opts.Prefix != "" && r.n == m.root {
		return resolved{}, ErrUnsure // a link leads out of the prefix
	}
	for _, e := range entries {
		if e.Inode == nil {
			r.missing = append(r.missing, e.name)
		} else {
			r.dirs = append(r.dirs, e.Inode)
		}
	}
	return r, nil
}

// lookupName is one step of resolve.
func (m *Model) lookupName(dir namedInode, s pathwalk.Step, parents bool) (namedInode, pathwalk.Kind, error) {
	next := namedInode{name: s.Name}
	if dir.Inode != nil {
		next.Inode = dir.Names[s.Name]
	}
	switch {
	case m.opts.Prefix != "" && dir.Inode == m.root && s.InLink:
		return next, 0, ErrUnsure // a link leads out of the prefix
	case next.Inode == nil && !s.Last && !parents:
		return next, 0, vole.ErrNotExist
	case next.Inode == nil && !s.Last && s.InLink && m.opts.Exact:
		return next, 0, vole.ErrNotExist
	case next.Inode == nil && !s.Last && s.InLink:
		return next, 0, ErrUnsure // directories made through a dangling link
	case next.Inode == nil:
		return next, pathwalk.Missing, nil
	case next.isSymlink():
		return next, pathwalk.Link, nil
	case next.IsDir():
		return next, pathwalk.Directory, nil
	}
	return next, pathwalk.Other, nil
}

// resolveExisting is resolve for what must exist.
func (m *Model) resolveExisting(p string, follow bool) (resolved, error) {
	at, err := m.resolve(p, follow, false)
	if err == nil && at.n == nil {
		err = vole.ErrNotExist
	}
	return at, err
}

// Find returns the inode at p, or the error with which a lookup fails. With follow, a link as
// the last element is followed.
func (m *Model) Find(p string, follow bool) (*Inode, error) {
	at, err := m.resolveExisting(p, follow)
	return at.n, err
}

// findRegular returns the file that p leads to.
func (m *Model) findRegular(p string) (*Inode, error) {
	n, err := m.Find(p, true)
	switch {
	case err != nil:
		return nil, err
	case n.IsDir():
		return nil, vole.ErrIsDir
	case !n.isRegular():
		return nil, vole.ErrUnsupported
	}
	return n, nil
}

// makeParents makes the directories that at lacks and returns the last.
func (m *Model) makeParents(at resolved, mode fs.FileMode) *Inode {
	dir := at.parentDir()
	for _, name := range at.missing {
		next := m.newInode(fs.ModeDir | mode)
		m.bindName(dir, name, next)
		dir = next
	}
	return dir
}

// bindName gives n a name, and takes it from the inode that has it.
func (m *Model) bindName(dir *Inode, name string, n *Inode) {
	if old := dir.Names[name]; old != nil {
		old.unlink()
	}
	n.Nlink++
	dir.Names[name] = n
}

// unlink takes one name from n, and all names from what is in it.
func (n *Inode) unlink() {
	n.Nlink--
	for name, child := range n.Names {
		child.unlink()
		delete(n.Names, name)
	}
}
