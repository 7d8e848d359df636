//go:build linux

package ext4_test

import (
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// readTreeOf reads all that a file system holds, through this package.
func readTreeOf(t testing.TB, fs *ext4.FS) ext4oracle.Tree {
	t.Helper()
	tree := ext4oracle.Tree{}
	if err := addPathToTree(tree, fs, "."); err != nil {
		t.Fatalf("reading the tree: %v", err)
	}
	return tree
}

func addPathToTree(tree ext4oracle.Tree, fs *ext4.FS, path string) error {
	info, err := fs.Lstat(path)
	if err != nil {
		return wrapPathError(path, err)
	}
	n, err := readNodeOf(fs, path, info)
	if err != nil {
		return wrapPathError(path, err)
	}
	tree[path] = n
	if !info.Mode.IsDir() {
		return nil
	}
	d, err := fs.OpenDir(path, false)
	if err != nil {
		return wrapPathError(path, err)
	}
	defer d.Close()
	for {
		list, err := d.Read(100)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return wrapPathError(path, err)
		}
		for _, e := range list {
			sub := e.Name
			if path != "." {
				sub = path + "/" + e.Name
			}
			if err := addPathToTree(tree, fs, sub); err != nil {
				return err
			}
		}
	}
}

func wrapPathError(path string, err error) error {
	if pe := (*iofs.PathError)(nil); errors.As(err, &pe) {
		return err
	}
	return &iofs.PathError{Op: "read", Path: path, Err: err}
}

func readNodeOf(fs *ext4.FS, path string, info ext4.Info) (*ext4oracle.Node, error) {
	n := &ext4oracle.Node{
		Mode: statModeOf(info.Mode), UID: info.UID, GID: info.GID, Size: info.Size, Nlink: uint64(info.Nlink), Ino: uint64(info.Ino),
		Atime: ext4oracle.TimeOf(info.Atime), Mtime: ext4oracle.TimeOf(info.Mtime), Ctime: ext4oracle.TimeOf(info.Ctime), Btime: ext4oracle.TimeOf(info.Btime),
		Blocks: info.Allocated / 512, Xattrs: map[string]string{},
	}
	if info.Btime.IsZero() {
		n.Btime = ext4oracle.Time{}
	}
	if n.Type() == ext4oracle.TypeChar || n.Type() == ext4oracle.TypeBlock {
		n.Major = uint32(info.Rdev>>8&0xfff | info.Rdev>>32&^0xfff)
		n.Minor = uint32(info.Rdev&0xff | info.Rdev>>12&0xffffff00)
	}
	names, err := fs.Listxattr(path)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		v, err := fs.Getxattr(path, name)
		if err != nil {
			return nil, err
		}
		n.Xattrs[name] = string(v)
	}
	switch {
	case info.Mode.IsRegular():
		return n, readNodeContent(fs, path, n)
	case info.Mode&iofs.ModeSymlink != 0:
		n.Target, err = fs.Readlink(path)
	}
	return n, err
}

func readNodeContent(fs *ext4.FS, path string, n *ext4oracle.Node) error {
	f, err := fs.OpenFile(path, ext4.OpenFlags{})
	if err != nil {
		return err
	}
	defer f.Close()
	var data []ext4oracle.Range
	for off := int64(0); ; {
		start, end, err := f.NextData(off)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		data = append(data, ext4oracle.Range{Off: start, Len: end - start})
		off = end
	}
	n.Data = ext4oracle.Widen(data, n.Size)
	n.Sum, err = ext4oracle.SumAt(f, n.Size, data)
	return err
}

func statModeOf(m iofs.FileMode) uint32 {
	v := uint32(m.Perm())
	for bit, s := range map[iofs.FileMode]uint32{iofs.ModeSetuid: 0o4000, iofs.ModeSetgid: 0o2000, iofs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			v |= s
		}
	}
	switch m.Type() {
	case 0:
		v |= ext4oracle.TypeRegular
	case iofs.ModeDir:
		v |= ext4oracle.TypeDir
	case iofs.ModeSymlink:
		v |= ext4oracle.TypeSymlink
	case iofs.ModeNamedPipe:
		v |= ext4oracle.TypeFIFO
	case iofs.ModeSocket:
		v |= ext4oracle.TypeSocket
	case iofs.ModeDevice:
		v |= ext4oracle.TypeBlock
	case iofs.ModeDevice | iofs.ModeCharDevice:
		v |= ext4oracle.TypeChar
	}
	return v
}

// openImageFile opens an image, and closes it when the test ends.
func openImageFile(t testing.TB, path string, opts ext4.OpenOptions) *ext4.FS {
	t.Helper()
	flag := os.O_RDWR
	if opts.ReadOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(f, opts)
	if err != nil {
		f.Close()
		t.Fatalf("open %s: %v", filepath.Base(path), err)
	}
	t.Cleanup(func() { fs.Close(); f.Close() })
	return fs
}

// newImageFile formats an image of size bytes.
func newImageFile(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := ext4.Format(f, size, ext4.FormatOptions{})
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		t.Fatalf("format %d: %v", size, err)
	}
	return path
}

// expectSameTree fails the test when two trees differ.
func expectSameTree(t testing.TB, what string, want, got ext4oracle.Tree, opts ext4oracle.DiffOptions) {
	t.Helper()
	for _, d := range ext4oracle.Diff(want, got, opts) {
		t.Errorf("%s: %s", what, d)
	}
}
