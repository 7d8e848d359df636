//go:build unix

package local

import (
	"os"
	"testing"
)

// TestMovedDirectoryEndsTheWalkUp: a directory that is moved out of a volume while its
// parents are looked at leads to the root of the host, and no further.
func TestMovedDirectoryEndsTheWalkUp(t *testing.T) {
	root, err := os.Stat(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if isBeneath(at, root, 1<<62) {
		t.Error("a directory elsewhere is beneath")
	}
}
