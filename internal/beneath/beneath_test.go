//go:build unix

package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

// tree makes a directory with a directory, files, a fifo and links beside one another.
func tree(t *testing.T) (*os.File, string) {
	t.Helper()
	top := t.TempDir()
	outside := t.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(top, "d", "e"), 0o700),
		os.WriteFile(filepath.Join(top, "d", "f"), []byte("in"), 0o600),
		os.WriteFile(filepath.Join(outside, "f"), []byte("out"), 0o600),
		os.Symlink(outside, filepath.Join(top, "away")),
		os.Symlink("d", filepath.Join(top, "inside")),
		os.Symlink(filepath.Join(outside, "f"), filepath.Join(top, "d", "link")),
		os.Symlink(filepath.Join(outside, "new"), filepath.Join(top, "d", "dangling")),
		unix.Mkfifo(filepath.Join(top, "d", "fifo"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir, outside
}

func TestNoLinkIsFollowed(t *testing.T) {
	dir, outside := tree(t)
	for _, name := range []string{"away", "inside", "inside/e", "away/x"} {
		if d, err := OpenDir(dir, name); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("open directory %s: %v, %v", name, d, err)
		}
	}
	for _, name := range []string{"d/link", "d/dangling", "away/f", "inside/f", "away/new", "d/fifo"} {
		f, err := OpenFile(dir, name, os.O_RDWR|os.O_CREATE, 0o600)
		if !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("open %s: %v, %v", name, f, err)
		}
	}
	for _, name := range []string{"..", "d/..", "../" + filepath.Base(outside) + "/f", outside + "/f", "", "d//f", "d/\x00"} {
		if f, err := OpenFile(dir, name, os.O_RDONLY, 0); err == nil {
			t.Errorf("open %q: %v", name, f)
		}
		if err := Remove(dir, name); err == nil {
			t.Errorf("remove %q", name)
		}
	}
	if err := Remove(dir, "away/f"); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("remove by a link: %v", err)
	}
	if err := Mkdir(dir, "away/new", 0o700); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("mkdir by a link: %v", err)
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
		t.Errorf("outside: %v, %v", list, err)
	}
}

func TestWhatIsThere(t *testing.T) {
	dir, _ := tree(t)
	if err := errors.Join(Mkdir(dir, "d/e/new", 0o700), Mkdir(dir, "d/e/new", 0o700)); err != nil {
		t.Error(err)
	}
	names, err := Names(dir, "d")
	if err != nil || len(names) != 5 || names[0] != "dangling" || names[1] != "e" {
		t.Errorf("names %q, %v", names, err)
	}
	f, err := OpenFile(dir, "d/e/new/file", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	st, err := Lstat(dir, "d/e/new/file")
	if err != nil || st.Mode != unix.S_IFREG|0o600 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
	if err := Remove(dir, "d/e/new/file"); err != nil {
		t.Error(err)
	}
	if _, err := Lstat(dir, "d/e/new/file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := OpenFile(dir, "d/e/new", os.O_RDONLY, 0); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("a directory opened as a file: %v", err)
	}
}
