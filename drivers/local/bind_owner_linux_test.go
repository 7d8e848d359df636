package local

import (
	"os"
	"path/filepath"
	"testing"
)

// The directory of read-only views is used only where nobody else could put another in its
// place, a link to a directory of others' files perhaps.
func TestBindsDirOfOthers(t *testing.T) {
	const other = 4242
	for what, tt := range map[string]struct {
		spoil func(above, dir string) error
		root  bool // it takes root to make it so
		ok    bool
	}{
		"own":              {func(above, dir string) error { return nil }, false, true},
		"above writable":   {func(above, dir string) error { return os.Chmod(above, 0o775) }, false, false},
		"open":             {func(above, dir string) error { return os.Chmod(dir, 0o711) }, false, false},
		"a link":           {func(above, dir string) error { return os.Symlink(t.TempDir(), dir) }, false, false},
		"above of another": {func(above, dir string) error { return os.Lchown(above, other, other) }, true, false},
		"of another":       {func(above, dir string) error { return os.Lchown(dir, other, other) }, true, false},
	} {
		if tt.root && os.Geteuid() != 0 {
			continue
		}
		above := filepath.Join(t.TempDir(), "vole")
		dir := filepath.Join(above, "ro")
		if err := os.Mkdir(above, 0o755); err != nil {
			t.Fatal(err)
		}
		if what != "a link" {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := tt.spoil(above, dir); err != nil {
			t.Fatal(err)
		}
		if err := checkOwnedAlone(dir); (err == nil) != tt.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}
