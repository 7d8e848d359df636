//go:build unix

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/volehq/vole/internal/durable"
)

// A file takes the place of a file, and of nothing else.
func TestWriteFileReplacesFilesOnly(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"one", "two"} {
		if err := durable.WriteFile(file, []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(file); string(b) != data {
			t.Errorf("%q, %v", b, err)
		}
	}
	if err := durable.WriteFile(fifo, nil, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a fifo: %v", err)
	}
	if info, err := os.Lstat(fifo); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("the fifo is %v, %v", info, err)
	}
}

// What CreatePrivate makes is its owner's alone: that of the directory above, where root makes it.
func TestCreatePrivate(t *testing.T) {
	dir := t.TempDir()
	owner := os.Geteuid()
	if owner == 0 {
		owner = 4242
		if err := os.Chown(dir, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "a", "b", "file")
	for range 2 {
		if err := durable.CreatePrivate(path); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): fs.ModeDir | 0o700, filepath.Join(dir, "a"): fs.ModeDir | 0o700} {
		info, err := os.Lstat(p)
		if err != nil || info.Mode() != want || int(info.Sys().(*syscall.Stat_t).Uid) != owner {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreatePrivate(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); string(b) != "x" {
		t.Errorf("a file that exists has %q, %v", b, err)
	}
}
