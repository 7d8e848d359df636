//go:build unix

package nofollow_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// What a link leads to keeps its mode and times, also when the link took the name of
// what was looked up.
func TestLinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	victim, name := filepath.Join(dir, "victim"), filepath.Join(dir, "name")
	old := time.Unix(1000, 0)
	for _, err := range []error{os.WriteFile(victim, nil, 0o600), os.Chtimes(victim, old, old), os.WriteFile(name, nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n, err := nofollow.Open(unix.AT_FDCWD, name)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("victim", name); err != nil {
		t.Fatal(err)
	}
	_, _ = n.Chmod(0o777), n.Chtimes(time.Unix(2000, 0)) // of what was there, on Linux
	if err := nofollow.ChmodPath(name, 0o777); err == nil && runtime.GOOS == "linux" {
		t.Error("the mode of a link was changed")
	}
	info, err := os.Stat(victim)
	if err != nil || info.Mode().Perm() != 0o600 || !info.ModTime().Equal(old) {
		t.Errorf("%v, %v", info, err)
	}
}

// A file that its owner may not open, and a fifo without a reader, get their modes.
func TestClosedAndFifo(t *testing.T) {
	dir := t.TempDir()
	closed, fifo := filepath.Join(dir, "closed"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(closed, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{closed, fifo} {
		if err := nofollow.ChmodPath(p, 0o640|os.ModeSticky); err != nil {
			t.Error(err)
		}
		if info, err := os.Lstat(p); err != nil || info.Mode()&^os.ModeType != 0o640|os.ModeSticky {
			t.Errorf("%v, %v", info, err)
		}
	}
}
