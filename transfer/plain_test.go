//go:build unix

package transfer

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole"
	"golang.org/x/sys/unix"
)

func copyPlain(t testing.TB, src string) (dst string, err error) {
	t.Helper()
	dst = t.TempDir()
	from, err := OpenHost(src)
	mustSucceed(t, err)
	defer from.Close()
	to, err := OpenHost(dst)
	mustSucceed(t, err)
	defer to.Close()
	_, err = Copy(t.Context(), to, ".", from, ".", Options{Plain: true, Warn: func(format string, args ...any) { t.Errorf(format, args...) }})
	return dst, err
}

// A plain copy has directories, files and links, their permissions and times, and no more.
func TestPlain(t *testing.T) {
	src := t.TempDir()
	mustSucceed(t, errors.Join(os.MkdirAll(filepath.Join(src, "d/e"), 0o755), os.WriteFile(filepath.Join(src, "d/f"), []byte("x"), 0o640),
		os.Symlink("/etc/passwd", filepath.Join(src, "l")), os.Chmod(filepath.Join(src, "d/e"), 0o500),
		unix.Mkfifo(filepath.Join(src, "p"), 0o600), os.Link(filepath.Join(src, "d/f"), filepath.Join(src, "g")),
		os.Chmod(filepath.Join(src, "d/f"), 0o640|fs.ModeSetuid)))
	attrs := unix.Setxattr(filepath.Join(src, "d/f"), "user.a", []byte("1"), 0) == nil
	dst, err := copyPlain(t, src)
	mustSucceed(t, err)
	for name, want := range map[string]fs.FileMode{"d": fs.ModeDir | 0o755, "d/e": fs.ModeDir | 0o500, "d/f": 0o640, "g": 0o640, "l": fs.ModeSymlink} {
		st, err := os.Lstat(filepath.Join(dst, name))
		if err != nil || st.Mode().Type() != want.Type() || want.Type() != fs.ModeSymlink && st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, st, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dst, "p")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a fifo was copied: %v", err)
	}
	if _, err := unix.Getxattr(filepath.Join(dst, "d/f"), "user.a", make([]byte, 8)); attrs && err == nil {
		t.Error("an attribute was copied")
	}
}

// What may not be read is left out, under all of its names, and the rest is copied.
func TestPlainUnreadable(t *testing.T) {
	if os.Geteuid() == 0 { // who may read everything: another user runs the test
		const uid = 54321 // no one's
		dir, err := os.MkdirTemp("", "vole-plain-")
		mustSucceed(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		mustSucceed(t, os.Chown(dir, uid, uid))
		c := exec.Command("/proc/self/exe", "-test.run", "^TestPlainUnreadable$", "-test.v")
		c.Env, c.Dir = append(os.Environ(), "TMPDIR="+dir), dir
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestPlainUnreadable") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	src := t.TempDir()
	mustSucceed(t, errors.Join(os.Mkdir(filepath.Join(src, "closed"), 0o000), os.WriteFile(filepath.Join(src, "a"), nil, 0o000),
		os.Link(filepath.Join(src, "a"), filepath.Join(src, "b")), os.WriteFile(filepath.Join(src, "c"), nil, 0o644)))
	dst, err := copyPlain(t, src)
	mustSucceed(t, err)
	var names []string
	list, err := os.ReadDir(dst)
	mustSucceed(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "c closed" {
		t.Errorf("%s", got)
	}
}

// A file that says it is huge takes no more room than it has, and a deep tree is refused.
func TestPlainBounds(t *testing.T) {
	src := t.TempDir()
	huge := filepath.Join(src, "huge")
	mustSucceed(t, os.WriteFile(huge, []byte("x"), 0o600))
	if err := os.Truncate(huge, 1<<40); errors.Is(err, syscall.EFBIG) {
		t.Skip("no file of a terabyte here")
	} else if err != nil {
		t.Fatal(err)
	}
	dst, err := copyPlain(t, src)
	mustSucceed(t, err)
	st, err := os.Stat(filepath.Join(dst, "huge"))
	if err != nil || st.Size() != 1<<40 || st.Sys().(*syscall.Stat_t).Blocks > 1<<10 {
		t.Errorf("%v, %v", st, err)
	}
	mustSucceed(t, os.MkdirAll(src+strings.Repeat("/d", maxPlainDepth+2), 0o755))
	if _, err = copyPlain(t, src); !errors.Is(err, vole.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a deep tree: %v, want ErrUnsupported", err)
	}
}
