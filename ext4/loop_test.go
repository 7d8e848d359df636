package ext4

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"testing"
)

// loopedFS returns a file system in which the entry again of a directory leads to the
// inode that target names, and the entry .. of that inode to the one that up names.
func loopedFS(t *testing.T, in, target, up string) *FS {
	t.Helper()
	dev := newMemDevice(nil, 0)
	if _, err := Format(dev, 8<<20, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	dev.size = 8 << 20
	fs, err := Open(dev, OpenOptions{Size: dev.size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	if err := errors.Join(fs.MkdirAll("a/b/c", 0o755), fs.Mkdir(path.Join(in, "again"), 0o755), fs.MkdirAll("out", 0o755)); err != nil {
		t.Fatal(err)
	}
	_, err = fs.runOperation(func() error {
		c, err := fs.resolvePath(in, false)
		if err != nil {
			return err
		}
		to, err := fs.resolvePath(target, false)
		if err != nil {
			return err
		}
		parent, err := fs.resolvePath(up, false)
		if err != nil {
			return err
		}
		p, err := fs.findEntry(c, "again")
		if err == nil {
			err = fs.retargetEntry(c, p, to.num, ftDir)
		}
		if err == nil {
			err = fs.storeInode(c)
		}
		if err != nil {
			return err
		}
		return fs.setParentEntry(to, parent.num)
	})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// walkAll lists a tree as programs do, and counts what it meets.
func walkAll(fs *FS, dir string, met *int) error {
	d, err := fs.OpenDir(dir, true)
	if err != nil {
		return err
	}
	for {
		list, err := d.Read(100)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range list {
			if *met++; *met > 1000 {
				return errors.New("it goes on and on")
			}
			if e.Mode.IsDir() {
				if err := walkAll(fs, dir+"/"+e.Name, met); err != nil {
					return err
				}
			}
		}
	}
}

// What walks a tree in which a directory is its own descendant ends with an error.
func TestDirectoryLoop(t *testing.T) {
	for _, tt := range []struct{ in, target, up string }{
		{"a/b/c", "a", "."}, {"a/b/c", "a", "a/b/c"}, {"a/b/c", "a/b", "a"}, {"a/b/c", "a/b", "a/b/c"},
		{"a/b/c", "a/b/c", "a/b"}, {"a/b/c", "a/b/c", "a/b/c"}, {"a/b/c", "out", "."}, {"a/b/c", "lost+found", "."},
		// The root is in no directory, whatever its own entry says.
		{"a/b/c", ".", "."}, {"a/b/c", ".", "a/b/c"}, {".", ".", "."}, {"lost+found", ".", "lost+found"},
	} {
		top := "a"
		if !strings.HasPrefix(tt.in, top) {
			top = path.Join(tt.in, "again")
		}
		fs := loopedFS(t, tt.in, tt.target, tt.up)
		met := 0
		if err := walkAll(fs, top, &met); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: walked: %v, want ErrCorrupt", tt, err)
		}
		if err := fs.Copy(context.Background(), top, "copy", false); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: copied: %v, want ErrCorrupt", tt, err)
		}
		if err := fs.RemoveAll(context.Background(), top); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: removed: %v, want ErrCorrupt", tt, err)
		}
		if _, err := fs.resolvePath("out", false); err != nil && tt.target != "out" {
			t.Errorf("%v: what is not in the loop is lost: %v", tt, err)
		}
	}
}
