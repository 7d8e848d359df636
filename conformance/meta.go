package conformance

import (
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var metaTests = []test{
	{"Chmod", testChmod},
	{"Chown", testChown},
	{"ChownKeeps", testChownKeeps},
	{"Chtimes", testChtimes},
	{"ChtimesLink", testChtimesLink},
	{"TimesMove", testTimesMove},
	{"Mknod", testMknod},
}

func testChmod(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	for _, m := range append([]fs.FileMode{0, 0o007, fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky | 0o777}, permissions...) {
		must(t, fmt.Sprintf("chmod to %v", m), f.Chmod(f.ctx, "file", m))
		equal(t, "mode", f.lstat("file").Mode, m)
		must(t, fmt.Sprintf("chmod to %v", m), f.Chmod(f.ctx, "dir", m))
		equal(t, "mode of a directory", f.lstat("dir").Mode, fs.ModeDir|m)
	}
	must(t, "chmod", f.Chmod(f.ctx, "file", 0o644))
	must(t, "chmod", f.Chmod(f.ctx, "dir", 0o755))
	f.holds("file", "content")
	must(t, "chmod of the root", f.Chmod(f.ctx, ".", 0o711))
	equal(t, "mode of the root", f.lstat(".").Mode, fs.ModeDir|0o711)
	must(t, "chmod of the root", f.Chmod(f.ctx, "/", 0o755))
	if e.caps.Links {
		was := f.lstat("link").Mode
		must(t, "chmod of a link", f.Chmod(f.ctx, "link", 0o600))
		equal(t, "mode of the file", f.lstat("file").Mode, 0o600)
		equal(t, "mode of the link", f.lstat("link").Mode, was)
		f.symlink("nosuch", "dangling")
		wantErr(t, "chmod of a dangling link", f.Chmod(f.ctx, "dangling", 0o600), vole.ErrNotExist)
	}
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	must(t, "chmod of a fifo", within(t, func() error { return f.Chmod(f.ctx, "fifo", 0o640) }))
	equal(t, "mode of the fifo", f.lstat("fifo").Mode, fs.ModeNamedPipe|0o640)
}

func testChown(t *testing.T, e *env) {
	need(t, e.caps.Chown, "arbitrary owners")
	f := e.files(t)
	f.fixture()
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	owner := func(p string, uid, gid uint32) {
		t.Helper()
		got := f.lstat(p)
		if got.UID != uid || got.GID != gid {
			t.Errorf("owner of %s is %d:%d, want %d:%d", p, got.UID, got.GID, uid, gid)
		}
	}
	for _, p := range []string{"file", "dir", "fifo", "."} {
		must(t, "chown "+p, f.Chown(f.ctx, p, 1000, 2000))
		owner(p, 1000, 2000)
		must(t, "chown "+p, f.Chown(f.ctx, p, -1, 3000))
		owner(p, 1000, 3000)
		must(t, "chown "+p, f.Chown(f.ctx, p, 1<<32-2, -1))
		owner(p, 1<<32-2, 3000)
		must(t, "chown "+p, f.Chown(f.ctx, p, 0, 0))
		owner(p, 0, 0)
	}
	if e.caps.Links {
		must(t, "chown of a link", f.Chown(f.ctx, "link", 7, 8))
		owner("link", 7, 8)
		owner("file", 0, 0)
		f.symlink("/outside", "out")
		must(t, "chown of a link that leads out", f.Chown(f.ctx, "out", 7, 8))
		owner("out", 7, 8)
	}
}

func testChownKeeps(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for p := range before {
		ok(t, "chown that keeps both", f.Chown(f.ctx, p, -1, -1))
		was := f.lstat(p)
		ok(t, "chown to the owner it has", f.Chown(f.ctx, p, int(was.UID), int(was.GID)))
	}
	f.unchanged("chown that keeps the owner", before)
}

// sameTime compares as exactly as the backend keeps times.
func (e *env) sameTime(t *testing.T, what string, got, want time.Time) {
	t.Helper()
	if !got.Equal(want.Truncate(e.h.TimeStep)) && !got.Equal(want) {
		t.Errorf("%s: %v, want %v", what, got.UTC(), want.UTC())
	}
	if got.Location() != time.UTC {
		t.Errorf("%s: %v is not UTC", what, got)
	}
}

func testChtimes(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o600, 0))
	times := []time.Time{
		time.Unix(0, 1), time.Unix(1, 999_999_999), time.Unix(1_700_000_000, 123_456_789), time.Unix(1<<31, 5),
		time.Date(2100, 2, 28, 23, 59, 59, 987_654_321, time.FixedZone("x", 3600)), time.Unix(-1, 500_000_000),
	}
	for _, p := range []string{"file", "dir", "fifo", "full/x", "."} {
		for i, at := range times {
			mt := times[len(times)-1-i]
			must(t, "chtimes "+p, within(t, func() error { return f.Chtimes(f.ctx, p, at, mt) }))
			got := f.lstat(p)
			e.sameTime(t, p+" accessed", got.Atime, at)
			e.sameTime(t, p+" modified", got.Mtime, mt)
		}
		// Beyond what 64 bits of nanoseconds count: kept, or refused.
		far := time.Date(2300, 1, 2, 3, 4, 5, 600, time.UTC)
		if err := f.Chtimes(f.ctx, p, far, far); err != nil {
			wantErr(t, "chtimes of "+p+" to the year 2300", err, vole.ErrInvalid)
		} else {
			e.sameTime(t, p+" far from now", f.lstat(p).Mtime, far)
		}
		at, mt := time.Unix(500, 0), time.Unix(600, 0)
		must(t, "chtimes "+p, f.Chtimes(f.ctx, p, at, mt))
		must(t, "chtimes of one "+p, f.Chtimes(f.ctx, p, time.Time{}, time.Unix(700, 0)))
		e.sameTime(t, p+" accessed, kept", f.lstat(p).Atime, at)
		e.sameTime(t, p+" modified", f.lstat(p).Mtime, time.Unix(700, 0))
		must(t, "chtimes of the other "+p, f.Chtimes(f.ctx, p, time.Unix(800, 0), time.Time{}))
		e.sameTime(t, p+" accessed", f.lstat(p).Atime, time.Unix(800, 0))
		e.sameTime(t, p+" modified, kept", f.lstat(p).Mtime, time.Unix(700, 0))
		must(t, "chtimes of neither", f.Chtimes(f.ctx, p, time.Time{}, time.Time{}))
		e.sameTime(t, p+" modified, kept", f.lstat(p).Mtime, time.Unix(700, 0))
	}
	f.holds("file", "content")
}

func testChtimesLink(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.fixture()
	f.symlink("nosuch", "dangling")
	f.symlink("/outside", "out")
	f.symlink("dir", "dirlink")
	file, dir := f.lstat("file").Mtime, f.lstat("dir").Mtime
	for _, p := range []string{"link", "dangling", "out", "dirlink"} {
		must(t, "chtimes "+p, f.Chtimes(f.ctx, p, time.Unix(10, 1000), time.Unix(20, 2000)))
		e.sameTime(t, p+" modified", f.lstat(p).Mtime, time.Unix(20, 2000))
	}
	e.sameTime(t, "file modified", f.lstat("file").Mtime, file)
	e.sameTime(t, "directory modified", f.lstat("dir").Mtime, dir)
}

// Modification times move when content does, and only then.
func testTimesMove(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	past := time.Unix(1_000_000, 0)
	reset := func() {
		t.Helper()
		for _, p := range []string{"file", "dir"} {
			must(t, "chtimes", f.Chtimes(f.ctx, p, past, past))
		}
	}
	moves := func(what, p string, want bool) {
		t.Helper()
		if got := !f.lstat(p).Mtime.Equal(past); got != want {
			t.Errorf("%s: %s was modified: %v, want %v", what, p, got, want)
		}
		reset()
	}
	reset()
	f.read("file")
	moves("read", "file", false)
	must(t, "chmod", f.Chmod(f.ctx, "file", 0o600))
	moves("chmod", "file", false)
	must(t, "truncate", f.Truncate(f.ctx, "file", 3))
	moves("truncate", "file", true)
	h := f.open("file", vole.OpenOptions{Write: true})
	_, err := h.WriteAt(f.ctx, []byte("x"), 0)
	must(t, "write", err)
	must(t, "sync", h.Sync(f.ctx))
	moves("write", "file", true)
	f.write("dir/new", "x")
	moves("a new file", "dir", true)
	f.write("full/other", "x")
	moves("a file elsewhere", "dir", false)
	f.remove("dir/new")
	moves("a removed file", "dir", true)
}

func testMknod(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	for i, m := range []fs.FileMode{0, 0o600, 0o666, 0o777, 0o711} {
		for what, kind := range map[string]fs.FileMode{"fifo": fs.ModeNamedPipe, "socket": fs.ModeSocket} {
			p := fmt.Sprint("dir/", what, i)
			must(t, "mknod "+p, f.Mknod(f.ctx, p, kind|m, 0))
			equal(t, "mode", f.lstat(p).Mode, kind|m)
			equal(t, "size", f.lstat(p).Size, 0)
		}
	}
	before := f.tree()
	cases := map[string]error{"file": vole.ErrExists, "dir": vole.ErrExists, ".": vole.ErrExists, "nosuch/x": vole.ErrNotExist, "file/x": vole.ErrNotDir}
	if e.caps.Links {
		cases["link"] = vole.ErrExists
	}
	for p, want := range cases {
		wantErr(t, "mknod "+p, f.Mknod(f.ctx, p, fs.ModeNamedPipe|0o600, 0), want)
	}
	f.unchanged("refused mknods", before)
	must(t, "rename", f.Rename(f.ctx, "dir/fifo0", "moved", vole.RenameOptions{}))
	f.remove("moved")
	f.used("nodes count nothing", int64(len("content")+len("inner")))
}
