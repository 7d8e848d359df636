//go:build linux

package ext4_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// TestReplayForms replays transactions in each form that a log can have, as debugfs writes
// them, and compares the blocks that they are of with what the kernel makes of them.
func TestReplayForms(t *testing.T) {
	t.Parallel()
	ext4oracle.RequireRoot(t)
	for _, features := range []string{"metadata_csum,64bit", "metadata_csum,^64bit", "^metadata_csum,^64bit"} {
		for _, open := range []string{"jo", "jo -c -v 2", "jo -c -v 3"} {
			t.Run(features+" "+open, func(t *testing.T) {
				testReplayForm(t, features, open, 60)
				testReplayForm(t, features, open, 600) // more than one descriptor lists
			})
		}
	}
}

func testReplayForm(t *testing.T, features, open string, n int) {
	const first, block = 3000, 1024 // free blocks
	image := filepath.Join(t.TempDir(), "image")
	ext4oracle.Mke2fs(t, image, 8<<20, "-b", "1024", "-O", features, "-J", "size=2")
	data := filepath.Join(t.TempDir(), "data")
	content := make([]byte, n*block)
	for i := range content {
		content[i] = byte(i / block * (i + 1) >> 3)
	}
	copy(content[5*block:], "\xc0\x3b\x39\x98") // as a block of the log begins
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ext4oracle.DebugfsAll(t, image, open,
		fmt.Sprintf("jw -b %d-%d %s", first, first+n-1, data),
		fmt.Sprintf("jw -b %d,%d,%d %s", first+7, first+1, first+3, data),
		fmt.Sprintf("jw -r %d", first+9),
		"jc")
	want, err := ext4oracle.RecoverCopy(t, image)
	if err != nil {
		t.Skip("the kernel refuses it: ", err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := ext4.Open(f, ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	span := func(name string) []byte {
		t.Helper()
		b := make([]byte, n*block)
		g, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if _, err := g.ReadAt(b, first*block); err != nil {
			t.Fatal(err)
		}
		return b
	}
	a, b := span(want), span(image)
	if n < 100 && bytes.Equal(a, make([]byte, len(a))) {
		t.Fatal("the kernel replayed nothing")
	}
	for i := 0; i < len(a); i += block {
		if !bytes.Equal(a[i:i+block], b[i:i+block]) {
			t.Errorf("block %d is not as the kernel has it", first+i/block)
		}
	}
	ext4oracle.Fsck(t, image)
}
