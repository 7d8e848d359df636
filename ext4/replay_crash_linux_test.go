//go:build linux

package ext4_test

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// A crash after a log was replayed, while the next changes are written over it, or while
// the image is closed, loses nothing and leaves an image in order.
func TestCrashAfterReplay(t *testing.T) {
	ext4oracle.RequireRoot(t)
	base := newImageFile(t, 40*mib)
	want := leaveDirty(t, base)
	image := filepath.Join(t.TempDir(), "crash.raw")
	f := openCopy(t, image, base)
	defer f.Close()
	r := &recorder{File: f}
	fs, err := ext4.Open(r, ext4.OpenOptions{Size: 40 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.WriteFile(context.Background(), "new", strings.NewReader("new"), ext4.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		r.buildCrashState(t, image, base, rnd)
		fs := openImageFile(t, image, ext4.OpenOptions{})
		got := readTreeOf(t, fs)
		for name, n := range want {
			if n.Type() == ext4oracle.TypeRegular && (got[name] == nil || got[name].Sum != n.Sum) {
				t.Errorf("%s is lost", name)
			}
		}
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
		ext4oracle.Fsck(t, image)
		if t.Failed() {
			t.Fatalf("state %d", i)
		}
	}
}
