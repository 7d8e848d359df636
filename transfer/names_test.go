package transfer_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/transfer"
)

// misnaming is a backend that lists one entry under another name, and finds the entry by
// that name, too.
type misnaming struct {
	driver.Backend
	name string
}

type misnamingFS struct {
	driver.FS
	name string
}

type misnamingDir struct {
	driver.Dir
	name string
}

func (b misnaming) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	f, err := b.Backend.OpenFS(ctx, id, opts)
	return misnamingFS{f, b.name}, err
}

func (f misnamingFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	d, err := f.FS.OpenDir(ctx, path, opts)
	return misnamingDir{d, f.name}, err
}

func (d misnamingDir) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	list, err := d.Dir.Read(ctx, n)
	for i := range list {
		if list[i].Name == "f" {
			list[i].Name = d.name
		}
	}
	return list, err
}

// A copy leaves its target by no name of a backend that does not check names itself.
func TestHostileBackend(t *testing.T) {
	for _, name := range []string{"..", ".", "", "../f", "a/b", "/etc", "x\x00y"} {
		b, err := local.Open(t.Context(), filepath.Join(t.TempDir(), "home"), local.Options{})
		must(t, err)
		s := vole.New(misnaming{b, name})
		f := newFS(t, s, "v", vole.Spec{})
		must(t, errors.Join(f.MkdirAll(t.Context(), "d", 0o755), f.WriteFile(t.Context(), "d/f", []byte("x"), 0o644), f.WriteFile(t.Context(), "f", []byte("x"), 0o644)))
		parent := t.TempDir()
		target := filepath.Join(parent, "target")
		must(t, os.Mkdir(target, 0o755))
		h, err := transfer.OpenHost(target)
		must(t, err)
		if _, err := transfer.Copy(t.Context(), h, ".", transfer.Volume(f), ".", transfer.Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%q: copy: %v", name, err)
		}
		if _, err := transfer.ToTar(t.Context(), io.Discard, f, ".", "", transfer.Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%q: tar: %v", name, err)
		}
		if list, err := os.ReadDir(parent); err != nil || len(list) != 1 {
			t.Errorf("%q: beside the target: %v, %v", name, list, err)
		}
		must(t, errors.Join(h.Close(), s.Close()))
	}
}
