package local

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// openFiles makes a home, and a dir volume in it whose files it opens. The caller closes both.
func openFiles(t *testing.T, home string) (*Backend, driver.Info, driver.FS) {
	t.Helper()
	b, err := Open(t.Context(), home, Options{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := b.Create(t.Context(), "v", driver.Spec{Kind: driver.KindDir})
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.OpenFS(t.Context(), info.ID, driver.FSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return b, info, f
}

// A file that is removed between the look at it and its opening is left out of the copy of its
// directory, and not charged.
func TestCopyOfDirectoryLosingFile(t *testing.T) {
	ctx := t.Context()
	b, _, f := openFiles(t, filepath.Join(t.TempDir(), "home"))
	defer b.Close()
	defer f.Close()
	for _, name := range []string{"from/stays", "from/removed"} {
		if _, err := f.WriteFile(ctx, name, strings.NewReader("content"), driver.WriteOptions{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	removals := 0
	fault.Set(func(op, what string, do func() error) error {
		if op == "open" && what == "removed" && removals == 0 {
			removals++
			if err := f.Remove(ctx, "from/removed"); err != nil {
				t.Error(err)
			}
		}
		return do()
	})
	err := f.Copy(ctx, "from", "to", driver.CopyOptions{})
	fault.Set(nil)
	if err != nil || removals != 1 {
		t.Fatalf("copy: %v, after %d removals", err, removals)
	}
	if _, err := f.Lstat(ctx, "to/stays"); err != nil {
		t.Error(err)
	}
	err = b.Check(ctx, driver.CheckOptions{}, func(found driver.Finding) error {
		t.Errorf("%s: %s", found.Code, found.Detail)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
