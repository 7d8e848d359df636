package conformance

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

var quotaTests = []test{
	{"Exact", testQuotaExact},
	{"Overwrite", testQuotaOverwrite},
	{"Handle", testQuotaHandle},
	{"Copy", testQuotaCopy},
	{"Free", testQuotaFree},
	{"NothingChanges", testQuotaNothingChanges},
	{"Endless", testQuotaEndless},
	{"SizeHint", testQuotaSizeHint},
	{"Unlinked", testQuotaUnlinked},
	{"Replaced", testQuotaReplaced},
	{"Tiny", testQuotaTiny},
	{"Race", testQuotaRace},
	{"RaceByHandle", testQuotaRaceByHandle},
}

// quotaFiles makes a volume of at most quota bytes and opens it.
func (e *env) quotaFiles(t *testing.T, quota int64) *files {
	t.Helper()
	need(t, e.caps.Quota && e.caps.Dir, "quotas")
	return e.openFiles(t, e.createSpec(t, "vol", vole.Spec{Quota: vole.Size(quota)}), vole.FSOptions{})
}

// over checks that an attempt is refused for the quota and changes nothing.
func (f *files) over(what string, attempt func() error) {
	f.t.Helper()
	s, err := f.Statfs(f.ctx)
	must(f.t, "statfs", err)
	before := f.tree()
	wantErr(f.t, what, attempt(), vole.ErrQuota)
	f.unchanged(what+", which the quota refuses,", before)
	f.used(what+", which the quota refuses", s.Used)
}

func (f *files) overWrite(p string, n int) {
	f.t.Helper()
	f.over(fmt.Sprintf("write %d bytes to %s", n, p), func() error {
		return f.WriteFile(f.ctx, p, []byte(pattern(n, n)), 0o644)
	})
}

func testQuotaExact(t *testing.T, e *env) {
	f := e.quotaFiles(t, 100_000)
	f.write("a", pattern(1, 60_000))
	f.used("first", 60_000)
	f.overWrite("b", 40_001)
	f.write("b", pattern(2, 40_000))
	f.used("to the last byte", 100_000)
	f.overWrite("c", 1)
	f.write("c", "")
	f.mkdir("d/e")
	f.remove("a")
	f.used("after removal", 40_000)
	f.overWrite("c", 60_001)
	f.write("c", pattern(3, 60_000))
	must(t, "remove all", f.RemoveAll(f.ctx, "d"))
	f.used("full again", 100_000)
}

// The bytes of a replaced file are available to its replacement.
func testQuotaOverwrite(t *testing.T, e *env) {
	f := e.quotaFiles(t, 100_000)
	f.write("a", pattern(1, 90_000))
	f.write("a", pattern(2, 90_000))
	f.used("replaced by as much", 90_000)
	f.write("a", pattern(3, 100_000))
	f.used("replaced by all there is", 100_000)
	f.overWrite("a", 100_001)
	f.write("a", pattern(4, 10))
	f.used("replaced by little", 10)
	f.write("b", pattern(5, 99_990))
	f.overWrite("a", 11)
	f.holds("a", pattern(4, 10))
}

func testQuotaHandle(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	h := f.open("f", vole.OpenOptions{Create: true})
	write := func(n int, off int64) func() error {
		return func() error { _, err := h.WriteAt(f.ctx, []byte(pattern(1, n)), off); return err }
	}
	app := func(n int) func() error {
		return func() error { _, err := h.Append(f.ctx, []byte(pattern(2, n))); return err }
	}
	trunc := func(n int64) func() error { return func() error { return h.Truncate(f.ctx, n) } }
	truncPath := func(n int64) func() error { return func() error { return f.Truncate(f.ctx, "f", n) } }
	steps := []struct {
		what string
		call func() error
		used int64 // -1: over the quota
	}{
		{"write", write(4000, 0), 4000},
		{"overwrite", write(4000, 0), 4000},
		{"write that crosses the quota", write(5000, 5001), -1},
		{"write beyond the quota", write(1, 10_000), -1},
		{"write far beyond", write(1, 1<<40), -1},
		{"write to the quota", write(5000, 5000), 10_000},
		{"overwrite in a full volume", write(10_000, 0), 10_000},
		{"append to a full volume", app(1), -1},
		{"extend a full volume", trunc(10_001), -1},
		{"extend a full volume by path", truncPath(10_001), -1},
		{"shrink", trunc(6000), 6000},
		{"append too much", app(4001), -1},
		{"append", app(4000), 10_000},
		{"shrink by path", truncPath(100), 100},
		{"extend by a hole", trunc(9000), 9000},
		{"extend too far", trunc(10_001), -1},
		{"write into the hole", write(5000, 2000), 9000},
		{"punch", func() error { return h.PunchHole(f.ctx, 0, 9000) }, 9000},
		{"punch beyond the end", func() error { return h.PunchHole(f.ctx, 8000, 90_000) }, 9000},
		{"empty", trunc(0), 0},
		{"leave a gap", write(10, 9990), 10_000},
	}
	for _, s := range steps {
		if s.used < 0 {
			f.over(s.what, s.call)
			continue
		}
		must(t, s.what, s.call())
		f.used(s.what, s.used)
	}
	f.over("create with content elsewhere", func() error { return f.WriteFile(f.ctx, "g", []byte("x"), 0o644) })
	g := f.open("f", vole.OpenOptions{Write: true, Truncate: true})
	f.used("truncated by opening", 0)
	must(t, "close", g.Close())
}

func testQuotaCopy(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	f.write("tree/a", pattern(1, 3000))
	f.write("tree/d/b", pattern(2, 1000))
	if e.caps.Links {
		f.link("tree/a", "tree/d/hard")
		f.symlink("a", "tree/soft")
	}
	f.used("the source", 4000)
	f.copy("tree", "copy")
	f.used("one copy", 8000)
	f.over("copy a tree", func() error { return f.Copy(f.ctx, "tree", "second", vole.CopyOptions{}) })
	f.over("copy a tree to new parents", func() error { return f.Copy(f.ctx, "tree", "new/parents/t", vole.CopyOptions{}) })
	f.over("copy a file", func() error { return f.Copy(f.ctx, "tree/a", "second", vole.CopyOptions{}) })
	f.copy("tree/d/b", "b1")
	f.copy("tree/d/b", "b2")
	f.used("full", 10_000)
	f.copy("tree/d/b", "b1") // in place of as much
	f.copy("b1", "b1")
	f.used("still full", 10_000)
	f.over("copy over something smaller", func() error { return f.Copy(f.ctx, "tree/a", "b1", vole.CopyOptions{}) })
	must(t, "remove", f.RemoveAll(f.ctx, "copy"))
	f.used("after removal", 6000)
	f.copy("tree/a", "b1")
	f.used("a larger file in its place", 8000)
}

// What holds no bytes of files is free.
func testQuotaFree(t *testing.T, e *env) {
	f := e.quotaFiles(t, 1000)
	f.write("f", pattern(1, 1000))
	f.mkdir("d/e/f/g")
	f.write("d/zero", "")
	must(t, "rename", f.Rename(f.ctx, "f", "d/f", vole.RenameOptions{}))
	must(t, "chmod", f.Chmod(f.ctx, "d/f", 0o600))
	if e.caps.Links {
		f.link("d/f", "again")
		f.symlink("d/f", "soft")
		f.remove("d/f")
		f.used("one of two names removed", 1000)
		f.overWrite("new", 1)
		must(t, "rename", f.Rename(f.ctx, "again", "d/f", vole.RenameOptions{}))
	}
	if e.caps.Xattrs {
		must(t, "setxattr", f.Setxattr(f.ctx, "d/f", "user.a", []byte(pattern(1, 500))))
	}
	f.used("all free things", 1000)
	f.remove("d/f")
	f.used("last name removed", 0)
}

// A refused write leaves no parents, no temporary files and no truncation behind.
func testQuotaNothingChanges(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	f.fixture()
	f.overWrite("new/parents/f", 20_000)
	f.overWrite("file", 20_000)
	f.over("write from a stream", func() error {
		_, err := f.WriteFrom(f.ctx, "dir/a/b", io.LimitReader(neverEnds{}, 10_001), vole.WriteOptions{})
		return err
	})
	f.over("exclusive write", func() error {
		_, err := f.WriteFrom(f.ctx, "dir/new", strings.NewReader(pattern(1, 10_000)), vole.WriteOptions{Exclusive: true})
		return err
	})
	f.write("dir/new", "the name is free")
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A source that never ends is cut off by the quota.
func testQuotaEndless(t *testing.T, e *env) {
	f := e.quotaFiles(t, 1<<20)
	f.write("f", "old")
	f.over("endless write", func() error {
		return within(t, func() error {
			_, err := f.WriteFrom(f.ctx, "f", neverEnds{}, vole.WriteOptions{})
			return err
		})
	})
	f.holds("f", "old")
}

// A size that is known to be too much is refused before anything is read. Few bytes may
// be read before anybody is asked.
func testQuotaSizeHint(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	f.write("f", "old")
	f.over("write of a known size", func() error {
		_, err := f.WriteFrom(f.ctx, "f", readerFunc(func([]byte) (int, error) {
			t.Error("the source was read although its size is too much")
			return 0, io.EOF
		}), vole.WriteOptions{Size: 1 << 20})
		return err
	})
	f.over("write of a sparse file, whose holes count", func() error {
		r, opts := sparse(10_001)
		_, err := f.WriteFrom(f.ctx, "f", r, opts)
		return err
	})
	n, err := f.WriteFrom(f.ctx, "f", io.LimitReader(neverEnds{}, 10_000), vole.WriteOptions{Size: 10_000})
	must(t, "write of a known size that fits", err)
	equal(t, "written", n, 10_000)
	f.over("write of more than was said", func() error {
		_, err := f.WriteFrom(f.ctx, "g", io.LimitReader(neverEnds{}, 100), vole.WriteOptions{Size: 1})
		return err
	})
}

// A file that lost its name counts until it is closed.
func testQuotaUnlinked(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	f.write("f", pattern(1, 6000))
	h := f.open("f", vole.OpenOptions{Write: true})
	f.remove("f")
	f.used("removed but open", 6000)
	f.overWrite("g", 4001)
	f.over("append without a name", func() error { _, err := h.Append(f.ctx, []byte(pattern(1, 4001))); return err })
	f.write("g", pattern(2, 4000))
	must(t, "close", h.Close())
	f.used("closed", 4000)
	f.write("f", pattern(3, 6000))
}

func testQuotaReplaced(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	f.write("a", pattern(1, 5000))
	f.write("b", pattern(2, 4000))
	must(t, "rename", f.Rename(f.ctx, "b", "a", vole.RenameOptions{}))
	f.used("replaced by a rename", 4000)
	h := f.open("a", vole.OpenOptions{})
	f.write("c", pattern(3, 2000))
	must(t, "rename", f.Rename(f.ctx, "c", "a", vole.RenameOptions{}))
	f.used("replaced by a rename, but open", 6000)
	f.overWrite("a", 6001) // the old a and the open one still count
	must(t, "close", h.Close())
	f.used("closed", 2000)
	h = f.open("a", vole.OpenOptions{})
	f.overWrite("a", 8001)
	f.write("a", pattern(4, 8000))
	f.used("an open file replaced", 10_000)
	must(t, "close", h.Close())
	f.used("closed", 8000)
}

func testQuotaTiny(t *testing.T, e *env) {
	f := e.quotaFiles(t, 1)
	f.overWrite("f", 2)
	f.write("f", "x")
	f.overWrite("g", 1)
	f.remove("f")
	f.write("g", "y")
	f.used("one byte", 1)
}

// Many write at once: as many succeed as fit, none more and none fewer.
func testQuotaRace(t *testing.T, e *env) {
	const size, fit = 1000, 40
	f := e.quotaFiles(t, size*fit+size-1)
	errs := race(60, func(i int) error { return f.WriteFile(f.ctx, fmt.Sprint("f", i), []byte(pattern(i, size)), 0o644) })
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			f.holds(fmt.Sprint("f", i), pattern(i, size))
			continue
		}
		wantErr(t, "write", err, vole.ErrQuota)
		f.exists(fmt.Sprint("f", i), false)
	}
	equal(t, "files that were written", won, fit)
	f.used("after the race", size*fit)
	f.write("last", pattern(1, size-1))
	f.overWrite("more", 1)
}

func testQuotaRaceByHandle(t *testing.T, e *env) {
	const quota = 50_000
	record := pattern(1, 95)
	f := e.quotaFiles(t, quota)
	f.write("shared", "")
	shared := f.open("shared", vole.OpenOptions{Write: true})
	errs := race(8, func(i int) error {
		own, err := f.Open(f.ctx, fmt.Sprint("own", i), vole.OpenOptions{Create: true})
		if err != nil {
			return err
		}
		for j := range 80 { // 8 times 80 times 95 bytes are more than fit
			h := []*vole.File{own, shared}[j%2]
			if _, err := h.Append(f.ctx, []byte(record)); err != nil && !errors.Is(err, vole.ErrQuota) {
				return err
			}
			if s, err := f.Statfs(f.ctx); err != nil || s.Used > quota || s.Free < 0 {
				return fmt.Errorf("statfs %+v: %w", s, err)
			}
		}
		return own.Close()
	})
	must(t, "append", errors.Join(errs...))
	whole := int64(quota / len(record) * len(record))
	f.used("after the race", whole)
	info, err := f.vol.Measure(f.ctx)
	must(t, "measure", err)
	equal(t, "measured", int64(info.Used), whole)
}
