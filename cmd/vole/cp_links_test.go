package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
)

// Where everyone may make a link, a copy follows those of whoever copies and of the
// directory's owner, and no others. Elsewhere it follows all.
func TestTargetLinksOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes links that belong to others")
	}
	dir := t.TempDir()
	shared, own, victim := filepath.Join(dir, "shared"), filepath.Join(dir, "own"), filepath.Join(dir, "victim")
	for _, d := range []string{shared, own, victim} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	a := newApp(nil, io.Discard, io.Discard)
	for _, to := range []string{victim, filepath.Join(victim, "missing")} {
		for _, c := range []struct {
			dir     string
			uid     int
			refused bool
		}{{shared, 65534, true}, {shared, 0, false}, {own, 65534, false}} {
			link := filepath.Join(c.dir, "link")
			if err := errors.Join(os.Symlink(to, link), os.Lchown(link, c.uid, -1)); err != nil {
				t.Fatal(err)
			}
			_, err := a.openHostTarget(location{arg: link, path: link})
			if refused := errors.Is(err, vole.ErrPermission); refused != c.refused || err != nil && !refused {
				t.Errorf("%s of %d to %s: %v, want it refused: %v", link, c.uid, to, err, c.refused)
			}
			if err := errors.Join(a.closeOpened(), os.Remove(link)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A relative link leads on from the directory that it is in, by whatever path it was named.
func TestTargetLinkInLinkedDirectory(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.MkdirAll(filepath.Join(dir, "deep/real"), 0o755), os.Mkdir(filepath.Join(dir, "other"), 0o755),
		os.Symlink("deep/real", filepath.Join(dir, "short")), os.Symlink("../other", filepath.Join(dir, "deep/sub")),
		os.Symlink("../file", filepath.Join(dir, "deep/real/up")), os.Symlink("../sub/../file", filepath.Join(dir, "deep/real/through")),
		os.Symlink("..", filepath.Join(dir, "deep/real/dir")))
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(nil, io.Discard, io.Discard)
	for name, want := range map[string]string{"up": "deep/file", "through": "file", "dir": "deep"} {
		p := filepath.Join(dir, "short", name)
		pl, err := a.openHostTarget(location{arg: p, path: p})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := filepath.Join(pl.dir, pl.path); got != filepath.Join(dir, want) {
			t.Errorf("%s leads to %s, want %s in %s", name, got, want, dir)
		}
	}
	if err := a.closeOpened(); err != nil {
		t.Error(err)
	}
}
