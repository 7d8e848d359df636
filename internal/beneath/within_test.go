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
