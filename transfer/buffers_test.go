package transfer_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// Packing and copying many small files take a few buffers in all, not one for each file.
func TestBuffersAreShared(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector pools lose buffers at random")
	}
	const files = 300
	s := openHome(t)
	host := t.TempDir()
	disk := newFS(t, s, "disk", vole.Spec{Kind: vole.KindDisk, Capacity: 16 * vole.MiB})
	for i := range files {
		name := fmt.Sprintf("f%d", i)
		must(t, disk.WriteFile(t.Context(), name, []byte("content"), 0o644))
		must(t, os.WriteFile(filepath.Join(host, name), []byte("content"), 0o644))
	}
	h, err := transfer.OpenHost(host)
	must(t, err)
	defer h.Close()
	to := newFS(t, s, "to", vole.Spec{})
	for what, run := range map[string]func() error{
		"to a tar stream": func() error {
			_, err := transfer.ToTar(t.Context(), io.Discard, disk, ".", ".", transfer.Options{})
			return err
		},
		"from a volume": func() error {
			_, err := transfer.Copy(t.Context(), transfer.Volume(to), "a", transfer.Volume(disk), ".", transfer.Options{})
			return err
		},
		"from the host": func() error {
			_, err := transfer.Copy(t.Context(), transfer.Volume(to), "b", h, ".", transfer.Options{})
			return err
		},
		"to the host": func() error {
			_, err := transfer.Copy(t.Context(), h, "copy", transfer.Volume(disk), ".", transfer.Options{})
			return err
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		must(t, run())
		runtime.ReadMemStats(&after)
		if per := (after.TotalAlloc - before.TotalAlloc) / files; per > 32<<10 {
			t.Errorf("%s: %d bytes allocated for each file", what, per)
		}
	}
}
