//go:build unix

package local_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
)

// TestCountsBesideAnotherVersion has another version of Vole count a volume, whose page of
// figures looks otherwise: the quota holds all the same, and what was not counted is found
// when both are done.
func TestCountsBesideAnotherVersion(t *testing.T) {
	ctx := t.Context()
	home := filepath.Join(t.TempDir(), "home")
	other, err := vole.Open(ctx, vole.Options{Home: home})
	must(t, err)
	v, err := other.Create(ctx, "v", vole.Spec{Quota: 1 << 20})
	must(t, err)
	f, err := v.FS(ctx)
	must(t, err)
	must(t, f.WriteFile(ctx, "first", make([]byte, 10), 0o644))
	own, err := vole.Open(ctx, vole.Options{Home: home})
	must(t, err)
	defer own.Close()
	// The other version: what it has written is in its page, of another kind, only.
	must(t, f.WriteFile(ctx, "large", make([]byte, 900_000), 0o644))
	page, err := os.OpenFile(filepath.Join(home, "locks", v.ID()), os.O_RDWR, 0)
	must(t, err)
	defer page.Close()
	const magicOfFirst, entries = 0x31656c6f56, 48
	_, err = page.WriteAt(binary.NativeEndian.AppendUint64(nil, magicOfFirst), 0)
	must(t, err)

	w, err := own.Get(ctx, "v")
	must(t, err)
	g, err := w.FS(ctx)
	must(t, err)
	if err := g.WriteFile(ctx, "more", make([]byte, 900_000), 0o644); !errors.Is(err, vole.ErrQuota) {
		t.Errorf("past the quota: %v", err)
	}
	must(t, g.WriteFile(ctx, "small", nil, 0o644))
	// The other makes a file and does not count it as an entry.
	must(t, f.WriteFile(ctx, "uncounted", nil, 0o644))
	buf := make([]byte, 8)
	_, err = page.ReadAt(buf, entries)
	must(t, err)
	_, err = page.WriteAt(binary.NativeEndian.AppendUint64(nil, binary.NativeEndian.Uint64(buf)-1), entries)
	must(t, errors.Join(err, f.Close(), other.Close(), g.Close(), own.Close()))

	again, err := vole.Open(ctx, vole.Options{Home: home})
	must(t, err)
	defer again.Close()
	w, err = again.Get(ctx, "v")
	must(t, err)
	if f, err = w.FS(ctx); err == nil {
		err = errors.Join(f.WriteFile(ctx, "last", nil, 0o644), f.Close())
	}
	must(t, err)
	must(t, again.Check(ctx, vole.CheckOptions{}, func(f vole.Finding) error {
		t.Errorf("found %v", f)
		return nil
	}))
}
