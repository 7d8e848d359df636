//go:build unix

package local_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/local"
	"golang.org/x/sys/unix"
)

// TestDevicesOfOthers finds device nodes in a volume that were made elsewhere, where none
// may be made: they can be seen and removed, and neither multiplied nor opened up.
func TestDevicesOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes device nodes")
	}
	ctx := t.Context()
	home := filepath.Join(t.TempDir(), "home")
	b, err := local.Open(ctx, home, local.Options{NoDevices: true})
	must(t, err)
	s := vole.New(b)
	defer s.Close()
	v, err := s.Create(ctx, "v", vole.Spec{})
	must(t, err)
	f, err := v.FS(ctx)
	must(t, err)
	defer f.Close()
	must(t, f.MkdirAll(ctx, "d", 0o755), f.WriteFile(ctx, "d/f", []byte("x"), 0o644))
	data := filepath.Join(home, "volumes", v.ID(), "data")
	err = errors.Join(unix.Mknod(filepath.Join(data, "d", "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		unix.Mknod(filepath.Join(data, "d", "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))))
	if errors.Is(err, unix.EPERM) {
		t.Skip("root may not make device nodes here")
	}
	must(t, err, f.Symlink(ctx, "d/disk", "way"))
	for _, node := range []string{"d/null", "d/disk"} {
		for what, do := range map[string]func() error{
			"copy":      func() error { return f.Copy(ctx, node, "new", driver.CopyOptions{}) },
			"link":      func() error { return f.Link(ctx, node, "new") },
			"chmod":     func() error { return f.Chmod(ctx, node, 0o666) },
			"chown":     func() error { return f.Chown(ctx, node, 1, 1) },
			"chmod way": func() error { return f.Chmod(ctx, "way", 0o666) },
			"copy tree": func() error { return f.Copy(ctx, "d", "new", driver.CopyOptions{}) },
			"mknod":     func() error { return f.Mknod(ctx, "new", fs.ModeDevice|0o666, 1) },
		} {
			if err := do(); !errors.Is(err, vole.ErrUnsupported) || !strings.Contains(err.Error(), "--allow-devices") {
				t.Errorf("%s %s: %v", what, node, err)
			}
			if _, err := f.Lstat(ctx, "new"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s %s made something: %v", what, node, err)
			}
		}
		e, err := f.Lstat(ctx, node)
		if err != nil || e.Mode.Perm() != 0o600 || e.UID != 0 {
			t.Errorf("%s: %v, %v", node, e, err)
		}
		must(t, f.Remove(ctx, node))
	}
	must(t, f.Copy(ctx, "d", "new", driver.CopyOptions{}), f.Chmod(ctx, "new", 0o700))
}
