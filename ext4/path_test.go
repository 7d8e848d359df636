package ext4

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"testing"
)

// What a path leads to is never what it led to before: the directory that the last path was
// resolved in is forgotten when anything in directories was moved, removed or undone.
func TestLastDirIsForgotten(t *testing.T) {
	_, fs := newOpenImage(t)
	defer fs.Close()
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path string) error {
		f, err := fs.OpenFile(path, OpenFlags{Create: true})
		if err != nil {
			return err
		}
		return f.Close()
	}
	missing := func(path string) {
		t.Helper()
		if _, err := fs.Lstat(path); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s: %v, want that it is missing", path, err)
		}
	}
	must(fs.MkdirAll("a/b/c", 0o755), write("a/b/c/f"), write("a/b/c/g"))
	must(fs.Rename("a/b", "a/moved", false), fs.Mkdir("a/b", 0o755), fs.Mkdir("a/b/c", 0o755))
	missing("a/b/c/f")
	must(write("a/b/c/f"), fs.Remove("a/b/c/f"), fs.Remove("a/b/c"))
	missing("a/b/c/g")
	must(write("a/moved/c/h"))

	// A link on the way that leads elsewhere than it did.
	must(fs.Symlink("moved", "a/way"), write("a/way/c/i"))
	if _, err := fs.Lstat("a/way/c/h"); err != nil {
		t.Error(err)
	}
	must(fs.Remove("a/way"), fs.Symlink("b", "a/way"))
	missing("a/way/c/h")

	// Links that lead up from the directory that was remembered.
	must(fs.Symlink("../../moved/c/f", "a/moved/c/up"), fs.Symlink("../../../../x", "a/moved/c/out"))
	for range 2 {
		if i, err := fs.Stat("a/moved/c/up"); err != nil || i.Name != "up" || !i.Mode.IsRegular() {
			t.Errorf("%+v, %v", i, err)
		}
		if _, err := fs.Stat("a/moved/c/out"); !errors.Is(err, ErrEscape) {
			t.Errorf("out of the image: %v", err)
		}
	}

	// An operation that is undone leaves no directory that it made.
	failed := fmt.Errorf("as planned")
	err := fs.runDurably(func() error {
		dir, name, err := fs.resolveParent("a/new")
		if err != nil {
			return err
		}
		if _, err := fs.createInode(dir, name, typeDir|0o755, nil); err != nil {
			return err
		}
		if _, err := fs.resolvePath("a/new/x", false); !errors.Is(err, errNoEntry) {
			t.Errorf("in a directory just made: %v", err)
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	missing("a/new/x")
	must(fs.Mkdir("a/other", 0o755))
	if err := write("a/new/x"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("into a directory that was undone: %v", err)
	}
}

// A file that is opened, described and read costs few allocations: inodes are copied for
// changes only, or a copy of a tree of small files is mostly that.
func TestAllocationsPerFile(t *testing.T) {
	_, fs := newOpenImage(t)
	defer fs.Close()
	if err := fs.MkdirAll("a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.WriteFile(t.Context(), "a/b/f", strings.NewReader("content"), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 7)
	n := testing.AllocsPerRun(100, func() {
		f, info, err := fs.OpenEntry("a/b/f")
		if err != nil || info.Size != 7 || info.Name != "f" {
			t.Fatalf("%+v, %v", info, err)
		}
		if n, err := f.ReadAt(buf, 0); n != 7 || err != nil || string(buf) != "content" {
			t.Fatalf("%q, %v", buf, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if n > 8 {
		t.Errorf("%v allocations", n)
	}
}
