//go:build linux

package ext4_test

import (
	"testing"

	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/testing/ext4oracle"
)

// What Linux writes, with all features that mke2fs knows, reads the same here.
func TestReadMatrix(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, r := range ext4oracle.Matrix {
		t.Run(r.Name, func(t *testing.T) {
			image, want := ext4oracle.Build(t, r)
			fs := openImageFile(t, image, ext4.OpenOptions{ReadOnly: true})
			expectSameTree(t, "read", want, readTreeOf(t, fs), ext4oracle.SameImage)
		})
	}
}

// A log that a crash left is replayed as the kernel does: in memory, which changes
// nothing on the device, and on the device.
func TestReplay(t *testing.T) {
	ext4oracle.RequireRoot(t)
	for _, r := range ext4oracle.DirtyImages {
		t.Run(r.Name, func(t *testing.T) {
			image, want := ext4oracle.BuildDirty(t, r)
			testReplay(t, r, image, want)
		})
	}
}
