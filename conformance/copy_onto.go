package conformance

import (
	"io/fs"
	"testing"

	"github.com/volehq/vole"
)

var copyOntoTests = []test{
	{"SamePath", testCopySamePath},
	{"HardLink", testCopyOntoHardLink},
	{"ThroughDirLink", testCopyOntoThroughDirLink},
	{"Symlink", testCopyOntoSymlink},
	{"Directory", testCopyDirOntoItself},
	{"Matrix", testCopyMatrix},
	{"TreeThroughLink", testCopyTreeThroughLink},
}

func testCopySamePath(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, c := range [][2]string{{"file", "file"}, {"file", "/file"}, {"file", "./file/"}, {"full/x", "full//x"}} {
		ok(t, "copy "+c[0]+" onto "+c[1], f.Copy(f.ctx, c[0], c[1], vole.CopyOptions{}))
		f.unchanged("copy "+c[0]+" onto "+c[1], before)
	}
	if e.caps.Links {
		ok(t, "copy a link onto itself", f.Copy(f.ctx, "link", "link", vole.CopyOptions{}))
		f.unchanged("copy of a link onto itself", before)
	}
	f.used("after copies onto itself", int64(len("content")+len("inner")))
}

func testCopyOntoHardLink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("f", pattern(1, 5000))
	f.mkdir("d")
	f.link("f", "d/hard")
	before := f.tree()
	for _, c := range [][2]string{{"f", "d/hard"}, {"d/hard", "f"}} {
		ok(t, "copy "+c[0]+" onto "+c[1], f.Copy(f.ctx, c[0], c[1], vole.CopyOptions{}))
		f.unchanged("copy onto another name", before)
	}
	f.used("after copies onto another name", 5000)
}

func testCopyOntoThroughDirLink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("d/f", "data")
	f.symlink("d", "ln")
	f.symlink("../ln", "d/back")
	before := f.tree()
	for _, c := range [][2]string{{"d/f", "ln/f"}, {"ln/f", "d/f"}, {"d/f", "d/back/f"}, {"ln/f", "ln/back/back/f"}} {
		ok(t, "copy "+c[0]+" onto "+c[1], f.Copy(f.ctx, c[0], c[1], vole.CopyOptions{}))
		f.unchanged("copy of a file onto itself through a link", before)
	}
}

// A file and a link to it: whichever is copied onto the other, the file's bytes are
// not lost.
func testCopyOntoSymlink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	for _, c := range [][2]string{{"f", "soft"}, {"soft", "f"}, {"f", "chain"}, {"chain", "f"}} {
		f.write("f", "data")
		for p, target := range map[string]string{"soft": "f", "chain": "soft"} {
			must(t, "remove", f.RemoveAll(f.ctx, p))
			f.symlink(target, p)
		}
		wantAny(t, "copy "+c[0]+" onto "+c[1], f.Copy(f.ctx, c[0], c[1], vole.CopyOptions{}), nil, vole.ErrInvalid)
		f.holds("f", "data")
		equal(t, "type of the file", f.lstat("f").Mode.Type(), 0)
		f.holds(c[0], "data")
		f.holds(c[1], "data")
	}
}

func testCopyDirOntoItself(t *testing.T, e *env) {
	f := e.files(t)
	f.write("d/f", "data")
	f.mkdir("d/sub")
	if e.caps.Links {
		f.symlink("d", "ln")
		f.symlink("../d", "d/self")
	}
	before := f.tree()
	wantAny(t, "copy a directory onto itself", f.Copy(f.ctx, "d", "d", vole.CopyOptions{}), vole.ErrExists, vole.ErrInvalid)
	wantAny(t, "copy onto the parent", f.Copy(f.ctx, "d/sub", "d", vole.CopyOptions{}), vole.ErrExists)
	cases := [][2]string{{"d", "d/x"}, {"d", "d/sub/x"}, {"d", "d/new/x"}, {".", "x"}, {".", "d/x"}}
	if e.caps.Links {
		cases = append(cases, [][2]string{{"d", "ln/x"}, {"d", "d/self/x"}, {"d", "ln/new/x"}}...)
	}
	for _, c := range cases {
		wantErr(t, "copy "+c[0]+" to "+c[1], f.Copy(f.ctx, c[0], c[1], vole.CopyOptions{}), vole.ErrInvalid)
		f.unchanged("copy of a directory into itself", before)
	}
	if e.caps.Links { // a link that leads into the copied tree is only a link in it
		f.copy("d", "e")
		f.isLink("e/self", "../d")
		f.hasNames("e", "f", "self", "sub")
	}
}

// A link in the path of the target leads out of the directory, which is then no copy into
// itself; or it leads back in.
func testCopyTreeThroughLink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("d/f", "content")
	must(t, "mkdir", f.Mkdir(f.ctx, "out", 0o755))
	must(t, "symlink", f.Symlink(f.ctx, "../out", "d/leads-out"))
	must(t, "symlink", f.Symlink(f.ctx, "d", "leads-in"))
	must(t, "copy through a link that leads out", f.Copy(f.ctx, "d", "d/leads-out/copy", vole.CopyOptions{}))
	f.holds("out/copy/f", "content")
	before := f.tree()
	wantErr(t, "copy through a link that leads back in", f.Copy(f.ctx, "d", "leads-in/x/y", vole.CopyOptions{}), vole.ErrInvalid)
	f.unchanged("copy of a directory into itself through a link", before)
}

// copyResult is what copying one thing onto another says.
func copyResult(from, to string) error {
	isDir := func(s string) bool { return s == "empty" || s == "full" }
	switch {
	case to == "missing":
		return nil
	case isDir(from):
		return vole.ErrExists
	case isDir(to):
		return vole.ErrIsDir
	}
	return nil
}

func testCopyMatrix(t *testing.T, e *env) {
	f := e.files(t)
	froms := f.things("a")
	f.things("b")
	before := f.tree()
	for _, from := range froms {
		for _, to := range append([]string{"missing"}, froms...) {
			what := "copy " + from + " onto " + to
			err := f.Copy(f.ctx, "a/"+from, "b/"+to, vole.CopyOptions{})
			if want := copyResult(from, to); want != nil {
				wantErr(t, what, err, want)
				f.unchanged(what, before)
				continue
			}
			must(t, what, err)
			for p, s := range before {
				if p == "a/"+from || from == "full" && p == "a/full/x" {
					before["b/"+to+p[len("a/"+from):]] = s
				}
			}
			f.unchanged(what+", beyond what it should,", before)
			if f.lstat("b/"+to).Mode.Type() == fs.ModeNamedPipe && f.lstat("b/"+to).Inode == f.lstat("a/"+from).Inode {
				t.Errorf("%s made another name of the same fifo", what)
			}
			must(t, "clean up", f.RemoveAll(f.ctx, "b"))
			f.things("b")
			before = f.tree()
		}
	}
}
