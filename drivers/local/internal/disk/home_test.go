//go:build unix

package disk

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/openset"
)

// testHome is a home that has every volume, which all have one capacity and no holder.
type testHome struct{ capacity driver.Size }

func (h *testHome) Get(_ context.Context, ref driver.Ref) (driver.Info, error) {
	return driver.Info{ID: ref.ID, Kind: driver.KindDisk, Capacity: h.capacity}, nil
}

func (h *testHome) Counter(string) Counter { return &testCounter{} }

func (h *testHome) RecordCapacity(_ context.Context, _ string, capacity driver.Size) error {
	h.capacity = capacity
	return nil
}

func (h *testHome) RefuseAttached(context.Context, string) error { return nil }

func (h *testHome) ReadOnlyError() error { return driver.ErrReadOnly }

// testCounter adds up what is charged.
type testCounter struct {
	begun bool
	bytes int64
}

func (c *testCounter) BeginChange(context.Context) error {
	c.begun = true
	return nil
}

func (c *testCounter) AddBytes(more int64) bool {
	if c.begun {
		c.bytes += more
	}
	return c.begun
}

func (c *testCounter) Release(bool) {}

// newVolume makes a volume of 16 MiB in a set of its own.
func newVolume(t *testing.T) Volume {
	t.Helper()
	const id, size = "volume", 16 * driver.MiB
	path := t.TempDir()
	if err := os.Mkdir(filepath.Join(path, id), 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	v := NewSet(Options{Home: &testHome{size}, Volumes: dir, Opened: &openset.Set{}, Ballast: &ballast.Ballast{}}).Volume(id)
	if err := v.Create("name", size); err != nil {
		t.Fatal(err)
	}
	return v
}
