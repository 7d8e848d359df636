//go:build unix

package image

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// A fifo that nobody writes to is refused, and not waited for.
func TestFifoIsNoImage(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(t.Context(), fifo, t.TempDir(), t.TempDir(), Options{}); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
}
