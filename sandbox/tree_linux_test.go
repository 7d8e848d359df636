package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/sandbox/internal/image"
	"golang.org/x/sys/unix"
)

// makeTree makes a tree of directories ("a/"), files ("a/f") and links ("a/l -> target").
func makeTree(t *testing.T, names ...string) (*guestTree, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		name, target, link := strings.Cut(name, " -> ")
		p := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case link:
			err = os.Symlink(target, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	g, err := openGuestTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.root.Close() })
	return g, dir
}

// All paths are resolved in the tree as if it were all there is.
func TestResolve(t *testing.T) {
	g, dir := makeTree(t, "a/b/", "a/f", "etc/passwd", "abs -> /a/b", "rel -> a/./b//", "up -> ../../../../etc", "far/up -> ../../..", "chain -> abs/../../rel",
		"loop -> loop", "ping -> pong", "pong -> ping", "dangling -> /no/such", "empty/", "procdir -> /proc", "magic -> proc/1/cwd", "devdir -> dev",
		"proc/1/cwd -> /etc", "dev/x/", "a/out -> ../../../proc/self/fd/3")
	for p, want := range map[string]string{
		"/": "/", "": "/", "..": "/", "/../../etc": "/etc", "/abs": "/a/b", "rel/..": "/a", "/up/passwd": "/etc/passwd", "far/up/a": "/a",
		"/chain": "/a/b", "a/f": "/a/f", "/dev": "/dev", "/devdir/": "/dev", "./a/./../a//b": "/a/b",
	} {
		f, err := g.resolvePath(p, lookup{})
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		real, err := os.Readlink(f.handlePath())
		if f.Close(); err != nil || f.path != want || filepath.Clean(dir+want) != real {
			t.Errorf("%s: %s (%s), %v; want %s", p, f.path, real, err, want)
		}
	}
	for p, want := range map[string]error{
		"/nosuch": unix.ENOENT, "/a/f/x": unix.ENOTDIR, "a/f/..": unix.ENOTDIR, "/loop": unix.ELOOP, "ping/x": unix.ELOOP, "/dangling": unix.ENOENT,
		"/proc": errProcfs, "/proc/": errProcfs, "/proc/..": errProcfs, "/proc/1/cwd": errProcfs, "procdir": errProcfs, "/procdir/1": errProcfs,
		"/magic": errProcfs, "/a/out": errProcfs, "a/b/../../../proc/self": errProcfs, "/dev/x": errUnseen, "devdir/x/y": errUnseen,
	} {
		if f, err := g.resolvePath(p, lookup{}); !errors.Is(err, want) {
			t.Errorf("%s: %s, %v; want %v", p, f.path, err, want)
		}
	}
	for _, p := range magicPaths {
		if f, err := g.resolvePath(p, lookup{create: true}); !errors.Is(err, errProcfs) {
			t.Errorf("%s: %s, %v", p, f.path, err)
		}
	}
	if n := len(readDir(t, "/proc/self/fd")); n > 100 {
		t.Errorf("%d files are open", n)
	}
}

func readDir(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestResolveCreates(t *testing.T) {
	g, dir := makeTree(t, "dangling -> /no/such", "out -> ../../../made", "f")
	for _, c := range []struct {
		p, want string
		file    bool
	}{{"/x/y/../z", "/x/z", false}, {"/dangling/a", "/no/such/a", false}, {"out", "/made", false}, {"/d/f", "/d/f", true}, {"dangling/b/f", "/no/such/b/f", true}} {
		f, err := g.resolvePath(c.p, lookup{create: true, file: c.file})
		if err != nil {
			t.Errorf("%s: %v", c.p, err)
			continue
		}
		f.Close()
		if st, err := os.Lstat(dir + c.want); err != nil || f.path != c.want || st.Mode().IsRegular() != c.file {
			t.Errorf("%s: %s, %v, %v; want %s", c.p, f.path, st, err, c.want)
		}
	}
	if _, err := g.resolvePath("/f/x", lookup{create: true}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v", err)
	}
}

// A link in a volume does not lead to a mount's target, and those of the root do.
func TestResolveRefusesLinksOfVolumes(t *testing.T) {
	g, _ := makeTree(t, "d/", "l -> d")
	f, err := g.resolvePath("/l/x", lookup{create: true, mounts: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := readMountID(f.File)
	if err != nil {
		t.Skip(err)
	}
	g.volumes[id] = "/v"
	if _, err := g.resolvePath("/l/x", lookup{create: true, mounts: true}); !errors.Is(err, vole.ErrInvalid) || !strings.Contains(err.Error(), "volume at /v") {
		t.Errorf("%v", err)
	}
	if _, err := g.resolvePath("/d/x", lookup{create: true, mounts: true}); err != nil {
		t.Error(err)
	}
}

// A NUL byte ends a string for runtimes that are written in C, and so hides what Vole checks.
func TestImageStringsEnd(t *testing.T) {
	for name, cfg := range map[string]image.Config{
		"command":     {Cmd: []string{"/bin/sh\x00.txt"}},
		"argument":    {Cmd: []string{"sh", "a\x00b"}},
		"environment": {Cmd: []string{"sh"}, Env: []string{"PATH=/bin\x00/usr"}},
		"directory":   {Cmd: []string{"sh"}, WorkingDir: "/proc\x00/x"},
	} {
		h := helper{p: &plan{}}
		if _, err := h.planProcess(t.TempDir(), cfg); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A root that became a link to what holds the home, after it was looked at, is refused.
func TestRootfsSwapped(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.MkdirAll(filepath.Join(home, "volumes"), 0o755), os.Symlink(".", filepath.Join(dir, "above")),
		os.Symlink("home/volumes", filepath.Join(dir, "in"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"above", "in", "home"} {
		h := helper{p: &plan{Home: home, Rootfs: filepath.Join(dir, name), Scratch: t.TempDir()}}
		if err := h.mountOverlayRoot(t.Context(), t.TempDir()); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
