//go:build linux

package ext4_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// testReplay compares what replaying a dirty log shows with what it shows the kernel;
// want nil: the kernel refuses it.
func testReplay(t *testing.T, r ext4oracle.DirtyRecipe, image string, want ext4oracle.Tree) {
	before := hashFile(t, image)
	if want == nil {
		expectRefusal(t, image, ext4.ErrCorrupt)
		return
	}
	fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
	expectSameTree(t, "replayed in memory", want, readTreeOf(t, fs), ext4oracle.SameImage)
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if hashFile(t, image) != before {
		t.Error("reading changed the image")
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rw, err := ext4.Open(f, ext4.OpenOptions{})
	if errors.Is(err, ext4.ErrUnsupported) {
		t.Logf("not written: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	expectSameTree(t, "replayed on the device", want, readTreeOf(t, rw), ext4oracle.SameImage)
	if err := rw.Close(); err != nil {
		t.Fatal(err)
	}
	ext4oracle.Fsck(t, image)
	expectSameTree(t, "to the kernel", want, ext4oracle.Snapshot(t, image), ext4oracle.SameImage)
}

// expectRefusal fails the test unless opening an image fails with an error.
func expectRefusal(t *testing.T, image string, want error) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := ext4.Open(f, ext4.OpenOptions{ReadOnly: true}); !errors.Is(err, want) {
		t.Errorf("opening: %v, want %v", err, want)
	}
}

func hashFile(t *testing.T, path string) (sum [32]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	h.Sum(sum[:0])
	return sum
}
