//go:build unix

package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// A home that cannot be made says why, with an error that the table of errors knows.
func TestHomeThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	err := errors.Join(os.WriteFile(file, nil, 0o600),
		os.Symlink("loop", filepath.Join(dir, "loop")), os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	if err != nil {
		t.Fatal(err)
	}
	for home, want := range map[string]error{
		file:                                         vole.ErrNotDir,
		filepath.Join(file, "home"):                  vole.ErrNotDir,
		filepath.Join(file, "a", "b", "home"):        vole.ErrNotDir,
		filepath.Join(dir, "loop", "home"):           driver.ErrLoop,
		filepath.Join(dir, "dangling"):               vole.ErrNotExist,
		filepath.Join(dir, "dangling", "a", "b"):     vole.ErrNotExist,
		filepath.Join(dir, strings.Repeat("n", 300)): vole.ErrInvalid,
	} {
		if _, err := vole.Open(t.Context(), vole.Options{Home: home}); !errors.Is(err, want) || driver.Classify(err).Code == "internal" {
			t.Errorf("%s: %v; want %v", home, err, want)
		}
	}
}
