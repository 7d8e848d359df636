package transfer_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
)

// openHome makes a home in a directory of its own.
func openHome(t testing.TB) *vole.Store {
	t.Helper()
	s, err := vole.Open(t.Context(), vole.Options{Home: filepath.Join(t.TempDir(), "home")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newFS makes a volume and opens it in batch mode.
func newFS(t testing.TB, s *vole.Store, name string, spec vole.Spec) *vole.FS {
	t.Helper()
	v, err := s.Create(t.Context(), name, spec)
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// owns reports whether this process may make devices and give files away.
var owns = os.Geteuid() == 0 && runtime.GOOS == "linux"

// fillTree makes a file of every kind.
func fillTree(t *testing.T, f *vole.FS) {
	t.Helper()
	ctx := t.Context()
	at := func(p string, sec, nsec int64) {
		must(t, f.Chtimes(ctx, p, time.Unix(sec, nsec), time.Unix(sec, nsec)))
	}
	write := func(p, data string, perm fs.FileMode) { must(t, f.WriteFile(ctx, p, []byte(data), perm)) }
	must(t, f.MkdirAll(ctx, "dir/empty", 0o755))
	must(t, f.MkdirAll(ctx, strings.Repeat("deep/", 40)+"end", 0o755))
	write("dir/a", "text", 0o640)
	write("dir/none", "", 0o444)
	write("big", strings.Repeat("0123456789abcdef", 64<<10), 0o600)
	write("name\nwith \x01\xff\xfe bytes", "no UTF-8", 0o644)
	write("ünïcode", "UTF-8", 0o644)
	write("-rf", "looks like an option", 0o644)
	write(strings.Repeat("n", 255), "long", 0o644)
	write("of the future", "", 0o644)
	write("suid", "#!", 0o755)
	must(t, f.Link(ctx, "dir/a", "zz-hard"))
	must(t, f.Symlink(ctx, "../nowhere/\xff", "dangling"))
	must(t, f.Symlink(ctx, strings.Repeat("x/", 150), "dir/far"))
	must(t, f.Link(ctx, "dangling", "zz-hard-link"))
	must(t, f.Mknod(ctx, "fifo", fs.ModeNamedPipe|0o620, 0))
	for _, name := range []string{"sparse", "sparse \xff", "hole"} {
		h, err := f.Open(ctx, name, vole.OpenOptions{Create: true, Mode: 0o644})
		must(t, err)
		must(t, h.Truncate(ctx, 10<<20))
		if name != "hole" {
			_, err := h.WriteAt(ctx, []byte("in the middle"), 4<<20+5)
			must(t, err)
			_, err = h.WriteAt(ctx, []byte("end"), 10<<20-3)
			must(t, err)
		}
		must(t, h.Close())
		at(name, 1e9, 5)
	}
	if runtime.GOOS == "linux" {
		for n, v := range map[string]string{"user.plain": "v", "user.a=b%3D": "odd", "user.empty": "", "user.bin": "\x00\n=\xff"} {
			must(t, f.Setxattr(ctx, "dir/a", n, []byte(v)))
			must(t, f.Setxattr(ctx, "sparse", n, []byte(v)))
		}
		must(t, f.Setxattr(ctx, "dir", "user.dir", []byte("d")))
	}
	if owns {
		must(t, f.Chown(ctx, "dir/a", 1234, 70000))
		must(t, f.Chown(ctx, "dangling", 5, 3000000))
		must(t, f.Chown(ctx, "dir", 77, 78))
		must(t, f.Chmod(ctx, "suid", 0o755|fs.ModeSetuid|fs.ModeSetgid))
		must(t, f.Mknod(ctx, "null", fs.ModeDevice|fs.ModeCharDevice|0o666, 1<<8|3))
		must(t, f.Mknod(ctx, "disk", fs.ModeDevice|0o660, 259<<8|0xfe|0x300<<12))
	}
	at("dir/a", 1e9, 123456789)
	at("big", 0, 0)
	at("of the future", 1<<33, 1)
	at("dangling", 1e9, 7)
	must(t, f.Chmod(ctx, "dir/empty", 0o555))
	must(t, f.Chmod(ctx, "dir", 0o750|fs.ModeSticky))
	at("dir/empty", 1e9, 1)
	at("dir", 1e9, 999999999)
}

// describe says all that a copy keeps of what is at root and beneath it, by path. The
// root's own metadata is left out.
func describe(t *testing.T, f *vole.FS, root string, owners bool) map[string]string {
	t.Helper()
	ctx := t.Context()
	all, first := map[string]string{}, map[uint64]string{}
	var walk func(p string)
	walk = func(p string) {
		list, err := f.ReadDir(ctx, path.Join(root, p))
		must(t, err)
		for _, e := range list {
			p, full := path.Join(p, e.Name), path.Join(root, p, e.Name)
			d := fmt.Sprintf("%v %v", e.Mode, e.Mtime.UTC().Format(time.RFC3339Nano))
			if owners {
				d += fmt.Sprintf(" %d:%d %d", e.UID, e.GID, e.Rdev)
			}
			if !e.IsDir() && e.Nlink > 1 {
				if first[e.Inode] == "" {
					first[e.Inode] = p
				}
				d += fmt.Sprintf(" %q", first[e.Inode])
			}
			switch {
			case e.IsDir():
				walk(p)
			case e.Mode&fs.ModeSymlink != 0:
				to, err := f.Readlink(ctx, full)
				must(t, err)
				d += fmt.Sprintf(" to %q", to)
			case e.Mode.IsRegular():
				data, err := f.ReadFile(ctx, full)
				must(t, err)
				d += fmt.Sprintf(" %d sparse=%v %.4x", e.Size, e.Size-e.Allocated > 1<<20, sha256.Sum256(data))
			}
			if e.Mode&fs.ModeSymlink == 0 {
				names, err := f.Listxattr(ctx, full)
				if !errors.Is(err, vole.ErrUnsupported) {
					must(t, err)
				}
				for _, n := range names {
					v, err := f.Getxattr(ctx, full, n)
					must(t, err)
					d += fmt.Sprintf(" %s=%q", n, v)
				}
			}
			all[p] = d
		}
	}
	walk(".")
	return all
}

// same compares two trees as describe describes them.
func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] != want[p] {
			t.Errorf("%s: %q\n got %s\nwant %s", what, p, got[p], want[p])
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %q should not be there", what, p)
		}
	}
}
