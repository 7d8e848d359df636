package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/testing/treemodel"
)

var fileTests = []test{
	{"ReadAt", testFileReadAt},
	{"WriteAt", testFileWriteAt},
	{"Gap", testFileGap},
	{"Truncate", testFileTruncate},
	{"TruncatePath", testTruncatePath},
	{"PunchHole", testFilePunchHole},
	{"NextData", testFileNextData},
	{"AppendConcurrent", testFileAppendConcurrent},
	{"AppendTwoStores", testFileAppendTwoStores},
	{"ConcurrentRegions", testFileConcurrentRegions},
	{"SeenByOthers", testFileSeenByOthers},
	{"Huge", testFileHuge},
}

func testFileReadAt(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(1, 10_000)
	f.write("f", data)
	h := f.open("f", vole.OpenOptions{})
	cases := []struct {
		off int64
		n   int
	}{{0, 1}, {0, 10_000}, {0, 10_001}, {5000, 100}, {9_999, 1}, {9_999, 2}, {10_000, 1}, {10_001, 5}, {1 << 50, 1}}
	for _, c := range cases {
		what := fmt.Sprintf("read %d at %d", c.n, c.off)
		b := make([]byte, c.n)
		n, err := h.ReadAt(f.ctx, b, c.off)
		want := data[min(c.off, 10_000):min(c.off+int64(c.n), 10_000)]
		if n != len(want) || string(b[:n]) != want {
			t.Errorf("%s: %d bytes, want %d", what, n, len(want))
		}
		if n < c.n && err != io.EOF || n == c.n && err != nil && err != io.EOF {
			t.Errorf("%s: %v with %d bytes", what, err, n)
		}
	}
	n, err := h.ReadAt(f.ctx, nil, 0)
	if n != 0 || err != nil && err != io.EOF {
		t.Errorf("read of nothing: %d, %v", n, err)
	}
}

// mirror is a file under test and what it should hold.
type mirror struct {
	f    *files
	h    *vole.File
	path string
	want []byte
}

func (m *mirror) grow(n int64) {
	if extra := n - int64(len(m.want)); extra > 0 {
		m.want = append(m.want, make([]byte, extra)...)
	}
}

func (m *mirror) writeAt(data string, off int64) {
	m.f.t.Helper()
	n, err := m.h.WriteAt(m.f.ctx, []byte(data), off)
	if err != nil || n != len(data) {
		m.f.t.Fatalf("write %d bytes at %d: %d, %v", len(data), off, n, err)
	}
	if n > 0 {
		m.grow(off + int64(n))
	}
	copy(m.want[min(off, int64(len(m.want))):], data)
}

func (m *mirror) truncate(n int64) {
	m.f.t.Helper()
	must(m.f.t, fmt.Sprint("truncate to ", n), m.h.Truncate(m.f.ctx, n))
	m.grow(n)
	m.want = m.want[:n:n]
}

func (m *mirror) punch(off, n int64) {
	m.f.t.Helper()
	must(m.f.t, fmt.Sprintf("punch %d bytes at %d", n, off), m.h.PunchHole(m.f.ctx, off, n))
	if size := int64(len(m.want)); off < size {
		clear(m.want[off:min(off+n, size)])
	}
}

// check compares by handle and by path.
func (m *mirror) check(what string) {
	m.f.t.Helper()
	got := make([]byte, len(m.want)+1)
	n, err := m.h.ReadAt(m.f.ctx, got, 0)
	if n != len(m.want) || err != io.EOF || !bytes.Equal(got[:n], m.want) {
		m.f.t.Errorf("%s: by handle: %d bytes, %v, want %d; first difference at %d", what, n, err, len(m.want), treemodel.FirstDifference(got[:n], m.want))
	}
	b, err := m.f.ReadFile(m.f.ctx, m.path)
	if err != nil || !bytes.Equal(b, m.want) {
		m.f.t.Errorf("%s: by path: %d bytes, %v, want %d; first difference at %d", what, len(b), err, len(m.want), treemodel.FirstDifference(b, m.want))
	}
	m.f.used(what, int64(len(m.want)))
}

func (f *files) mirror(p string) *mirror {
	f.t.Helper()
	return &mirror{f: f, h: f.open(p, vole.OpenOptions{Create: true}), path: p}
}

func testFileWriteAt(t *testing.T, e *env) {
	m := e.files(t).mirror("f")
	m.writeAt(pattern(1, 5000), 0)
	m.check("first write")
	m.writeAt(pattern(2, 100), 2000)
	m.check("within")
	m.writeAt(pattern(3, 1000), 4500)
	m.check("across the end")
	m.writeAt(pattern(4, 1), 5500)
	m.check("at the end")
	m.writeAt("", 100_000)
	m.check("nothing beyond the end")
	m.writeAt(pattern(5, 9<<20), 4095)
	m.check("a large one")
	must(t, "sync", m.h.Sync(t.Context()))
	m.check("after sync")
}

func testFileGap(t *testing.T, e *env) {
	m := e.files(t).mirror("f")
	m.writeAt("x", 1_000_000)
	m.check("gap at the beginning")
	m.writeAt("y", 3_000_000)
	m.check("gap in the middle")
}

// Truncated bytes do not reappear when the file grows again.
func testFileTruncate(t *testing.T, e *env) {
	m := e.files(t).mirror("f")
	m.writeAt(pattern(1, 100_000), 0)
	for _, n := range []int64{99_999, 50_001, 60_000, 4096, 4097, 8192, 0, 10, 2 << 20, 1, 0} {
		m.truncate(n)
		m.check(fmt.Sprint("truncated to ", n))
	}
	m.writeAt(pattern(2, 10), 5)
	m.check("written after truncate")
}

func testTruncatePath(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(1, 10_000)
	f.write("d/f", data)
	for _, n := range []int{5000, 5001, 0, 1 << 20, 100} {
		must(t, "truncate", f.Truncate(f.ctx, "d/f", int64(n)))
		equal(t, "size", f.lstat("d/f").Size, int64(n))
		f.used("after truncate", int64(n))
	}
	f.holds("d/f", strings.Repeat("\x00", 100))
	must(t, "chmod", f.Chmod(f.ctx, "d/f", 0o600))
	for p, want := range map[string]error{"d": vole.ErrIsDir, ".": vole.ErrIsDir, "nosuch": vole.ErrNotExist, "d/f/x": vole.ErrNotDir} {
		wantErr(t, "truncate "+p, f.Truncate(f.ctx, p, 0), want)
	}
	f.exists("nosuch", false)
}

func testFilePunchHole(t *testing.T, e *env) {
	m := e.files(t).mirror("f")
	m.writeAt(pattern(1, 4<<20), 0)
	must(t, "sync", m.h.Sync(t.Context()))
	before := m.f.lstat("f").Allocated
	for _, r := range [][2]int64{{1 << 20, 2 << 20}, {10, 5}, {4095, 2}, {0, 1}, {4<<20 - 1, 1}, {3<<20 + 100, 5000}, {4<<20 - 10, 1000}, {5 << 20, 100}} {
		m.punch(r[0], r[1])
		m.check(fmt.Sprintf("hole of %d at %d", r[1], r[0]))
	}
	must(t, "sync", m.h.Sync(t.Context()))
	if after := m.f.lstat("f").Allocated; e.caps.Holes && before-after < 1<<20 {
		t.Errorf("a hole of 2 MiB took the storage from %d to %d", before, after)
	}
	m.writeAt(pattern(2, 3000), 1<<20+1000)
	m.check("written into the hole")
}

// ranges returns all that NextData reports, and checks that it goes forward.
func ranges(t *testing.T, f *files, h *vole.File) [][2]int64 {
	t.Helper()
	var list [][2]int64
	for off := int64(0); ; {
		start, end, err := h.NextData(f.ctx, off)
		if err == io.EOF {
			return list
		}
		must(t, "next data", err)
		if start < off || end <= start {
			t.Fatalf("next data from %d: %d to %d", off, start, end)
		}
		list = append(list, [2]int64{start, end})
		off = end
	}
}

// Bytes outside of what NextData reports are zeros, whatever a backend's grain.
func testFileNextData(t *testing.T, e *env) {
	m := e.files(t).mirror("f")
	check := func(what string) {
		t.Helper()
		rest := slices.Clone(m.want)
		for _, r := range ranges(t, m.f, m.h) {
			if r[1] > int64(len(rest)) {
				t.Errorf("%s: data to %d of a file of %d bytes", what, r[1], len(rest))
				continue
			}
			clear(rest[r[0]:r[1]])
		}
		if i := bytes.IndexFunc(rest, func(r rune) bool { return r != 0 }); i >= 0 {
			t.Errorf("%s: the byte at %d is data that was not reported", what, i)
		}
	}
	check("empty")
	m.writeAt(pattern(1, 100), 3<<20)
	check("a gap and data")
	m.writeAt(pattern(2, 70_000), 0)
	check("data, a gap, data")
	m.truncate(6 << 20)
	check("a gap at the end")
	m.punch(3<<20, 4096)
	check("a hole")
	m.truncate(50_000)
	check("cut")
	for _, off := range []int64{50_000, 50_001, 1 << 40} {
		if start, end, err := m.h.NextData(m.f.ctx, off); err != io.EOF {
			t.Errorf("next data from %d of 50000: %d to %d, %v", off, start, end, err)
		}
	}
	start, end, err := m.h.NextData(m.f.ctx, 100)
	if err != nil || start != 100 || end > 50_000 {
		t.Errorf("next data from the middle of data: %d to %d, %v", start, end, err)
	}
}

// record returns the bytes of one append, which name its writer and its length.
func record(i, j int) string { return fmt.Sprintf("<%02d:%03d:%s>", i, j, strings.Repeat("x", j%50)) }

func appendMany(f *files, h *vole.File, i, n int) error {
	for j := range n {
		r := record(i, j)
		off, err := h.Append(f.ctx, []byte(r))
		if err != nil {
			return err
		}
		b := make([]byte, len(r))
		if _, err := h.ReadAt(f.ctx, b, off); err != nil && err != io.EOF || string(b) != r {
			return fmt.Errorf("at %d there is %q, not the appended %q (%v)", off, b, r, err)
		}
	}
	return nil
}

// Nothing that is appended is lost or mixed with what others append.
func checkAppended(t *testing.T, f *files, writers, n int) {
	t.Helper()
	got := f.read("log")
	size := 0
	for i := range writers {
		for j := range n {
			size += len(record(i, j))
			if strings.Count(got, record(i, j)) != 1 {
				t.Errorf("record %d of writer %d is there %d times", j, i, strings.Count(got, record(i, j)))
			}
		}
	}
	equal(t, "size", len(got), size)
	f.used("after appending", int64(size))
}

func testFileAppendConcurrent(t *testing.T, e *env) {
	f := e.files(t)
	f.write("log", "")
	shared := f.open("log", vole.OpenOptions{Write: true})
	errs := race(6, func(i int) error {
		if i < 3 {
			return appendMany(f, shared, i, 40)
		}
		h, err := f.Open(f.ctx, "log", vole.OpenOptions{Append: true})
		if err != nil {
			return err
		}
		return errors.Join(appendMany(f, h, i, 40), h.Close())
	})
	must(t, "append", errors.Join(errs...))
	checkAppended(t, f, 6, 40)
}

func testFileAppendTwoStores(t *testing.T, e *env) {
	need(t, e.h.Spec.Kind == vole.KindDir, "volumes that several write to")
	other := e.another(t)
	f := e.files(t)
	f.write("log", "")
	v, err := other.Get(f.ctx, "vol")
	must(t, "get", err)
	g := e.openFiles(t, v, vole.FSOptions{})
	errs := race(4, func(i int) error {
		fsys := f
		if i%2 == 1 {
			fsys = g
		}
		h, err := fsys.Open(f.ctx, "log", vole.OpenOptions{Append: true})
		if err != nil {
			return err
		}
		return errors.Join(appendMany(fsys, h, i, 40), h.Close())
	})
	must(t, "append", errors.Join(errs...))
	ok(t, "close", g.Close())
	checkAppended(t, f, 4, 40)
}

func testFileConcurrentRegions(t *testing.T, e *env) {
	f := e.files(t)
	const region = 100_003 // no multiple of any block
	h := f.open("f", vole.OpenOptions{Create: true})
	errs := race(8, func(i int) error {
		data := pattern(i, region)
		for off := 0; off < region; off += 9973 {
			end := min(off+9973, region)
			if _, err := h.WriteAt(f.ctx, []byte(data[off:end]), int64(i*region+off)); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "write", errors.Join(errs...))
	got := f.read("f")
	equal(t, "size", len(got), 8*region)
	for i := range 8 {
		if got[i*region:(i+1)*region] != pattern(i, region) {
			t.Errorf("region %d is not what was written", i)
		}
	}
	f.used("after all", 8*region)
}

// Bytes written through one handle are visible by path and through other handles before it is
// closed.
func testFileSeenByOthers(t *testing.T, e *env) {
	f := e.files(t)
	f.write("f", "old")
	a := f.open("f", vole.OpenOptions{Write: true})
	b := f.open("f", vole.OpenOptions{})
	_, err := a.WriteAt(f.ctx, []byte("newer"), 0)
	must(t, "write", err)
	f.holds("f", "newer")
	p := make([]byte, 5)
	_, err = b.ReadAt(f.ctx, p, 0)
	ok(t, "read", err)
	equal(t, "by another handle", string(p), "newer")
	equal(t, "size", f.lstat("f").Size, 5)
	st, err := b.Stat(f.ctx)
	must(t, "stat", err)
	equal(t, "size by another handle", st.Size, 5)

	must(t, "rename", f.Rename(f.ctx, "f", "g", vole.RenameOptions{}))
	_, err = a.WriteAt(f.ctx, []byte("after"), 0)
	ok(t, "write after a rename", err)
	f.holds("g", "after")
	f.exists("f", false)
}

// A sparse file may be larger than any memory.
func testFileHuge(t *testing.T, e *env) {
	need(t, e.caps.Holes, "holes")
	f := e.files(t)
	const size = 1 << 40
	h := f.open("f", vole.OpenOptions{Create: true})
	must(t, "truncate", h.Truncate(f.ctx, size))
	_, err := h.WriteAt(f.ctx, []byte("end"), size-3)
	must(t, "write at the end", err)
	must(t, "sync", h.Sync(f.ctx))
	e1 := f.lstat("f")
	equal(t, "size", e1.Size, int64(size))
	if e1.Allocated > 8<<20 {
		t.Errorf("%d bytes are allocated for 3", e1.Allocated)
	}
	b := make([]byte, 10)
	n, err := h.ReadAt(f.ctx, b, size-5)
	if n != 5 || err != io.EOF || string(b[:n]) != "\x00\x00end" {
		t.Errorf("at the end: %q, %v", b[:n], err)
	}
	f.used("with a sparse file", size)
	must(t, "copy", f.Copy(f.ctx, "f", "copy", vole.CopyOptions{}))
	e2 := f.lstat("copy")
	if e2.Size != size || e2.Allocated > 8<<20 {
		t.Errorf("the copy has %d bytes, %d allocated", e2.Size, e2.Allocated)
	}
	f.used("with a copy", 2*size)
	must(t, "punch", h.PunchHole(f.ctx, 0, size))
	must(t, "shrink", h.Truncate(f.ctx, 0))
	f.used("after shrinking", size)
}
