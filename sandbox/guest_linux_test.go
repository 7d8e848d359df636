package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

// TestReadGuest has a root whose /etc/passwd is all but a small file.
func TestReadGuest(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		put  func(path string) error
		want error
	}{
		"file":    {func(path string) error { return os.WriteFile(path, []byte("text"), 0o600) }, nil},
		"missing": {func(string) error { return nil }, os.ErrNotExist},
		"fifo":    {func(path string) error { return unix.Mkfifo(path, 0o600) }, vole.ErrInvalid},
		"dir":     {func(path string) error { return os.Mkdir(path, 0o700) }, vole.ErrInvalid},
		"device": {func(path string) error {
			if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 8))); err != nil { // /dev/random
				return unix.Mkfifo(path, 0o600) // no right to make one
			}
			return nil
		}, vole.ErrInvalid},
		"huge": {func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 3<<30))
		}, vole.ErrUnsupported},
		"link out":         {func(path string) error { return os.Symlink(outside, path) }, os.ErrNotExist},
		"relative link":    {func(path string) error { return os.Symlink("../../../../../../../.."+outside, path) }, os.ErrNotExist},
		"link by /proc":    {func(path string) error { return os.Symlink("/proc/self/root"+outside, path) }, os.ErrNotExist},
		"link in the root": {func(path string) error { return os.Symlink("/etc/other", path) }, nil},
	} {
		root := t.TempDir()
		etc := filepath.Join(root, "etc")
		if err := errors.Join(os.Mkdir(etc, 0o755), os.WriteFile(filepath.Join(etc, "other"), []byte("text"), 0o600), tt.put(filepath.Join(etc, "passwd"))); err != nil {
			t.Fatal(err)
		}
		got, err := readGuestFile(root, "/etc/passwd")
		if !errors.Is(err, tt.want) || tt.want == nil && (err != nil || string(got) != "text") {
			t.Errorf("%s: %q, %v; want %v", name, got, err, tt.want)
		}
	}
}
