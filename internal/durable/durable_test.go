//go:build linux

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/volehq/vole/internal/durable"
	"golang.org/x/sys/unix"
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

// A link that leads to nothing is refused: who opened it would make a file with other rights.
func TestCreatePrivateAtDanglingLink(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "file"), filepath.Join(dir, "target")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreatePrivate(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target: %v", err)
	}
}

// While root makes files in a directory of another user, that user exchanges it for one of
// root's: no file in root's directory may become the user's.
func TestCreatePrivateInExchangedDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, who makes files in another user's directory")
	}
	dir := t.TempDir()
	roots, theirs, name, link := filepath.Join(dir, "roots"), filepath.Join(dir, "theirs"), filepath.Join(dir, "name"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(roots, 0o700), os.Mkdir(theirs, 0o700), os.Chown(theirs, 4242, 4242), os.Symlink(theirs, name), os.Symlink(roots, link)); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for i := range 2000 {
		if err := durable.CreatePrivate(filepath.Join(name, strconv.Itoa(i))); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-stopped
	for where, owner := range map[string]uint32{roots: 0, theirs: 4242} {
		list, err := os.ReadDir(where)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if info, err := e.Info(); err != nil || info.Sys().(*syscall.Stat_t).Uid != owner {
				t.Fatalf("%s/%s: %v, %v", where, e.Name(), info.Sys(), err)
			}
		}
	}
}

// Callers that make the same directories at once, which the first of them uses at once, all succeed.
func TestCreatePrivateAtOnce(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 4242, 4242); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 300 {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				path := filepath.Join(dir, strconv.Itoa(round), "a", strconv.Itoa(i%4))
				if err := durable.CreatePrivate(path); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}
