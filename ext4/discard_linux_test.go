package ext4_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// With Discard what is removed takes no storage once the image is closed.
func TestDiscard(t *testing.T) {
	ext4oracle.RequireTools(t)
	for _, discard := range []bool{true, false} {
		image := newImageFile(t, 256<<20)
		empty := storageOfImage(t, image)
		use := func(do func(fs *ext4.FS) error) {
			t.Helper()
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			fs, err := ext4.Open(f, ext4.OpenOptions{Discard: discard})
			if err != nil {
				t.Fatal(err)
			}
			if err := do(fs); err != nil {
				t.Fatal(err)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
		}
		keep := bytes.Repeat([]byte("keep"), 1<<18)
		use(func(fs *ext4.FS) error {
			if _, err := fs.WriteFile(t.Context(), "keep", bytes.NewReader(keep), ext4.WriteOptions{}); err != nil {
				return err
			}
			_, err := fs.WriteFile(t.Context(), "big", bytes.NewReader(make([]byte, 32<<20)), ext4.WriteOptions{})
			return err
		})
		full := storageOfImage(t, image)
		use(func(fs *ext4.FS) error { return fs.Remove("big") })
		if n := storageOfImage(t, image); discard && n > empty+8<<20 || !discard && n < full-1<<20 {
			t.Errorf("discard %v: %d bytes when empty, %d with the file, %d without it", discard, empty, full, n)
		}
		use(func(fs *ext4.FS) error {
			f, err := fs.OpenFile("keep", ext4.OpenFlags{})
			if err != nil {
				return err
			}
			defer f.Close()
			got := make([]byte, len(keep))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, keep) {
				t.Errorf("discard %v: what was kept is not what it was: %v", discard, err)
			}
			return nil
		})
		ext4oracle.Fsck(t, image)
	}
}
