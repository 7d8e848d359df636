package treemodel

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/volehq/vole"
)

// Tree is the content of a directory as text by path, so that two can be compared.
type Tree map[string]string

// Diff describes how got differs from want; "" if it does not.
func (want Tree) Diff(got Tree) string {
	var s strings.Builder
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[p]; !ok {
			fmt.Fprintf(&s, "\n  %s is missing: %s", p, want[p])
		} else if g != want[p] {
			fmt.Fprintf(&s, "\n  %s: %s, want %s", p, g, want[p])
		}
	}
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[p]; !ok {
			fmt.Fprintf(&s, "\n  %s should not exist: %s", p, got[p])
		}
	}
	return s.String()
}

// Digest describes content by its length and a hash.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%d bytes %x", len(b), sum[:6])
}

// Tree describes what the model has.
func (m *Model) Tree() Tree {
	all := Tree{}
	m.describeBeneath(m.Top(), ".", all)
	return all
}

func (m *Model) describeBeneath(dir *Inode, p string, all Tree) {
	for name, n := range dir.Names {
		at := path.Join(p, name)
		all[at] = m.describeInode(n, 2+countDirs(n))
		m.describeBeneath(n, at, all)
	}
}

func countDirs(dir *Inode) int {
	count := 0
	for _, n := range dir.Names {
		if n.IsDir() {
			count++
		}
	}
	return count
}

// describeInode describes an inode without its content as a directory. dirLinks is the link count of
// a directory, which not every backend keeps.
func (m *Model) describeInode(n *Inode, dirLinks int) string {
	var attrs []string
	for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
		attrs = append(attrs, name+"="+n.Xattrs[name])
	}
	switch {
	case n.IsDir() && m.opts.Exact:
		return fmt.Sprintf("%v, %d links, %v", n.Mode, dirLinks, attrs)
	case n.IsDir():
		return fmt.Sprintf("%v %v", n.Mode, attrs)
	case n.isSymlink():
		return fmt.Sprintf("link to %s, %d names", n.Target, n.Nlink)
	}
	return fmt.Sprintf("%v %s, %d names, %v", n.Mode, Digest(n.Data), n.Nlink, attrs)
}

// ReadTree describes a volume as Tree does the model: the whole, or the model's prefix.
func (m *Model) ReadTree(ctx context.Context, f *vole.FS) (Tree, error) {
	r := treeReader{ctx: ctx, fs: f, model: m, all: Tree{}}
	return r.all, r.readDir(path.Join(".", m.opts.Prefix), ".")
}

// treeReader reads the files of a volume for ReadTree.
type treeReader struct {
	ctx   context.Context
	fs    *vole.FS
	model *Model
	all   Tree
}

// readDir reads what is in dir; as is its path in the tree.
func (r *treeReader) readDir(dir, as string) error {
	list, err := r.fs.ReadDir(r.ctx, dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		p, name := path.Join(dir, e.Name), path.Join(as, e.Name)
		if p == "lost+found" { // of a disk volume's file system
			continue
		}
		n, err := r.readInode(p, e)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		r.all[name] = r.model.describeInode(n, int(e.Nlink))
		if e.IsDir() {
			if err := r.readDir(p, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// readInode returns what is at p as an inode of the model.
func (r *treeReader) readInode(p string, e vole.Entry) (n *Inode, err error) {
	n = &Inode{Mode: e.Mode, Nlink: int(e.Nlink), Xattrs: map[string]string{}}
	switch e.Mode.Type() {
	case 0:
		n.Data, err = r.fs.ReadFile(r.ctx, p)
	case fs.ModeSymlink:
		n.Target, err = r.fs.Readlink(r.ctx, p)
	}
	if err != nil || !r.model.opts.Xattrs || !n.IsDir() && !n.isRegular() {
		return n, err
	}
	names, err := r.fs.Listxattr(r.ctx, p)
	for _, name := range names {
		value, err := r.fs.Getxattr(r.ctx, p, name)
		if err != nil {
			return nil, err
		}
		n.Xattrs[name] = string(value)
	}
	return n, err
}
