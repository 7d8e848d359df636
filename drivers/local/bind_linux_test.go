package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/local"
	"golang.org/x/sys/unix"
)

// A read-only view can be read by everybody who gets its path, written by nobody, and is
// gone without a trace after undo.
func TestBindReadOnly(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, file} {
		at, undo, err := local.BindReadOnly(path, uuid.NewString())
		if os.Geteuid() != 0 || errors.Is(err, vole.ErrPermission) {
			if err == nil {
				t.Error("somebody who is not root could mount")
			}
			t.Skip("mounting needs root")
		}
		if err != nil {
			t.Fatal(err)
		}
		seen := at
		if path == dir {
			seen = filepath.Join(at, "f")
		}
		if data, err := os.ReadFile(seen); string(data) != "text" {
			t.Errorf("%q, %v", data, err)
		}
		if f, err := os.OpenFile(seen, os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("opened for writing: %v", err)
			f.Close()
		}
		if s, err := vole.Open(t.Context(), vole.Options{Home: filepath.Join(t.TempDir(), "home")}); err != nil {
			t.Error(err)
		} else if closeChecked(t, s); !exists(seen) {
			t.Error("opening a home removed the view of a process that lives")
		}
		if err := errors.Join(undo(), os.WriteFile(file, []byte("text"), 0o600)); err != nil {
			t.Error(err)
		}
		if exists(at) || exists(at+".lock") {
			t.Errorf("%s is left", at)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
