package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/transfer"
)

// mistyping is a backend that lists everything as a regular file: as if each entry had been
// replaced since its directory was listed.
type mistyping struct{ driver.Backend }

type mistypingFS struct{ driver.FS }

type mistypingDir struct{ driver.Dir }

func (b mistyping) OpenFS(ctx context.Context, id string, opts driver.FSOptions) (driver.FS, error) {
	f, err := b.Backend.OpenFS(ctx, id, opts)
	return mistypingFS{f}, err
}

func (f mistypingFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	d, err := f.FS.OpenDir(ctx, path, opts)
	return mistypingDir{d}, err
}

func (d mistypingDir) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	list, err := d.Dir.Read(ctx, n)
	for i := range list {
		list[i].Mode = 0
	}
	return list, err
}

// What an entry has become since its directory was listed is what a tar stream gets.
func TestToTarOfChangedTypes(t *testing.T) {
	for name, spec := range map[string]vole.Spec{"dir": {}, "disk": {Kind: vole.KindDisk, Capacity: 64 * vole.MiB}} {
		b, err := local.Open(t.Context(), filepath.Join(t.TempDir(), "home"), local.Options{})
		must(t, err)
		s := vole.New(b)
		f := newFS(t, s, "v", spec)
		fillTree(t, f)
		tarOf := func(s *vole.Store) []byte {
			v, err := s.Get(t.Context(), "v")
			must(t, err)
			f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
			must(t, err)
			var out bytes.Buffer
			_, err = transfer.ToTar(t.Context(), &out, f, ".", ".", transfer.Options{})
			must(t, errors.Join(err, f.Close()))
			return out.Bytes()
		}
		if want, got := tarOf(s), tarOf(vole.New(mistyping{b})); !bytes.Equal(want, got) {
			t.Errorf("%s: %d bytes, and %d of what was listed as files", name, len(want), len(got))
		}
		must(t, errors.Join(f.Close(), s.Close()))
	}
}
