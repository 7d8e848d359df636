package conformance

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var linkTests = []test{
	{"Hard", testHardLink},
	{"HardRefused", testHardLinkRefused},
	{"HardToSymlink", testHardLinkToSymlink},
	{"Symlink", testSymlink},
	{"SymlinkRefused", testSymlinkRefused},
	{"Readlink", testReadlinkRefused},
	{"InnerLinks", testInnerLinks},
	{"LongChain", testLongChain},
}

func testHardLink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("a", "12345")
	f.mkdir("d")
	f.link("a", "b")
	f.link("b", "d/c")
	f.used("three names", 5)
	for _, p := range []string{"a", "b", "d/c"} {
		equal(t, "links of "+p, f.lstat(p).Nlink, 3)
		equal(t, "inode of "+p, f.lstat(p).Inode, f.lstat("a").Inode)
	}
	h := f.open("b", vole.OpenOptions{Append: true})
	_, err := h.Append(f.ctx, []byte("678"))
	must(t, "append", err)
	f.holds("d/c", "12345678")
	f.used("grown by one name", 8)
	must(t, "chmod", f.Chmod(f.ctx, "a", 0o600))
	equal(t, "mode by another name", f.lstat("b").Mode, 0o600)
	f.remove("a")
	equal(t, "links left", f.lstat("b").Nlink, 2)
	f.used("one name removed", 8)
	f.remove("b")
	f.holds("d/c", "12345678")
	f.used("two names removed", 8)
	must(t, "truncate", f.Truncate(f.ctx, "d/c", 2))
	must(t, "close", h.Close())
	f.remove("d/c")
	f.used("all names removed", 0)
}

func testHardLinkRefused(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, c := range []struct {
		target, path string
		want         error
	}{
		{"file", "full/x", vole.ErrExists},
		{"file", "dir", vole.ErrExists},
		{"file", "link", vole.ErrExists},
		{"file", "file", vole.ErrExists},
		{"dir", "new", vole.ErrPermission},
		{".", "new", vole.ErrPermission},
		{"nosuch", "new", vole.ErrNotExist},
		{"file", "nosuch/new", vole.ErrNotExist},
		{"file", "full/x/new", vole.ErrNotDir},
		{"file/x", "new", vole.ErrNotDir},
	} {
		wantErr(t, "link "+c.target+" as "+c.path, f.Link(f.ctx, c.target, c.path), c.want)
	}
	f.unchanged("refused links", before)
}

func testHardLinkToSymlink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("file", "data")
	for p, target := range map[string]string{"soft": "file", "dangling": "nosuch", "out": "/etc/passwd"} {
		f.symlink(target, p)
		must(t, "link to "+p, f.Link(f.ctx, p, p+"2"))
		f.isLink(p+"2", target)
		equal(t, "inode", f.lstat(p+"2").Inode, f.lstat(p).Inode)
	}
	equal(t, "links of the file", f.lstat("file").Nlink, 1)
}

func testSymlink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.mkdir("d")
	targets := []string{
		"file", "./file", "d/../file", "..", "../..", "/", "/abs/olute", "//x//y/", " ", "a b", "日本", "*", `\`, "a\nb",
		strings.Repeat("t/", 500), strings.Repeat("x", 255), ".",
	}
	for i, target := range targets {
		p := "d/" + string(rune('a'+i))
		f.symlink(target, p)
		f.isLink(p, target)
		got := f.lstat(p)
		equal(t, "type", got.Mode.Type(), fs.ModeSymlink)
		equal(t, "size", got.Size, int64(len(target)))
	}
	f.used("links count nothing", 0)
}

func testSymlinkRefused(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.fixture()
	f.symlink("nosuch", "dangling")
	before := f.tree()
	for p, want := range map[string]error{
		"file": vole.ErrExists, "dir": vole.ErrExists, "link": vole.ErrExists, "dangling": vole.ErrExists, ".": vole.ErrExists,
		"nosuch/x": vole.ErrNotExist, "file/x": vole.ErrNotDir, "dangling/x": vole.ErrNotExist,
	} {
		wantErr(t, "symlink at "+p, f.Symlink(f.ctx, "target", p), want)
	}
	f.unchanged("refused symlinks", before)
}

func testReadlinkRefused(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.fixture()
	for p, want := range map[string]error{
		"file": vole.ErrInvalid, "dir": vole.ErrInvalid, ".": vole.ErrInvalid, "nosuch": vole.ErrNotExist, "file/x": vole.ErrNotDir, "link/x": vole.ErrNotDir,
	} {
		_, err := f.Readlink(f.ctx, p)
		wantErr(t, "readlink "+p, err, want)
	}
}

// Every operation follows links within its path, wherever they stand.
func testInnerLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	for _, ln := range []string{"ln", "a/up", "chain", "a/b/dot"} {
		f := e.openFiles(t, e.create(t, "vol-"+strings.ReplaceAll(ln, "/", ".")), vole.FSOptions{Batch: true})
		f.mkdir("a/b")
		f.symlink("real", "ln")
		f.symlink("../real", "a/up")
		f.symlink("a/up", "chain")
		f.symlink("../../a/./b/../../ln/.", "a/b/dot")
		changed := true
		for _, o := range e.pathOps() {
			if changed {
				for _, p := range []string{"real", "renamed", "copied", "linked", "file", "full"} {
					must(t, "clean up", f.RemoveAll(f.ctx, p))
				}
				f.fixtureIn("real")
				f.write("full/x", "for those that move it")
				f.write("file", "for those that link it")
			}
			changed = o.changes
			ok(t, o.name+" through "+ln, o.run(f.ctx, f.FS, ln+"/"+o.at))
		}
	}
}

// fixtureIn is fixture beneath a directory.
func (f *files) fixtureIn(d string) {
	f.t.Helper()
	f.write(d+"/file", "content")
	f.write(d+"/full/x", "inner")
	f.mkdir(d + "/dir")
	f.symlink("file", d+"/link")
	if f.e.caps.Xattrs {
		must(f.t, "setxattr", f.Setxattr(f.ctx, d+"/file", "user.k", []byte("v")))
	}
}

// Some links in a row are followed; very many are refused, and no call hangs.
func testLongChain(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("l0", "data")
	for i := range 60 {
		f.symlink(fmt.Sprint("l", i), fmt.Sprint("l", i+1))
	}
	f.holds("l5", "data")
	_, err := f.Stat(f.ctx, "l60")
	wantErr(t, "stat of 60 links in a row", err, vole.ErrLoop)
	f.copy("l60", "c")
	f.isLink("c", "l59")
	must(t, "remove", f.RemoveAll(f.ctx, "l60"))
	f.exists("l59", true)
}
