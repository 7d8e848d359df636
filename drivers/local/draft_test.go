//go:build unix

package local_test

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/fault"
)

func draftHome(t *testing.T) *vole.Store {
	t.Helper()
	return faultyDraftHome(t, nil)
}

func faultyDraftHome(t *testing.T, faults *fault.Injector) *vole.Store {
	t.Helper()
	s, err := openFaulty(t.Context(), filepath.Join(t.TempDir(), "home"), faults)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A small file of a draft needs no temporary file. That ends when others may see the volume.
func TestDraftFilesInPlace(t *testing.T) {
	ctx, faults := t.Context(), &fault.Injector{}
	s := faultyDraftHome(t, faults)
	var f *vole.FS
	renames := func(name string) (n int) {
		t.Helper()
		faults.Set(func(op, what string, do func() error) error {
			if op == "rename" && what == path.Base(name) {
				n++
			}
			return do()
		})
		defer faults.Set(nil)
		if err := f.WriteFile(ctx, name, []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
		return n
	}
	wrote := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: renamed %d times, want %d", what, got, want)
		}
	}
	for _, shared := range []string{"published", "attached"} {
		_, err := s.Build(ctx, shared, vole.Spec{}, func(v *vole.Volume) (err error) {
			if f, err = v.OpenFS(ctx, vole.FSOptions{Batch: true}); err != nil {
				return err
			}
			t.Cleanup(func() { f.Close() })
			if err := f.Mkdir(ctx, "d", 0o755); err != nil {
				return err
			}
			wrote("a new file of a draft", renames("d/f"), 0)
			wrote("one that replaces another", renames("d/f"), 1)
			if shared == "attached" {
				a, err := v.Attach(ctx, vole.AttachOptions{Holder: "test", HostPath: true})
				if err != nil {
					return err
				}
				wrote("a new file of an attached draft", renames("d/g"), 1)
				return a.Detach(ctx)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wrote("a new file of a volume that was "+shared, renames("d/h"), 1)
	}
}

// The quota of a draft is exact, for files in place too.
func TestDraftQuota(t *testing.T) {
	ctx := t.Context()
	s := draftHome(t)
	var names []string
	v, err := s.Build(ctx, "v", vole.Spec{Quota: 1000}, func(v *vole.Volume) error {
		f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
		if err != nil {
			return err
		}
		defer f.Close()
		for i := range 4 {
			err := f.WriteFile(ctx, fmt.Sprintf("f%d", i), make([]byte, 300), 0o644)
			if over := i == 3; over != errors.Is(err, vole.ErrQuota) {
				t.Errorf("file %d of 300 bytes: %v", i, err)
			}
		}
		_, err = f.WriteFrom(ctx, "unknown", strings.NewReader(strings.Repeat("x", 101)), vole.WriteOptions{})
		if !errors.Is(err, vole.ErrQuota) {
			t.Errorf("101 bytes more: %v", err)
		}
		if _, err = f.WriteFrom(ctx, "exact", strings.NewReader(strings.Repeat("x", 100)), vole.WriteOptions{}); err != nil {
			t.Errorf("100 bytes more: %v", err)
		}
		for _, size := range []int64{0, 300} { // in the place of one that it is as large as
			if _, err = f.WriteFrom(ctx, "f1", strings.NewReader(strings.Repeat("x", 300)), vole.WriteOptions{Size: size}); err != nil {
				t.Errorf("300 bytes in the place of 300, said to be %d: %v", size, err)
			}
		}
		if _, err = f.WriteFrom(ctx, "f1", strings.NewReader(strings.Repeat("x", 301)), vole.WriteOptions{}); !errors.Is(err, vole.ErrQuota) {
			t.Errorf("301 bytes in the place of 300: %v", err)
		}
		list, err := f.ReadDir(ctx, ".")
		for _, e := range list {
			names = append(names, e.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"exact", "f0", "f1", "f2"}; !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
	info, err := v.Measure(ctx)
	if err != nil || info.Used != 1000 {
		t.Errorf("used %d, %v", info.Used, err)
	}
}

// A draft that is measured while it is written to has the right figure then and later.
func TestDraftMeasured(t *testing.T) {
	ctx := t.Context()
	s := draftHome(t)
	const files = 300
	v, err := s.Build(ctx, "v", vole.Spec{}, func(v *vole.Volume) error {
		f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
		if err != nil {
			return err
		}
		defer f.Close()
		wrote := make(chan error)
		go func() {
			var err error
			for i := 0; i < files && err == nil; i++ {
				err = f.WriteFile(ctx, fmt.Sprintf("f%d", i), make([]byte, 100), 0o644)
				if i == files/10 {
					wrote <- nil
				}
			}
			wrote <- err
		}()
		<-wrote
		for {
			info, err := v.Measure(ctx)
			if err != nil || info.Used%100 != 0 {
				t.Errorf("used %d, %v", info.Used, err)
			}
			select {
			case err := <-wrote:
				return err
			default:
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := v.Refresh(ctx); err != nil || info.Used != 100*files {
		t.Errorf("used %d, %v", info.Used, err)
	}
}

// Who knows the id of a draft, as from the names in the home, finds no volume unless he is
// its maker, who relies on that nobody else moves what is in it.
func TestDraftOfAnother(t *testing.T) {
	ctx := t.Context()
	for _, kind := range []vole.Kind{vole.KindDir, vole.KindDisk} {
		home := filepath.Join(t.TempDir(), "home")
		var stores [2]*vole.Store
		for i := range stores {
			s, err := vole.Open(ctx, vole.Options{Home: home})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			stores[i] = s
		}
		spec := vole.Spec{Kind: kind}
		if kind == vole.KindDisk {
			spec.Capacity = 8 * vole.MiB
		}
		v, err := stores[0].Build(ctx, "v", spec, func(v *vole.Volume) error {
			if _, err := stores[0].Get(ctx, v.ID()); err != nil {
				t.Errorf("%s: for its maker: %v", kind, err)
			}
			if _, err := stores[1].Get(ctx, v.ID()); !errors.Is(err, vole.ErrNotFound) {
				t.Errorf("%s: for another: %v", kind, err)
			}
			if err := stores[1].Remove(ctx, v.ID()); !errors.Is(err, vole.ErrNotFound) {
				t.Errorf("%s: removed by another: %v", kind, err)
			}
			f, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
			if err != nil {
				return err
			}
			return errors.Join(f.WriteFile(ctx, "d/f", nil, 0o644), f.Close())
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stores[1].Get(ctx, v.ID()); err != nil {
			t.Errorf("%s: published: %v", kind, err)
		}
	}
}
