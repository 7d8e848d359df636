package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
)

var writeTests = []test{
	{"Replace", testWriteReplace},
	{"Parents", testWriteParents},
	{"DanglingParent", testWriteDanglingParent},
	{"Modes", testWriteModes},
	{"Meta", testWriteMeta},
	{"Exclusive", testWriteExclusive},
	{"Refused", testWriteRefused},
	{"OverLinks", testWriteOverLinks},
	{"ReaderFails", testWriteReaderFails},
	{"SizeHint", testWriteSizeHint},
	{"OddReaders", testWriteOddReaders},
	{"Sparse", testWriteSparse},
	{"SparseRefused", testWriteSparseRefused},
	{"NeverTorn", testWriteNeverTorn},
	{"ConcurrentWriters", testWriteConcurrent},
	{"SlowSource", testWriteSlowSource},
}

func testWriteReplace(t *testing.T, e *env) {
	f := e.files(t)
	for i, n := range sizes {
		data := pattern(i, n)
		got, err := f.WriteFrom(f.ctx, "f", strings.NewReader(data), vole.WriteOptions{})
		must(t, "write", err)
		equal(t, "bytes written", got, int64(n))
		f.holds("f", data)
	}
	f.write("f", "short")
	f.holds("f", "short")
	f.hasNames(".", rootNames(e, "f")...)
	f.used("after replacing", 5)
}

// rootNames are the names in the root of a volume that holds list, sorted: ext4 puts
// one of its own there.
func rootNames(e *env, list ...string) []string {
	if e.h.Spec.Kind != vole.KindDisk {
		return list
	}
	for i, n := range list {
		if n > "lost+found" {
			return append(append(append([]string{}, list[:i]...), "lost+found"), list[i:]...)
		}
	}
	return append(append([]string{}, list...), "lost+found")
}

func testWriteParents(t *testing.T, e *env) {
	f := e.files(t)
	f.write("a/b/c/d/e/f", "deep")
	for _, p := range []string{"a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/e"} {
		equal(t, "mode of "+p, f.lstat(p).Mode, fs.ModeDir|0o755)
	}
	must(t, "chmod", f.Chmod(f.ctx, "a/b", 0o700))
	f.write("a/b/x/y", "beside")
	equal(t, "mode of a parent that was there", f.lstat("a/b").Mode, fs.ModeDir|0o700)

	long := strings.Repeat("long-element-name/", 60) + "f"
	f.write(long, "long")
	f.holds(long, "long")
	if e.caps.Links {
		f.symlink("a/b", "ln")
		f.write("ln/new/f", "through a link")
		f.holds("a/b/new/f", "through a link")
		f.isLink("ln", "a/b")
	}
}

// A link to a directory that is missing is a missing path, not something in the way.
func testWriteDanglingParent(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("file", "x")
	f.symlink("nosuch", "dangling")
	f.symlink("file", "tofile")
	before := f.tree()
	for what, call := range map[string]func(p string) error{
		"write": func(p string) error { return f.WriteFile(f.ctx, p, nil, 0o644) },
		"mkdir": func(p string) error { return f.MkdirAll(f.ctx, p, 0o755) },
		"copy":  func(p string) error { return f.Copy(f.ctx, "file", p, vole.CopyOptions{}) },
	} {
		for _, p := range []string{"dangling/x", "dangling/x/y"} {
			if err := call(p); err != nil {
				wantErr(t, what+" "+p, err, vole.ErrNotExist)
			}
			must(t, "clean up", f.RemoveAll(f.ctx, "nosuch"))
		}
		wantErr(t, what+" through a link to a file", call("tofile/x"), vole.ErrNotDir)
		f.unchanged(what, before)
	}
}

var permissions = []fs.FileMode{
	0o400, 0o600, 0o640, 0o644, 0o666, 0o700, 0o755, 0o777, 0o200, 0o111,
	fs.ModeSetuid | 0o755, fs.ModeSetgid | 0o755, fs.ModeSticky | 0o644,
}

// Modes are exact, whatever the process's umask.
func testWriteModes(t *testing.T, e *env) {
	f := e.files(t)
	for i, m := range permissions {
		p := fmt.Sprint("f", i)
		must(t, "write", f.WriteFile(f.ctx, p, []byte("x"), m))
		equal(t, "mode of a new file", f.lstat(p).Mode, m)
		must(t, "write again", f.WriteFile(f.ctx, p, []byte("y"), 0))
		equal(t, "mode kept", f.lstat(p).Mode, m)
		must(t, "write with another mode", f.WriteFile(f.ctx, p, []byte("z"), 0o604))
		equal(t, "mode set", f.lstat(p).Mode, 0o604)
	}
	must(t, "write", f.WriteFile(f.ctx, "zero", nil, 0))
	equal(t, "mode by default", f.lstat("zero").Mode, 0o644)
}

func testWriteExclusive(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	if e.caps.Links {
		f.symlink("nosuch", "dangling")
	}
	before := f.tree()
	for p := range before {
		if f.lstat(p).IsDir() {
			continue
		}
		_, err := f.WriteFrom(f.ctx, p, strings.NewReader("x"), vole.WriteOptions{Exclusive: true})
		wantErr(t, "exclusive write to "+p, err, vole.ErrExists)
	}
	_, err := f.WriteFrom(f.ctx, "dir", strings.NewReader("x"), vole.WriteOptions{Exclusive: true})
	wantAny(t, "exclusive write to a directory", err, vole.ErrExists, vole.ErrIsDir)
	f.unchanged("refused exclusive writes", before)
	for i := range 3 {
		p := fmt.Sprint("race", i)
		var winner atomic.Int64
		oneWins(t, race(8, func(i int) error {
			_, err := f.WriteFrom(f.ctx, p, strings.NewReader(fmt.Sprint(i)), vole.WriteOptions{Exclusive: true})
			if err == nil {
				winner.Store(int64(i))
			}
			return err
		}), vole.ErrExists)
		f.holds(p, fmt.Sprint(winner.Load()))
	}
}

func testWriteRefused(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for p, want := range map[string]error{
		"dir": vole.ErrIsDir, "full": vole.ErrIsDir, ".": vole.ErrIsDir, "": vole.ErrIsDir, "file/x": vole.ErrNotDir, "file/x/y/z": vole.ErrNotDir,
	} {
		wantErr(t, fmt.Sprintf("write to %q", p), f.WriteFile(f.ctx, p, []byte("x"), 0o644), want)
	}
	f.unchanged("refused writes", before)
	f.used("after refused writes", int64(len("content")+len("inner")))
}

// A link is replaced, not followed; another name of the replaced file keeps it.
func testWriteOverLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("target", "old")
	f.mkdir("dir")
	f.link("target", "hard")
	for p, target := range map[string]string{"soft": "target", "dangling": "nosuch", "dirlink": "dir", "loop": "loop"} {
		f.symlink(target, p)
		f.write(p, "new in "+p)
		equal(t, "type of "+p, f.lstat(p).Mode, 0o644)
		f.holds(p, "new in "+p)
	}
	f.holds("target", "old")
	f.hasNames("dir")
	f.exists("nosuch", false)

	f.write("hard", "changed")
	f.holds("target", "old")
	equal(t, "links of the old file", f.lstat("target").Nlink, 1)
	equal(t, "links of the new file", f.lstat("hard").Nlink, 1)
}

var errReader = errors.New("the source broke")

// failAfter yields what it holds and then fails.
func failAfter(data string) io.Reader { return failWith(data, errReader) }

func failWith(data string, err error) io.Reader {
	return io.MultiReader(strings.NewReader(data), readerFunc(func([]byte) (int, error) { return 0, err }))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// When the source fails, the volume is as it was: the old file, no new directories,
// nothing half-written under any name.
func testWriteReaderFails(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, n := range []int{0, 1, 5000, 3 << 20, 9 << 20} {
		for _, p := range []string{"file", "full/x", "new", "new/parents/f", "dir/sub/f"} {
			_, err := f.WriteFrom(f.ctx, p, failAfter(pattern(1, n)), vole.WriteOptions{})
			if !errors.Is(err, errReader) {
				t.Errorf("write to %s from a source that fails after %d bytes: %v", p, n, err)
			}
		}
		f.unchanged(fmt.Sprintf("a source that fails after %d bytes", n), before)
	}
	// As archives and bodies of requests say that they were cut off.
	for _, n := range []int{1, 5000, 3 << 20} {
		if _, err := f.WriteFrom(f.ctx, "file", failWith(pattern(1, n), io.ErrUnexpectedEOF), vole.WriteOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("write from a source that is cut off after %d bytes: %v", n, err)
		}
		f.unchanged(fmt.Sprintf("a source that is cut off after %d bytes", n), before)
	}
	f.used("after failed writes", int64(len("content")+len("inner")))
}

// Size is a hint: the length of the source decides.
func testWriteSizeHint(t *testing.T, e *env) {
	f := e.files(t)
	for _, hint := range []int64{0, 1, 99, 100, 101, 1 << 30} {
		n, err := f.WriteFrom(f.ctx, "f", strings.NewReader(pattern(1, 100)), vole.WriteOptions{Size: hint})
		must(t, fmt.Sprint("write with size ", hint), err)
		equal(t, "bytes written", n, 100)
		f.holds("f", pattern(1, 100))
		f.used("after the write", 100)
	}
}

func testWriteOddReaders(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(4, 300_000)
	one := 0
	readers := map[string]io.Reader{
		"byte by byte": readerFunc(func(p []byte) (int, error) {
			if one == 2000 {
				return 0, io.EOF
			}
			p[0] = data[one]
			one++
			return 1, nil
		}),
		"with EOF": &eofReader{data},
		"with empty reads": io.MultiReader(emptyReads(3), strings.NewReader(data[:7]), emptyReads(3),
			strings.NewReader(data[7:])),
		"WriterTo": bytes.NewBufferString(data),
	}
	for what, r := range readers {
		_, err := f.WriteFrom(f.ctx, "f", r, vole.WriteOptions{})
		must(t, "write "+what, err)
		want := data
		if what == "byte by byte" {
			want = data[:2000]
		}
		if f.read("f") != want {
			t.Errorf("%s: the file differs from what was written", what)
		}
	}
}

// ranged is a source of a sparse file: list has the offset of each range and its data.
type ranged struct {
	list []rangeData
	io.Reader
}

type rangeData struct {
	off  int64
	data string
}

// sparse returns a source of these ranges and the options that go with it.
func sparse(size int64, list ...rangeData) (io.Reader, vole.WriteOptions) {
	r := &ranged{list: list, Reader: strings.NewReader("")}
	return r, vole.WriteOptions{Size: size, NextData: func(context.Context) (off, n int64, err error) {
		if len(r.list) == 0 {
			return 0, 0, io.EOF
		}
		next := r.list[0]
		r.list, r.Reader = r.list[1:], strings.NewReader(next.data)
		return next.off, int64(len(next.data)), nil
	}}
}

// A source that says where its data belongs makes a file that holds it there, and
// zeros elsewhere, which take no storage where the backend knows of holes.
func testWriteSparse(t *testing.T, e *env) {
	f := e.files(t)
	for _, list := range [][]rangeData{
		{},
		{{0, "first"}},
		{{0, pattern(1, 300_000)}, {300_000, "adjacent"}, {1_999_999, "x"}},
		{{7, "odd"}, {4096, ""}, {1_000_001, pattern(2, 5000)}},
	} {
		want := make([]byte, 2_000_000)
		for _, d := range list {
			copy(want[d.off:], d.data)
		}
		r, opts := sparse(int64(len(want)), list...)
		n, err := f.WriteFrom(f.ctx, "new/f", r, opts)
		must(t, "write", err)
		equal(t, "size returned", n, int64(len(want)))
		f.holds("new/f", string(want))
		f.used("a sparse file", int64(len(want)))
	}
	r, opts := sparse(0)
	_, err := f.WriteFrom(f.ctx, "new/f", r, opts)
	must(t, "write an empty one", err)
	f.holds("new/f", "")
	if !e.caps.Holes {
		return
	}
	// Too large to write the zeros one by one.
	r, opts = sparse(1<<40, rangeData{1 << 39, "middle"})
	_, err = f.WriteFrom(f.ctx, "huge", r, opts)
	must(t, "write 1 TiB of holes", err)
	if got := f.lstat("huge"); got.Size != 1<<40 || got.Allocated > 4<<20 {
		t.Errorf("%d bytes, %d allocated, for 6 bytes of data in 1 TiB", got.Size, got.Allocated)
	}
}

// Ranges that make no sense, and a source that ends or fails early, change nothing.
func testWriteSparseRefused(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for what, list := range map[string][]rangeData{
		"descending":  {{500, "x"}, {400, "x"}},
		"overlapping": {{500, "xx"}, {501, "x"}},
		"too far":     {{999, "xx"}},
		"beyond":      {{1001, ""}},
		"negative":    {{-1, "x"}},
	} {
		r, opts := sparse(1000, list...)
		if _, err := f.WriteFrom(f.ctx, "file", r, opts); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%s ranges: %v", what, err)
		}
	}
	r, opts := sparse(-1)
	if _, err := f.WriteFrom(f.ctx, "file", r, opts); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("a negative size: %v", err)
	}
	_, opts = sparse(1000, rangeData{10, "four"})
	if _, err := f.WriteFrom(f.ctx, "file", strings.NewReader("not"), opts); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source that ends within a range: %v", err)
	}
	_, opts = sparse(1000, rangeData{10, "four"})
	if _, err := f.WriteFrom(f.ctx, "file", failAfter("no"), opts); !errors.Is(err, errReader) {
		t.Errorf("a source that fails within a range: %v", err)
	}
	opts.NextData = func(context.Context) (off, n int64, err error) { return 0, 0, errReader }
	if _, err := f.WriteFrom(f.ctx, "file", strings.NewReader(""), opts); !errors.Is(err, errReader) {
		t.Errorf("ranges that fail: %v", err)
	}
	f.unchanged("refused sparse files", before)
}

// eofReader returns io.EOF together with the last bytes.
type eofReader struct{ rest string }

func (r *eofReader) Read(p []byte) (int, error) {
	n := copy(p, r.rest)
	if r.rest = r.rest[n:]; r.rest == "" {
		return n, io.EOF
	}
	return n, nil
}

// emptyReads returns 0, nil n times.
func emptyReads(n int) io.Reader {
	return readerFunc(func([]byte) (int, error) {
		if n--; n < 0 {
			return 0, io.EOF
		}
		return 0, nil
	})
}
