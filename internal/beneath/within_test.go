//go:build unix

package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// OpenWithin opens what os.Root does, and refuses what it does.
func TestOpenWithin(t *testing.T) {
	top, outside := tree(t)
	root, err := os.OpenRoot(top.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	deep := strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 250)+"/", 20), "/") // longer than a system call takes
	err = errors.Join(
		root.MkdirAll(deep, 0o700),
		os.Symlink("../d/e", filepath.Join(top.Name(), "d", "across")),
		os.Symlink("../../"+filepath.Base(top.Name()), filepath.Join(top.Name(), "d", "around")),
		os.Symlink("loop", filepath.Join(top.Name(), "loop")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{
		".", "d", "d/e", "inside", "inside/e", "d/across", deep, "away", "away/x", "d/around", "d/around/d", "..", "d/../..", outside,
		"loop", "d/f", "d/f/x", "d/link", "d/fifo", "missing", "d/missing/x",
	} {
		got, err := OpenWithin(root, top, p)
		want, werr := root.OpenFile(p, unix.O_DIRECTORY, 0)
		if (err == nil) != (werr == nil) || errors.Is(err, fs.ErrNotExist) != errors.Is(werr, fs.ErrNotExist) {
			t.Errorf("%.40q: %v, os.Root says %v", p, err, werr)
		}
		if err == nil && werr == nil {
			a, aerr := got.Stat()
			b, berr := want.Stat()
			if aerr != nil || berr != nil || !os.SameFile(a, b) {
				t.Errorf("%.40q: another directory: %v, %v", p, aerr, berr)
			}
		}
		for _, f := range []*os.File{got, want} {
			if f != nil {
				f.Close()
			}
		}
	}
}

// OpenFileWithin opens what lies beneath a directory, and nothing that a link at the end leads to.
func TestOpenFileWithin(t *testing.T) {
	top, _ := tree(t)
	if err := os.Symlink("../d/f", filepath.Join(top.Name(), "d", "sibling")); err != nil {
		t.Fatal(err)
	}
	fd, err := OpenFileWithin(top, "inside/f")
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("not on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 10)
	if n, err := unix.Pread(fd, buf, 0); err != nil || string(buf[:n]) != "in" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	for _, p := range []string{"away/f", "d/link", "d/dangling", "d/sibling", "..", "../" + filepath.Base(top.Name()) + "/d/f", top.Name() + "/d/f", "missing", "d/f/x"} {
		if fd, err := OpenFileWithin(top, p); err == nil {
			t.Errorf("opened %s", p)
			unix.Close(fd)
		}
	}
	if fd, err := OpenFileWithin(top, "d/fifo"); err != nil { // and does not wait
		t.Error(err)
	} else {
		unix.Close(fd)
	}
}
