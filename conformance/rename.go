package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/volehq/vole"
)

var renameTests = []test{
	{"Matrix", testRenameMatrix},
	{"NoReplace", testRenameNoReplace},
	{"Paths", testRenamePaths},
	{"IntoItself", testRenameIntoItself},
	{"Identity", testRenameIdentity},
	{"SameFile", testRenameSameFile},
	{"Usage", testRenameUsage},
	{"Atomic", testRenameAtomic},
	{"Race", testRenameFileRace},
}

// things makes one of every sort of thing, by name, in directory d.
func (f *files) things(d string) []string {
	f.t.Helper()
	f.write(d+"/file", "content in "+d)
	f.mkdir(d + "/empty")
	f.write(d+"/full/x", "x in "+d)
	must(f.t, "fifo", f.Mknod(f.ctx, d+"/fifo", fs.ModeNamedPipe|0o600, 0))
	list := []string{"file", "empty", "full", "fifo"}
	if f.e.caps.Links {
		f.symlink("file", d+"/link")
		f.symlink("full", d+"/dirlink")
		f.symlink("nosuch", d+"/dangling")
		f.symlink("/outside", d+"/outlink")
		list = append(list, "link", "dirlink", "dangling", "outlink")
	}
	return list
}

// renameResult is what rename(2) says of moving one thing onto another.
func renameResult(from, to string) error {
	isDir := func(s string) bool { return s == "empty" || s == "full" }
	switch {
	case to == "missing":
		return nil
	case isDir(from) && !isDir(to):
		return vole.ErrNotDir
	case !isDir(from) && isDir(to):
		return vole.ErrIsDir
	case to == "full":
		return vole.ErrNotEmpty
	}
	return nil
}

func testRenameMatrix(t *testing.T, e *env) {
	f := e.files(t)
	froms := f.things("a")
	f.things("b")
	before := f.tree()
	for _, from := range froms {
		for _, to := range append([]string{"missing"}, froms...) {
			what := fmt.Sprintf("rename %s onto %s", from, to)
			inode := f.lstat("a/" + from).Inode
			err := f.Rename(f.ctx, "a/"+from, "b/"+to, vole.RenameOptions{})
			if want := renameResult(from, to); want != nil {
				wantErr(t, what, err, want)
				f.unchanged(what, before)
				continue
			}
			must(t, what, err)
			equal(t, what+": inode", f.lstat("b/"+to).Inode, inode)
			moved := tree{}
			for p, s := range before {
				switch {
				case p == "b/"+to:
				case p == "a/"+from || from == "full" && p == "a/full/x":
					moved["b/"+to+p[len("a/"+from):]] = s
				default:
					moved[p] = s
				}
			}
			f.unchanged(what+", beyond what it should,", moved)
			must(t, "clean up", errors.Join(f.RemoveAll(f.ctx, "a"), f.RemoveAll(f.ctx, "b")))
			f.things("a")
			f.things("b")
			before = f.tree()
		}
	}
}

func testRenameNoReplace(t *testing.T, e *env) {
	f := e.files(t)
	list := f.things("a")
	f.things("b")
	before := f.tree()
	for _, from := range list {
		for _, to := range list {
			what := fmt.Sprintf("rename %s onto %s without replacing", from, to)
			err := f.Rename(f.ctx, "a/"+from, "b/"+to, vole.RenameOptions{NoReplace: true})
			wantErr(t, what, err, vole.ErrExists)
		}
	}
	f.unchanged("refused renames", before)
	for _, from := range list {
		ok(t, "rename to a new name", f.Rename(f.ctx, "a/"+from, "b/new-"+from, vole.RenameOptions{NoReplace: true}))
		f.exists("a/"+from, false)
		f.exists("b/new-"+from, true)
	}
	for i := range 5 {
		for j := range 6 {
			f.write(fmt.Sprintf("race%d/%d", i, j), fmt.Sprint(j))
		}
		oneWins(t, race(6, func(j int) error {
			return f.Rename(f.ctx, fmt.Sprintf("race%d/%d", i, j), fmt.Sprintf("race%d/prize", i), vole.RenameOptions{NoReplace: true})
		}), vole.ErrExists)
		equal(t, "files after the race", len(f.names(fmt.Sprint("race", i))), 6)
	}
}

func testRenamePaths(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{"nosuch", "x", vole.ErrNotExist},
		{"nosuch", "file", vole.ErrNotExist},
		{"file", "nosuch/x", vole.ErrNotExist},
		{"dir", "nosuch/x", vole.ErrNotExist},
		{"file", "full/x/y", vole.ErrNotDir},
		{"file/x", "new", vole.ErrNotDir},
		{"dir", "file/x", vole.ErrNotDir},
	} {
		wantErr(t, "rename "+c.from+" to "+c.to, f.Rename(f.ctx, c.from, c.to, vole.RenameOptions{}), c.want)
	}
	f.unchanged("refused renames", before)
	must(t, "rename", f.Rename(f.ctx, "/file", "//dir/./moved/", vole.RenameOptions{}))
	f.holds("dir/moved", "content")
	if e.caps.Links {
		f.symlink("dir", "dirlink")
		must(t, "rename through links", f.Rename(f.ctx, "dirlink/moved", "dirlink/again", vole.RenameOptions{}))
		f.holds("dir/again", "content")
		must(t, "rename a link", f.Rename(f.ctx, "dirlink", "dir/self", vole.RenameOptions{}))
		f.isLink("dir/self", "dir")
	}
}

func testRenameIntoItself(t *testing.T, e *env) {
	f := e.files(t)
	f.write("a/b/c/f", "data")
	f.mkdir("a/empty")
	if e.caps.Links {
		f.symlink("b", "a/ln")
	}
	before := f.tree()
	cases := [][2]string{{"a", "a/x"}, {"a", "a/b/c/x"}, {"a/b", "a/b/c"}, {"a/b", "a/b/c/f/"}, {"a", "a/empty"}}
	if e.caps.Links {
		cases = append(cases, [2]string{"a/b", "a/ln/x"}, [2]string{"a", "a/ln/x"})
	}
	for _, c := range cases {
		err := f.Rename(f.ctx, c[0], c[1], vole.RenameOptions{})
		wantErr(t, "rename "+c[0]+" to "+c[1], err, vole.ErrInvalid)
	}
	wantErr(t, "rename onto the parent", f.Rename(f.ctx, "a/b", "a", vole.RenameOptions{}), vole.ErrNotEmpty)
	f.unchanged("refused renames", before)
}

func testRenameIdentity(t *testing.T, e *env) {
	f := e.files(t)
	must(t, "write", f.WriteFile(f.ctx, "d/f", []byte("data"), 0o604))
	if e.caps.Xattrs {
		must(t, "setxattr", f.Setxattr(f.ctx, "d/f", "user.k", []byte("v")))
	}
	was := f.lstat("d/f")
	must(t, "rename the directory", f.Rename(f.ctx, "d", "e", vole.RenameOptions{}))
	must(t, "rename the file", f.Rename(f.ctx, "e/f", "g", vole.RenameOptions{}))
	now := f.lstat("g")
	equal(t, "mode", now.Mode, was.Mode)
	equal(t, "inode", now.Inode, was.Inode)
	if !now.Mtime.Equal(was.Mtime) {
		t.Errorf("modified %v, was %v", now.Mtime, was.Mtime)
	}
	if e.caps.Xattrs {
		v, err := f.Getxattr(f.ctx, "g", "user.k")
		if err != nil || string(v) != "v" {
			t.Errorf("attribute %q, %v", v, err)
		}
	}
}

// Two names of one file, or one name twice: nothing is to do, and nothing is lost.
func testRenameSameFile(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "data")
	f.write("d/x", "inner")
	before := f.tree()
	for _, p := range []string{"f", "d", "d/x"} {
		ok(t, "rename onto itself", f.Rename(f.ctx, p, p, vole.RenameOptions{}))
		ok(t, "rename onto itself", f.Rename(f.ctx, p, "./"+p+"/", vole.RenameOptions{}))
	}
	f.unchanged("renames onto itself", before)
	if !e.caps.Links {
		return
	}
	f.link("f", "hard")
	f.symlink("d", "ln")
	f.symlink("f", "soft")
	before = f.tree()
	ok(t, "rename onto another name", f.Rename(f.ctx, "f", "hard", vole.RenameOptions{}))
	ok(t, "rename through a link", f.Rename(f.ctx, "ln/x", "d/x", vole.RenameOptions{}))
	f.unchanged("renames of one file", before)
	f.used("after renames of one file", 9)
	must(t, "rename a file onto its link", f.Rename(f.ctx, "f", "soft", vole.RenameOptions{}))
	f.holds("soft", "data")
	f.exists("f", false)
	f.used("at the end", 9)
}

func testRenameUsage(t *testing.T, e *env) {
	f := e.files(t)
	f.write("a", pattern(1, 1000))
	f.write("b", pattern(2, 300))
	f.write("d/c", pattern(3, 50))
	must(t, "rename", f.Rename(f.ctx, "d", "e", vole.RenameOptions{}))
	f.used("after moving", 1350)
	must(t, "rename", f.Rename(f.ctx, "b", "a", vole.RenameOptions{}))
	f.used("after replacing", 350)
	if e.caps.Links {
		f.write("x", pattern(4, 70))
		f.link("x", "y")
		must(t, "rename", f.Rename(f.ctx, "a", "x", vole.RenameOptions{}))
		f.used("after replacing one of two names", 420)
		must(t, "rename", f.Rename(f.ctx, "e/c", "y", vole.RenameOptions{}))
		f.used("after replacing the other", 350)
	}
}

// While one file replaces another again and again, its name is never missing.
func testRenameAtomic(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", uniform(0))
	stop := f.readsWhole("f")
	for i := range 100 {
		tmp := fmt.Sprint("tmp", i%3)
		err := errors.Join(f.WriteFile(f.ctx, tmp, []byte(uniform(i)), 0o644), f.Rename(f.ctx, tmp, "f", vole.RenameOptions{}))
		if err != nil {
			t.Error(err)
			break
		}
	}
	stop()
}

func testRenameFileRace(t *testing.T, e *env) {
	f := e.files(t)
	for i := range 5 {
		f.write("src", "12345")
		oneWins(t, race(6, func(j int) error {
			return f.Rename(f.ctx, "src", fmt.Sprintf("dst%d-%d", i, j), vole.RenameOptions{})
		}), vole.ErrNotExist)
	}
	// Two directories that are moved into one another: never do both succeed.
	for i := range 10 {
		d := fmt.Sprint("pair", i)
		f.mkdir(d + "/a")
		f.mkdir(d + "/b")
		errs := race(2, func(j int) error {
			from, to := d+"/a", d+"/b/a"
			if j == 1 {
				from, to = d+"/b", d+"/a/b"
			}
			return f.Rename(f.ctx, from, to, vole.RenameOptions{})
		})
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("directories moved into one another: %v", errs)
		}
	}
	f.used("after races", 25)
}
