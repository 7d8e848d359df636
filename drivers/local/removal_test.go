//go:build unix

package local

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
)

// A call that removes a disk volume holds its image. Another call of the process awaits
// it, however long a slow disk takes, instead of saying that the volume is in use.
func TestRemovalsOfOneProcess(t *testing.T) {
	b, err := Open(t.Context(), filepath.Join(t.TempDir(), "home"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	info, err := b.Create(t.Context(), "v", driver.Spec{Kind: driver.KindDisk, Capacity: 16 * driver.MiB})
	if err != nil {
		t.Fatal(err)
	}
	release, err := b.holdForRemoval(t.Context(), driver.ByID(info.ID))
	if err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	go func() {
		_, err := b.Remove(t.Context(), driver.ByID(info.ID))
		removed <- err
	}()
	select {
	case err := <-removed:
		t.Errorf("while another call removes it: %v", err)
	case <-time.After(holdPatience + 100*time.Millisecond):
	}
	release()
	if err := <-removed; err != nil {
		t.Error(err)
	}
}
