//go:build unix

package local_test

import (
	"cmp"
	"context"
	"path/filepath"
	"sync"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/conformance"
	"github.com/volehq/vole/drivers/local"
)

// homes remembers the home of each store that the suite opened.
type homes struct {
	mu sync.Mutex // guards of
	of map[*vole.Store]string
}

func (h *homes) open(t *testing.T, home string, readOnly bool) *vole.Store {
	t.Helper()
	// Not the test's context: the suite also opens while the test is being cleaned up.
	s, err := vole.Open(context.Background(), vole.Options{Home: home, ReadOnly: readOnly})
	if err != nil {
		t.Fatalf("open %s: %v", home, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of[s] = home
	return s
}

func (h *homes) home(s *vole.Store) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.of[s]
}

func TestConformance(t *testing.T) {
	t.Parallel()
	runConformance(t, vole.Spec{})
}

// The suite's tests of files, on disk volumes.
func TestConformanceDisk(t *testing.T) {
	t.Parallel()
	runConformance(t, vole.Spec{Kind: vole.KindDisk, Capacity: 64 * vole.MiB})
}

// The suite's tests of what is claimed, and of nodes, where devices are refused.
func TestConformanceNoDevices(t *testing.T) {
	t.Parallel()
	for _, spec := range []vole.Spec{{}, {Kind: vole.KindDisk, Capacity: 16 * vole.MiB}} {
		t.Run(cmp.Or(string(spec.Kind), "dir"), func(t *testing.T) { runNoDevices(t, spec) })
	}
}

func runNoDevices(t *testing.T, spec vole.Spec) {
	conformance.Run(t, conformance.Harness{Spec: spec, Groups: []string{"Caps", "Meta"}, Open: func(t *testing.T) *vole.Store {
		b, err := local.Open(context.Background(), filepath.Join(t.TempDir(), "home"), local.Options{NoDevices: true})
		if err != nil {
			t.Fatal(err)
		}
		if b.Caps().Devices {
			t.Error("device nodes are claimed")
		}
		return vole.New(b)
	}})
}

func runConformance(t *testing.T, spec vole.Spec) {
	h := &homes{of: map[*vole.Store]string{}}
	harness := conformance.Harness{
		Spec: spec,
		Open: func(t *testing.T) *vole.Store {
			return h.open(t, filepath.Join(t.TempDir(), "home"), false)
		},
		Another: func(t *testing.T, s *vole.Store) *vole.Store { return h.open(t, h.home(s), false) },
		ReadOnly: func(t *testing.T, s *vole.Store) *vole.Store {
			return h.open(t, h.home(s), true)
		},
	}
	if spec.Kind != vole.KindDisk {
		harness.Root = func(_ *testing.T, s *vole.Store, vol *vole.Volume) string {
			return filepath.Join(h.home(s), "volumes", vol.ID(), "data")
		}
	}
	conformance.Run(t, harness)
}
