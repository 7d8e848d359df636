package pathwalk_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/pathwalk"
	"golang.org/x/sys/unix"
)

// onDisk returns a walker over paths beneath a directory, which looks at one element at a
// time and never lets the kernel follow a link.
func onDisk(dir string, chroot, keepLast bool) pathwalk.Walker[string] {
	return pathwalk.Walker[string]{
		Chroot: chroot, KeepLast: keepLast,
		Lookup: func(at string, s pathwalk.Step) (string, pathwalk.Kind, error) {
			next := path.Join(at, s.Name)
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, next), &st); err != nil {
				return "", 0, driver.FromErrno(err.(unix.Errno))
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				return next, pathwalk.Directory, nil
			case unix.S_IFLNK:
				return next, pathwalk.Link, nil
			}
			return next, pathwalk.Other, nil
		},
		Readlink: func(p string) (string, error) { return os.Readlink(filepath.Join(dir, p)) },
	}
}

// kernelWalk resolves p beneath dir by openat2(2), and returns the inode that it leads to.
func kernelWalk(t testing.TB, dir, p string, chroot, keepLast bool) (uint64, error) {
	t.Helper()
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if !chroot {
		how.Resolve = unix.RESOLVE_BENEATH
		p = "./" + p // a walk takes an absolute path for one from its root, the kernel for an escape
	}
	if keepLast {
		how.Flags |= unix.O_NOFOLLOW
	}
	for {
		fd, err := unix.Openat2(root, p, &how)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN): // a rename elsewhere
			continue
		case errors.Is(err, unix.ENOSYS):
			t.Skip("this kernel has no openat2(2)")
		case errors.Is(err, unix.EXDEV):
			return 0, driver.ErrPathEscape
		case err != nil:
			return 0, driver.FromErrno(err.(unix.Errno))
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino, nil
	}
}

// compare resolves p by the walker and by the kernel, and wants the same file or error.
func compare(t testing.TB, dir, p string) {
	t.Helper()
	for i := range 4 {
		chroot, keepLast := i&1 != 0, i&2 != 0
		w := onDisk(dir, chroot, keepLast)
		nodes, err := w.Walk(".", p)
		want, wantErr := kernelWalk(t, dir, p, chroot, keepLast)
		what := fmt.Sprintf("%q, chroot %v, keep last %v", p, chroot, keepLast)
		if err != nil || wantErr != nil {
			if err == nil || wantErr == nil || driver.Classify(err).Code != driver.Classify(wantErr).Code {
				t.Fatalf("%s: %v %v; the kernel says %v", what, nodes, err, wantErr)
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, nodes[len(nodes)-1]), &st); err != nil || st.Ino != want {
			t.Fatalf("%s: %v is inode %d, %v; the kernel found %d", what, nodes, st.Ino, err, want)
		}
		for j := 1; j < len(nodes); j++ {
			if path.Dir(nodes[j]) != nodes[j-1] {
				t.Fatalf("%s: %v are not one in the other", what, nodes)
			}
		}
	}
}

var names = []string{"a", "b", "c", "d"}

// plant makes a tree of directories, files and links by the decisions of pick, and returns
// the paths to try.
func plant(t testing.TB, dir string, pick func(n int) int) (paths []string) {
	t.Helper()
	somePath := func() string {
		var b strings.Builder
		if pick(4) == 0 {
			b.WriteString("/")
		}
		for range 1 + pick(5) {
			b.WriteString([]string{"..", ".", "", "a", "b", "c", "d", "a", "b", "c", "d", "nosuch"}[pick(12)])
			b.WriteString([]string{"/", "/", "/", "//"}[pick(4)])
		}
		s := b.String()
		if pick(3) > 0 {
			s = strings.TrimSuffix(s, "/")
		}
		if s == "" {
			s = "." // neither a link nor a path of the kernel's may be empty
		}
		return s
	}
	dirs := []string{"."}
	for range 4 + pick(16) {
		at := path.Join(dirs[pick(len(dirs))], names[pick(len(names))])
		full := filepath.Join(dir, at)
		switch pick(5) {
		case 0, 1:
			if os.Mkdir(full, 0o755) == nil {
				dirs = append(dirs, at)
			}
		case 2:
			// Exclusively: a link that has the name already may lead out of dir.
			if f, err := os.OpenFile(full, os.O_CREATE|os.O_EXCL, 0o644); err == nil {
				f.Close()
			}
		default:
			_ = os.Symlink(somePath(), full)
		}
	}
	for range 12 {
		paths = append(paths, somePath())
	}
	return paths
}

// Whatever the tree, a path leads where the kernel finds it to lead, or fails as there.
func TestAgreesWithKernel(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	for seed := range rounds {
		dir := t.TempDir()
		rnd := rand.New(rand.NewPCG(uint64(seed), 1))
		for _, p := range plant(t, dir, rnd.IntN) {
			compare(t, dir, p)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		os.RemoveAll(dir)
	}
}

// As many links as the kernel follows are followed, and one more is a loop.
func TestLinksAreBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range pathwalk.MaxLinks + 2 {
		if err := os.Symlink(fmt.Sprint(i), filepath.Join(dir, fmt.Sprint(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	for i := pathwalk.MaxLinks - 1; i <= pathwalk.MaxLinks+2; i++ {
		compare(t, dir, fmt.Sprint(i))
		compare(t, dir, fmt.Sprintf("%d/", i))
	}
	w := onDisk(dir, true, false)
	if _, err := w.Walk(".", fmt.Sprint(pathwalk.MaxLinks+1)); !errors.Is(err, driver.ErrLoop) {
		t.Errorf("%v, want ErrLoop", err)
	}
}

// FuzzWalk has the input decide on a tree and on paths.
func FuzzWalk(f *testing.F) {
	f.Add([]byte("directories and links"))
	f.Add([]byte{9, 0, 0, 0, 0, 1, 3, 0, 2, 0, 1, 4, 1, 3, 3, 0, 2, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{15, 0, 1, 3, 0, 1, 0, 0, 0, 2, 4, 0, 3, 11, 0, 1, 2, 2, 2, 2, 0, 0, 0, 9, 8, 7, 3, 3, 3})
	f.Add([]byte(strings.Repeat("\x03\x01\x00\x02", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		pick := func(n int) int { // zeros when the input has ended
			if len(b) == 0 {
				return 0
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		}
		dir := t.TempDir()
		for _, p := range plant(t, dir, pick) {
			compare(t, dir, p)
		}
	})
}
