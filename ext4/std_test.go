package ext4_test

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/volehq/vole/ext4"
)

// newFormattedFS returns an open file system in a new image, on any operating system.
func newFormattedFS(t *testing.T, size int64) *ext4.FS {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ext4.Format(f, size, ext4.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(f, ext4.OpenOptions{Size: size, Batch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close(); f.Close() })
	return fs
}

func TestStd(t *testing.T) {
	fs := newFormattedFS(t, 32<<20)
	names := []string{"a", "d/b", "d/e/c", "lost+found"}
	for i, n := range names[:3] {
		if _, err := fs.WriteFile(t.Context(), n, strings.NewReader(strings.Repeat(n, 1+i*5000)), ext4.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Symlink("d/b", "link"); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(fs.Std(), append(names, "link")...); err != nil {
		t.Error(err)
	}
	if target, err := iofs.ReadLink(fs.Std(), "link"); target != "d/b" || err != nil {
		t.Errorf("read link: %q, %v", target, err)
	}
	if _, err := iofs.Stat(fs.Std(), "nothing"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("stat of nothing: %v", err)
	}
	f, err := fs.Std().Open("d/b")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if off, err := f.(io.Seeker).Seek(-3, io.SeekEnd); off != 15000 || err != nil {
		t.Errorf("seek: %d, %v", off, err)
	}
	if b, err := io.ReadAll(f); !bytes.Equal(b, []byte("d/b")) || err != nil {
		t.Errorf("read: %q, %v", b, err)
	}
}
