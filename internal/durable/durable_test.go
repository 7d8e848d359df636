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
