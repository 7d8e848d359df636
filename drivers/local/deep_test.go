//go:build unix

package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// TestDeepParents makes a directory whose missing parents are as many as a path can name:
// the work is in proportion to them, not to their square.
func TestDeepParents(t *testing.T) {
	ctx := t.Context()
	s, err := vole.Open(ctx, vole.Options{Home: filepath.Join(t.TempDir(), "home")})
	must(t, err)
	defer s.Close()
	v, err := s.Create(ctx, "v", vole.Spec{})
	must(t, err)
	f, err := v.FS(ctx)
	must(t, err)
	defer f.Close()
	deep := strings.TrimSuffix(strings.Repeat("d/", 2000), "/")
	begin := time.Now()
	must(t, f.MkdirAll(ctx, deep, 0o755))
	slow := time.Since(begin)
	// A look at the deepest goes the whole way once.
	begin = time.Now()
	for range 20 {
		_, err := f.Stat(ctx, deep)
		must(t, err)
	}
	if looks := time.Since(begin); slow > 20*looks+2*time.Second {
		t.Errorf("made in %v; twenty looks take %v", slow, looks)
	}
	// A link on the way is followed, a dangling one in the way is not made.
	must(t, f.Symlink(ctx, "d/d", "link"), f.MkdirAll(ctx, "link/x/y", 0o700), f.Symlink(ctx, "nowhere", "dangling"), f.WriteFile(ctx, ".file", nil, 0o600))
	if e, err := f.Stat(ctx, "d/d/x/y"); err != nil || e.Mode.Perm() != 0o700 {
		t.Errorf("%v, %v", e, err)
	}
	if err := f.MkdirAll(ctx, "dangling/x", 0o755); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("through a dangling link: %v", err)
	}
	if err := f.MkdirAll(ctx, ".file/x", 0o755); !errors.Is(err, vole.ErrNotDir) {
		t.Errorf("through a file: %v", err)
	}
	must(t, f.MkdirAll(ctx, ".new", 0o755), f.MkdirAll(ctx, ".new/.a/.b", 0))
	must(t, f.Close(), s.Check(ctx, vole.CheckOptions{}, func(f vole.Finding) error { t.Errorf("found %v", f); return nil }))
}
