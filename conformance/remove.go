package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var removeTests = []test{
	{"Remove", testRemove},
	{"RemoveAll", testRemoveAll},
	{"Locked", testRemoveLocked},
	{"Root", testRemoveRoot},
	{"Deep", testRemoveDeep},
	{"Race", testRemoveFileRace},
	{"AllWhileWritten", testRemoveAllWhileWritten},
}

func testRemove(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	if e.caps.Links {
		f.symlink("full", "dirlink")
		f.symlink("nosuch", "dangling")
	}
	before := f.tree()
	for p, want := range map[string]error{
		"full": vole.ErrNotEmpty, "nosuch": vole.ErrNotExist, "dir/nosuch": vole.ErrNotExist, "nosuch/x": vole.ErrNotExist, "file/x": vole.ErrNotDir,
	} {
		wantErr(t, "remove "+p, f.Remove(f.ctx, p), want)
	}
	f.unchanged("refused removes", before)
	gone := []string{"dir", "fifo"}
	if e.caps.Links {
		gone = append(gone, "link", "dirlink", "dangling")
	}
	for _, p := range gone {
		must(t, "remove "+p, f.Remove(f.ctx, p))
		delete(before, p)
	}
	f.unchanged("removing links", before) // their targets remain
	f.used("before the files go", int64(len("content")+len("inner")))
	f.remove("file")
	f.used("without a file", int64(len("inner")))
	wantErr(t, "remove again", f.Remove(f.ctx, "file"), vole.ErrNotExist)
	f.remove("full/x")
	f.remove("full/")
	f.hasNames(".", rootNames(e)...)
	f.used("empty", 0)
}

func testRemoveAll(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	f.write("stays/x", "1234567")
	if e.caps.Links {
		f.symlink("stays", "dirlink")
		f.symlink("../stays", "full/back")
		f.symlink("/etc", "full/out")
		f.link("stays/x", "full/hard")
	}
	must(t, "fifo", f.Mknod(f.ctx, "full/fifo", fs.ModeNamedPipe|0o600, 0))
	for _, p := range []string{"nosuch", "nosuch/x/y", "dir/nosuch"} {
		ok(t, "remove all of "+p, f.RemoveAll(f.ctx, p))
	}
	wantAny(t, "remove all through a file", f.RemoveAll(f.ctx, "file/x"), nil, vole.ErrNotDir)
	f.exists("file", true)

	must(t, "remove a tree", f.RemoveAll(f.ctx, "full"))
	f.exists("full", false)
	f.holds("stays/x", "1234567")
	f.used("after a tree", int64(len("content")+7))
	if e.caps.Links {
		equal(t, "links of what the tree shared", f.lstat("stays/x").Nlink, 1)
		must(t, "remove a link to a directory", f.RemoveAll(f.ctx, "dirlink"))
		f.exists("dirlink", false)
		f.holds("stays/x", "1234567")
		must(t, "remove a link", f.RemoveAll(f.ctx, "link"))
	}
	must(t, "remove a file", f.RemoveAll(f.ctx, "file"))
	must(t, "remove an empty directory", f.RemoveAll(f.ctx, "dir"))
	f.hasNames(".", rootNames(e, "stays")...)
	f.used("at the end", 7)
}

// A mode that keeps the owner out keeps no volume from being measured, emptied and
// removed: caches of downloaded modules are full of read-only directories.
func testRemoveLocked(t *testing.T, e *env) {
	for _, m := range []fs.FileMode{0o555, 0o333, 0} {
		v := e.create(t, "vol")
		f := e.openFiles(t, v, vole.FSOptions{})
		for _, p := range []string{"tree", "stays"} {
			f.write(p+"/sub/f", "12345")
			must(t, "chmod", f.Chmod(f.ctx, p+"/sub/f", 0o400))
			must(t, "chmod", f.Chmod(f.ctx, p+"/sub", m))
			must(t, "chmod", f.Chmod(f.ctx, p, m))
		}
		what := fmt.Sprintf("with directories of mode %v", m)
		info, err := v.Measure(f.ctx)
		ok(t, "measure "+what, err)
		equal(t, "measured "+what, info.Used, 10)
		equal(t, "mode after measuring", f.lstat("tree").Mode, fs.ModeDir|m)
		ok(t, "remove all "+what, f.RemoveAll(f.ctx, "tree"))
		f.exists("tree", false)
		f.used("after removal "+what, 5)
		e.check(t, e.store)
		ok(t, "close", f.Close())
		must(t, "remove the volume "+what, v.Remove(f.ctx))
	}
}

func testRemoveRoot(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, p := range []string{"", ".", "/", "//", "./", "/./"} {
		for what, err := range map[string]error{
			"remove":      f.Remove(f.ctx, p),
			"remove all":  f.RemoveAll(f.ctx, p),
			"rename":      f.Rename(f.ctx, p, "x", vole.RenameOptions{}),
			"rename to":   f.Rename(f.ctx, "full", p, vole.RenameOptions{}),
			"copy to":     f.Copy(f.ctx, "full", p, vole.CopyOptions{}),
			"copy":        f.Copy(f.ctx, p, "x", vole.CopyOptions{}),
			"copy onto":   f.Copy(f.ctx, p, p, vole.CopyOptions{}),
			"rename onto": f.Rename(f.ctx, p, p, vole.RenameOptions{}),
		} {
			wantErr(t, fmt.Sprintf("%s %q", what, p), err, vole.ErrInvalid)
			saysHow(t, what, err, " ")
		}
	}
	f.unchanged("refused operations on the root", before)
	if e.caps.Links {
		// The root by way of a link: the link is removed, not the content of the root.
		f.symlink(".", "dot")
		must(t, "remove a link to the root", f.RemoveAll(f.ctx, "dot"))
		f.unchanged("removing a link to the root", before)
	}
}

// A tree deeper than any path is long can be made step by step, and is removed.
func testRemoveDeep(t *testing.T, e *env) {
	f := e.files(t)
	part := strings.TrimSuffix(strings.Repeat("d/", 120), "/")
	// Each round puts the tree so far beneath a new part.
	f.mkdir("top/" + part)
	f.write("top/"+part+"/f", "bottom")
	for range 3 {
		f.mkdir("next/" + part)
		must(t, "rename", f.Rename(f.ctx, "top", "next/"+part+"/top", vole.RenameOptions{}))
		must(t, "rename", f.Rename(f.ctx, "next", "top", vole.RenameOptions{}))
	}
	f.used("deep", 6)
	must(t, "remove all", f.RemoveAll(f.ctx, "top"))
	f.hasNames(".", rootNames(e)...)
	f.used("removed", 0)
}

func testRemoveFileRace(t *testing.T, e *env) {
	f := e.files(t)
	for i := range 5 {
		p := fmt.Sprint("f", i)
		f.write(p, "12345")
		oneWins(t, race(8, func(int) error { return f.Remove(f.ctx, p) }), vole.ErrNotExist)
	}
	f.used("after races", 0)
	f.write("tree/a/b", "12345")
	f.write("tree/c/d", "12345")
	errs := race(6, func(int) error { return f.RemoveAll(f.ctx, "tree") })
	ok(t, "remove all at once", errors.Join(errs...))
	f.exists("tree", false)
	f.used("after removing a tree", 0)
}

// Removing a tree that others write into succeeds, and the count stays right.
func testRemoveAllWhileWritten(t *testing.T, e *env) {
	f := e.files(t)
	rounds := 150
	if testing.Short() {
		rounds = 40
	}
	errs := race(6, func(i int) error {
		for j := range rounds {
			if i < 2 {
				if err := f.RemoveAll(f.ctx, []string{"tree", "tree/d"}[(i+j)%2]); err != nil {
					return err
				}
				continue
			}
			err := f.WriteFile(f.ctx, fmt.Sprintf("tree/d/f%d", j%5), []byte(pattern(j, 100)), 0o644)
			if err != nil && !errors.Is(err, vole.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	ok(t, "all", errors.Join(errs...))
	f.countedRight()
	must(t, "remove all", f.RemoveAll(f.ctx, "tree"))
	f.hasNames(".", rootNames(e)...)
	f.used("after all", 0)
}
