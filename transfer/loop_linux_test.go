package transfer_test

import (
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// A damaged image in which a directory lies within itself, or has several names, is copied
// no further than the first time that it is met.
func TestDirectoryLoops(t *testing.T) {
	debugfs, err := exec.LookPath("debugfs")
	if err != nil {
		debugfs = "/usr/sbin/debugfs"
	}
	home := t.TempDir()
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	must(t, err)
	defer s.Close()
	for what, link := range map[string]string{"loop": "link /d /d/sub/loop", "two names": "link /d/sub /d/two"} {
		v, err := s.Create(t.Context(), "v", vole.Spec{Kind: vole.KindDisk, Capacity: 16 * vole.MiB})
		must(t, err)
		f, err := v.OpenFS(t.Context(), vole.FSOptions{})
		must(t, err)
		_, err = f.WriteFrom(t.Context(), "d/sub/f", &counting{r: io.LimitReader(zeroes{}, 1000)}, vole.WriteOptions{})
		must(t, errors.Join(err, f.Close()))
		image := filepath.Join(home, "volumes", v.ID(), "disk.raw")
		if out, err := exec.Command(debugfs, "-w", "-R", link, image).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		f, err = v.OpenFS(t.Context(), vole.FSOptions{ReadOnly: true})
		must(t, err)
		h, err := transfer.OpenHost(t.TempDir())
		must(t, err)
		if _, err := transfer.Copy(t.Context(), h, ".", transfer.Volume(f), ".", transfer.Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: copy: %v", what, err)
		}
		if _, err := transfer.ToTar(t.Context(), io.Discard, f, ".", "", transfer.Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: tar: %v", what, err)
		}
		if _, err := transfer.NeedOf(t.Context(), transfer.Volume(f), "."); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: need: %v", what, err)
		}
		must(t, errors.Join(h.Close(), f.Close()))
		f, err = v.OpenFS(t.Context(), vole.FSOptions{})
		must(t, err)
		if err := f.Copy(t.Context(), "d", "copy", vole.CopyOptions{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: copy within: %v", what, err)
		}
		must(t, errors.Join(f.Close(), v.Remove(t.Context())))
	}
}
