package conformance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var copyTests = []test{
	{"File", testCopyFile},
	{"Attributes", testCopyAttributes},
	{"Link", testCopyLink},
	{"Tree", testCopyTree},
	{"TreeHardLinks", testCopyHardLinks},
	{"Holes", testCopyHoles},
	{"Parents", testCopyParents},
	{"Refused", testCopyRefused},
	{"NoReplace", testCopyNoReplace},
	{"TreeAppearsWhole", testCopyTreeWhole},
	{"FileNeverTorn", testCopyNeverTorn},
}

func (f *files) copy(from, to string) {
	f.t.Helper()
	must(f.t, "copy "+from+" to "+to, f.Copy(f.ctx, from, to, vole.CopyOptions{}))
}

func testCopyFile(t *testing.T, e *env) {
	f := e.files(t)
	for i, n := range sizes {
		data := pattern(i, n)
		f.write("src", data)
		f.copy("src", "dst")
		f.holds("dst", data)
		f.holds("src", data)
		f.used("after copying", int64(2*n))
	}
	f.write("dst", "12345")
	f.holds("src", pattern(len(sizes)-1, sizes[len(sizes)-1])) // a copy of its own
	h := f.open("dst", vole.OpenOptions{})
	f.write("small", "abc")
	f.copy("small", "dst")
	f.holds("dst", "abc")
	handleHolds(t, f, h, "12345") // replaced, not overwritten
	if e.caps.Links {
		f.link("dst", "hard")
		f.write("other", "other")
		f.copy("other", "dst")
		f.holds("hard", "abc")
		f.holds("dst", "other")
	}
}

// sameMeta fails t unless b has what Copy keeps of a.
func sameMeta(t *testing.T, f *files, a, b string) {
	t.Helper()
	x, y := f.lstat(a), f.lstat(b)
	equal(t, "mode of "+b, y.Mode, x.Mode)
	if !y.Mtime.Equal(x.Mtime) {
		t.Errorf("%s was modified %v, the copied %v", b, y.Mtime, x.Mtime)
	}
	if f.e.caps.Chown && (x.UID != y.UID || x.GID != y.GID) {
		t.Errorf("owner of %s is %d:%d, want %d:%d", b, y.UID, y.GID, x.UID, x.GID)
	}
	if x.Inode == y.Inode {
		t.Errorf("%s and %s are one file", a, b)
	}
	if !f.e.caps.Xattrs || x.Mode.Type() == fs.ModeSymlink {
		return
	}
	want, err := f.Listxattr(f.ctx, a)
	must(t, "listxattr", err)
	got, err := f.Listxattr(f.ctx, b)
	must(t, "listxattr", err)
	equal(t, "attributes of "+b, strings.Join(got, " "), strings.Join(want, " "))
	for _, name := range want {
		v, err := f.Getxattr(f.ctx, a, name)
		must(t, "getxattr", err)
		w, err := f.Getxattr(f.ctx, b, name)
		must(t, "getxattr", err)
		equal(t, name, string(w), string(v))
	}
}

// dress gives the file at p attributes that no new file has.
func (f *files) dress(p string, mode fs.FileMode) {
	f.t.Helper()
	if f.e.caps.Chown {
		must(f.t, "chown", f.Chown(f.ctx, p, 4321, 1234))
	}
	if f.lstat(p).Mode.Type() != fs.ModeSymlink {
		if f.e.caps.Xattrs {
			must(f.t, "setxattr", f.Setxattr(f.ctx, p, "user.one", []byte("1\x00\xff")))
			must(f.t, "setxattr", f.Setxattr(f.ctx, p, "user.two", []byte(p)))
		}
		must(f.t, "chmod", f.Chmod(f.ctx, p, mode))
	}
	must(f.t, "chtimes", f.Chtimes(f.ctx, p, time.Unix(900, 0), time.Unix(1_000_000_000, 123_456_000)))
}

func testCopyAttributes(t *testing.T, e *env) {
	f := e.files(t)
	for i, m := range []fs.FileMode{0o600, 0o444, 0o755, fs.ModeSetuid | 0o755, fs.ModeSetgid | 0o711, 0o777} {
		p := fmt.Sprint("f", i)
		f.write(p, "data")
		f.dress(p, m)
		f.copy(p, p+"-copy")
		sameMeta(t, f, p, p+"-copy")
		must(t, "write", f.WriteFile(f.ctx, p+"-old", []byte("old content"), 0o604))
		f.copy(p, p+"-old")
		sameMeta(t, f, p, p+"-old")
	}
}

func testCopyLink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("d/target", "data")
	for p, target := range map[string]string{"soft": "d/target", "dirlink": "d", "dangling": "nosuch", "out": "/etc/passwd", "up": "../../x"} {
		f.symlink(target, p)
		f.dress(p, 0)
		f.copy(p, "copies/"+p)
		f.isLink("copies/"+p, target)
		sameMeta(t, f, p, "copies/"+p)
		f.write("file", "old")
		f.copy(p, "file")
		f.isLink("file", target)
		f.remove("file")
	}
	f.copy("d/target", "dangling")
	equal(t, "type of a link that was copied over", f.lstat("dangling").Mode.Type(), 0)
	f.exists("nosuch", false)
	f.copy("dirlink/target", "through")
	f.holds("through", "data")
}

// garden makes a tree with one of everything.
func (f *files) garden(root string) {
	f.t.Helper()
	f.write(root+"/file", pattern(1, 5000))
	f.write(root+"/sub/deep/er/file", pattern(2, 100))
	f.write(root+"/sub/zero", "")
	f.mkdir(root + "/empty")
	must(f.t, "fifo", f.Mknod(f.ctx, root+"/sub/fifo", fs.ModeNamedPipe|0o640, 0))
	if f.e.caps.Links {
		f.symlink("file", root+"/link")
		f.symlink("../../outside", root+"/sub/out")
		f.symlink("deep", root+"/sub/dirlink")
	}
	f.dress(root+"/file", 0o604)
	f.dress(root+"/sub/deep", 0o711)
	f.dress(root+"/sub", 0o751)
	f.dress(root, 0o750)
}

func testCopyTree(t *testing.T, e *env) {
	f := e.files(t)
	f.garden("a")
	before := f.tree()
	f.copy("a", "b")
	f.copy("a/sub", "new/parents/c")
	f.unchangedBut(before, "b", "new")
	got := f.tree()
	delete(before, "lost+found")
	for p, s := range before {
		to := "b" + strings.TrimPrefix(p, "a")
		if got[to] != s {
			t.Errorf("%s is %q, want %q", to, got[to], s)
		}
		sameMeta(t, f, p, to)
	}
	sameMeta(t, f, "a/sub", "new/parents/c")
	sameMeta(t, f, "a/sub/deep", "new/parents/c/deep")
	f.used("three trees", 5000+100+5000+100+100)
	must(t, "remove the source", f.RemoveAll(f.ctx, "a"))
	f.holds("b/sub/deep/er/file", pattern(2, 100))
}

// unchangedBut compares all but the trees at some paths.
func (f *files) unchangedBut(before tree, but ...string) {
	f.t.Helper()
	now := f.tree()
	for p := range now {
		for _, b := range but {
			if p == b || strings.HasPrefix(p, b+"/") {
				delete(now, p)
			}
		}
	}
	if d := before.Diff(now); d != "" {
		f.t.Errorf("besides %q there changed:%s", but, d)
	}
}

// Names of one file in the tree are names of one file in the copy, and its bytes count
// once there too. A name outside of the tree is no part of it.
func testCopyHardLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("a/one", pattern(1, 1000))
	f.link("a/one", "a/two")
	f.mkdir("a/d")
	f.link("a/one", "a/d/three")
	f.write("a/single", pattern(2, 10))
	f.link("a/single", "outside")
	f.copy("a", "b")
	inode := f.lstat("b/one").Inode
	for _, p := range []string{"b/one", "b/two", "b/d/three"} {
		got := f.lstat(p)
		equal(t, "links of "+p, got.Nlink, 3)
		equal(t, "inode of "+p, got.Inode, inode)
		f.holds(p, pattern(1, 1000))
	}
	equal(t, "links of b/single", f.lstat("b/single").Nlink, 1)
	equal(t, "links of a/one", f.lstat("a/one").Nlink, 3)
	f.used("two trees", 2020)
}

func testCopyHoles(t *testing.T, e *env) {
	need(t, e.caps.Holes, "holes")
	f := e.files(t)
	const size, at = 256 << 20, 100 << 20
	h := f.open("sparse", vole.OpenOptions{Create: true})
	must(t, "truncate", h.Truncate(f.ctx, size))
	_, err := h.WriteAt(f.ctx, []byte(pattern(1, 10_000)), at)
	must(t, "write", err)
	must(t, "close", h.Close())
	f.copy("sparse", "copy")
	f.mkdir("tree")
	must(t, "rename", f.Rename(f.ctx, "sparse", "tree/sparse", vole.RenameOptions{}))
	f.copy("tree", "tree2")
	for _, p := range []string{"copy", "tree2/sparse"} {
		got := f.lstat(p)
		equal(t, "size of "+p, got.Size, int64(size))
		if got.Allocated > 4<<20 {
			t.Errorf("%s: %d bytes are allocated for 10000", p, got.Allocated)
		}
		b := make([]byte, 10_002)
		_, err := f.open(p, vole.OpenOptions{}).ReadAt(f.ctx, b, at-1)
		if err != nil && err != io.EOF || string(b) != "\x00"+pattern(1, 10_000)+"\x00" {
			t.Errorf("%s does not hold what was copied (%v)", p, err)
		}
	}
	f.used("three sparse files", 3*size)
}

func testCopyParents(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	f.copy("file", "new/deep/er/f")
	f.holds("new/deep/er/f", "content")
	equal(t, "mode of a made parent", f.lstat("new/deep").Mode, fs.ModeDir|0o755)
	f.copy("full", "new/other/tree")
	f.holds("new/other/tree/x", "inner")
	if e.caps.Links {
		f.symlink("dir", "ln")
		f.copy("file", "ln/sub/f")
		f.holds("dir/sub/f", "content")
	}
}

func testCopyRefused(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	f.write("full/sub/y", "y")
	before := f.tree()
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{"nosuch", "new", vole.ErrNotExist},
		{"nosuch", "new/parents", vole.ErrNotExist},
		{"nosuch/x", "new", vole.ErrNotExist},
		{"file/x", "new", vole.ErrNotDir},
		{"file", "full/x/y", vole.ErrNotDir},
		{"file", "file/x", vole.ErrNotDir},
		{"full", "file/x", vole.ErrNotDir},
		{"file", "dir", vole.ErrIsDir},
		{"file", "full", vole.ErrIsDir},
		{"full", "dir", vole.ErrExists},
		{"full", "file", vole.ErrExists},
		{"dir", "full", vole.ErrExists},
		{"full", "full/new", vole.ErrInvalid},
		{"full", "full/sub/new", vole.ErrInvalid},
		{"full", "full/new/parents/x", vole.ErrInvalid},
		{"dir", "dir/x", vole.ErrInvalid},
	} {
		what := "copy " + c.from + " to " + c.to
		wantErr(t, what, f.Copy(f.ctx, c.from, c.to, vole.CopyOptions{}), c.want)
		f.unchanged(what, before)
	}
	f.used("after refused copies", int64(len("content")+len("inner")+1))
}

func testCopyNoReplace(t *testing.T, e *env) {
	f := e.files(t)
	list := f.things("a")
	f.things("b")
	before := f.tree()
	for _, from := range list {
		for _, to := range list {
			what := fmt.Sprintf("copy %s onto %s without replacing", from, to)
			wantErr(t, what, f.Copy(f.ctx, "a/"+from, "b/"+to, vole.CopyOptions{NoReplace: true}), vole.ErrExists)
		}
	}
	f.unchanged("refused copies", before)
	ok(t, "copy to a new name", f.Copy(f.ctx, "a/file", "b/new", vole.CopyOptions{NoReplace: true}))
	oneWins(t, race(6, func(i int) error {
		return f.Copy(f.ctx, "a/file", "b/prize", vole.CopyOptions{NoReplace: true})
	}), vole.ErrExists)
	oneWins(t, race(6, func(i int) error {
		return f.Copy(f.ctx, "a/full", "b/dirprize", vole.CopyOptions{})
	}), vole.ErrExists)
	f.hasNames("b/dirprize", "x")
}

// A copied tree appears as a whole: a concurrent reader finds all of it or nothing.
func testCopyTreeWhole(t *testing.T, e *env) {
	f := e.files(t)
	const n = 150
	for i := range n {
		f.write(fmt.Sprintf("src/d%d/f%d", i%5, i), fmt.Sprint(i))
	}
	count := func(root string) (int, error) {
		got := 0
		for i := range 5 {
			list, err := f.ReadDir(f.ctx, fmt.Sprintf("%s/d%d", root, i))
			if err != nil {
				return got, err
			}
			got += len(list)
		}
		return got, nil
	}
	for round := range 4 {
		dst := fmt.Sprint("dst", round)
		var done atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !done.Load() {
				_, err := f.Lstat(f.ctx, dst)
				if errors.Is(err, vole.ErrNotExist) {
					continue
				}
				if got, err2 := count(dst); err != nil || err2 != nil || got != n {
					t.Errorf("the copy was seen with %d of %d files: %v, %v", got, n, err, err2)
				}
				return
			}
		})
		err := f.Copy(f.ctx, "src", dst, vole.CopyOptions{})
		done.Store(true)
		wg.Wait()
		must(t, "copy", err)
		got, err := count(dst)
		must(t, "count", err)
		equal(t, "files in the copy", got, n)
	}
}

func testCopyNeverTorn(t *testing.T, e *env) {
	f := e.files(t)
	for i := range 5 {
		f.write(fmt.Sprint("src", i), uniform(i))
	}
	f.copy("src0", "dst")
	stop := f.readsWhole("dst")
	for i := range 60 {
		if err := f.Copy(f.ctx, fmt.Sprint("src", i%5), "dst", vole.CopyOptions{}); err != nil {
			t.Error(err)
			break
		}
	}
	stop()
}
