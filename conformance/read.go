package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/volehq/vole"
)

var readTests = []test{
	{"ReadFile", testReadFile},
	{"Missing", testReadMissing},
	{"Ranges", testReaderRanges},
	{"Reader", testReaderContract},
	{"ReaderSeesReplaced", testReaderReplaced},
	{"Stat", testStat},
	{"StatLinks", testStatLinks},
	{"Exists", testExists},
	{"Statfs", testStatfs},
}

// sizes are lengths of files on both sides of where implementations cut them.
var sizes = []int{0, 1, 511, 4095, 4096, 4097, 65536, 1<<20 - 1, 1<<20 + 1, 3 << 20, 8<<20 + 5}

func testReadFile(t *testing.T, e *env) {
	f := e.files(t)
	for i, n := range sizes {
		p := fmt.Sprint("f", n)
		data := pattern(i, n)
		f.write(p, data)
		f.holds(p, data)
		equal(t, "size of "+p, f.lstat(p).Size, int64(n))
	}
}

func testReadMissing(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	cases := []struct {
		path string
		want error
	}{
		{"nosuch", vole.ErrNotExist},
		{"dir/nosuch", vole.ErrNotExist},
		{"nosuch/x", vole.ErrNotExist},
		{"file/x", vole.ErrNotDir},
		{"file/x/y", vole.ErrNotDir},
	}
	for _, o := range e.pathOps() {
		if o.last == makes || strings.Contains(o.name, "(to)") {
			continue // these want it missing
		}
		for _, c := range cases {
			err := o.run(f.ctx, f.FS, c.path)
			creates := o.last == unsaid && o.op == "mkdir" || o.op == "write" || o.name == "Open with Create"
			switch {
			case o.name == "Exists":
				ok(t, "exists "+c.path, err)
			case o.name == "RemoveAll" && c.want == vole.ErrNotDir:
				wantAny(t, "RemoveAll "+c.path, err, nil, c.want)
			case o.name == "RemoveAll" || creates && c.want == vole.ErrNotExist:
				// RemoveAll is content, and these make it: other tests look at them.
				for _, p := range []string{"nosuch", "dir/nosuch"} {
					must(t, "remove", f.RemoveAll(f.ctx, p))
				}
			default:
				wantErr(t, o.name+" "+c.path, err, c.want)
			}
		}
	}
	_, err := f.ReadFile(f.ctx, "dir")
	wantErr(t, "read a directory", err, vole.ErrIsDir)
	_, err = f.NewReader(f.ctx, ".", 0, -1)
	wantErr(t, "stream the root", err, vole.ErrIsDir)
}

func testReaderRanges(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(1, 600_000)
	f.write("f", data)
	const end = 600_000
	cases := []struct{ off, n, from, to int64 }{
		{0, -1, 0, end},
		{0, end, 0, end},
		{0, 0, 0, 0},
		{1, 1, 1, 2},
		{4095, 2, 4095, 4097},
		{100, 300_000, 100, 300_100},
		{end - 1, -1, end - 1, end},
		{end - 1, 100, end - 1, end},
		{end, -1, end, end},
		{end, 5, end, end},
		{end + 100, 5, end, end},
		{1 << 40, -1, end, end},
		{5, 1<<63 - 1, 5, end},
		{1<<63 - 1, 1<<63 - 1, end, end},
	}
	for _, c := range cases {
		what := fmt.Sprintf("range from %d of %d", c.off, c.n)
		want := data[c.from:c.to]
		r, err := f.NewReader(f.ctx, "f", c.off, c.n)
		must(t, what, err)
		got, err := io.ReadAll(r)
		if err != nil || string(got) != want {
			t.Errorf("%s: read %d bytes, %v, want %d", what, len(got), err, len(want))
		}
		ok(t, what+": close", r.Close())

		r, err = f.NewReader(f.ctx, "f", c.off, c.n)
		must(t, what, err)
		var b bytes.Buffer
		n, err := r.WriteTo(&b)
		if err != nil || n != int64(len(want)) || b.String() != want {
			t.Errorf("%s: WriteTo wrote %d bytes, %v, want %d", what, n, err, len(want))
		}
		ok(t, what+": close", r.Close())
	}
}

func testReaderContract(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(2, 20_000)
	f.write("f", data)
	r, err := f.NewReader(f.ctx, "f", 500, 10_000)
	must(t, "open", err)
	defer r.Close()
	ok(t, "reader", iotest.TestReader(r, []byte(data[500:10_500])))
	st, err := r.Stat()
	must(t, "stat", err)
	equal(t, "size", st.Size, int64(len(data)))

	r2, err := f.NewReader(f.ctx, "f", 0, -1)
	must(t, "open", err)
	ok(t, "close", r2.Close())
	_, err = r2.Read(make([]byte, 1))
	wantErr(t, "read after close", err, vole.ErrClosed)
}

// A stream goes on with the file it began with when the name gets another.
func testReaderReplaced(t *testing.T, e *env) {
	f := e.files(t)
	old := pattern(3, 300_000)
	f.write("f", old)
	r, err := f.NewReader(f.ctx, "f", 0, -1)
	must(t, "open", err)
	defer r.Close()
	head := make([]byte, 1000)
	_, err = io.ReadFull(r, head)
	must(t, "read the head", err)
	f.write("f", "new")
	rest, err := io.ReadAll(r)
	must(t, "read the rest", err)
	if string(head)+string(rest) != old {
		t.Error("the stream did not go on with the file it began with")
	}
	f.holds("f", "new")
}

func testStat(t *testing.T, e *env) {
	f := e.files(t)
	must(t, "write", f.WriteFile(f.ctx, "d/file", []byte(pattern(1, 10000)), 0o640))
	must(t, "fifo", f.Mknod(f.ctx, "fifo", fs.ModeNamedPipe|0o620, 0))
	must(t, "mkdir", f.Mkdir(f.ctx, "d/sub", 0o750))
	cases := []struct {
		path, name string
		mode       fs.FileMode
	}{
		{"d/file", "file", 0o640},
		{"d/sub", "sub", fs.ModeDir | 0o750},
		{"d", "d", fs.ModeDir | 0o755},
		{"fifo", "fifo", fs.ModeNamedPipe | 0o620},
	}
	inodes := map[uint64]string{}
	for _, c := range cases {
		for what, get := range map[string]func(string) vole.Entry{"stat": f.stat, "lstat": f.lstat} {
			got := get(c.path)
			equal(t, what+" name", got.Name, c.name)
			equal(t, what+" mode of "+c.path, got.Mode, c.mode)
			if got.Mtime.IsZero() || got.Ctime.IsZero() || got.Atime.IsZero() || got.Nlink == 0 || got.Inode == 0 {
				t.Errorf("%s %s: incomplete: %+v", what, c.path, got)
			}
			if other, is := inodes[got.Inode]; is && other != c.path {
				t.Errorf("%s and %s have inode %d", other, c.path, got.Inode)
			}
			inodes[got.Inode] = c.path
		}
	}
	file := f.lstat("d/file")
	equal(t, "size", file.Size, 10000)
	if file.Allocated < 10000 || file.Allocated > 1<<20 {
		t.Errorf("%d bytes are allocated for 10000", file.Allocated)
	}
	h := f.open("d/file", vole.OpenOptions{})
	byHandle, err := h.Stat(f.ctx)
	must(t, "stat by handle", err)
	byHandle.Atime = file.Atime
	if a, b := fmt.Sprintf("%+v", byHandle), fmt.Sprintf("%+v", file); a != b {
		t.Errorf("stat by handle %s, by path %s", a, b)
	}
}

func testStatLinks(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	f := e.files(t)
	f.write("d/file", "12345")
	for p, target := range map[string]string{
		"link": "d/file", "d/up": "../d/file", "dirlink": "d", "chain": "link", "dangling": "nosuch", "self": "self", "ping": "pong", "pong": "ping", "dot": ".",
	} {
		f.symlink(target, p)
		got := f.lstat(p)
		equal(t, "type of "+p, got.Mode.Type(), fs.ModeSymlink)
		equal(t, "size of "+p, got.Size, int64(len(target)))
	}
	inode := f.lstat("d/file").Inode
	for _, p := range []string{"link", "d/up", "chain", "dirlink/file", "dirlink/up", "dot/link", "dot/dot/d/file"} {
		got := f.stat(p)
		equal(t, "inode by "+p, got.Inode, inode)
		equal(t, "type by "+p, got.Mode.Type(), 0)
		f.holds(p, "12345")
	}
	equal(t, "stat of a link to a directory", f.stat("dirlink").IsDir(), true)
	for p, want := range map[string]error{"dangling": vole.ErrNotExist, "dangling/x": vole.ErrNotExist, "self": vole.ErrLoop, "ping/x": vole.ErrLoop, "link/x": vole.ErrNotDir} {
		_, err := f.Stat(f.ctx, p)
		wantErr(t, "stat "+p, err, want)
		_, err = f.ReadFile(f.ctx, p)
		wantErr(t, "read "+p, err, want)
	}
}

func testExists(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	for p, want := range map[string]bool{
		"file": true, "dir": true, ".": true, "full/x": true, "nosuch": false, "nosuch/x": false, "file/x": false, "full/y": false, "link": e.caps.Links,
	} {
		f.exists(p, want)
	}
	if e.caps.Links {
		f.symlink("nosuch", "dangling")
		f.exists("dangling", true)
		f.exists("dangling/x", false)
	}
}

func testStatfs(t *testing.T, e *env) {
	f := e.files(t)
	before, err := f.Statfs(f.ctx)
	must(t, "statfs", err)
	if before.Total <= 0 || before.Free <= 0 || before.Free > before.Total || before.Used != 0 || before.Files == 0 || before.Files < -1 {
		t.Errorf("statfs of an empty volume: %+v", before)
	}
	if c := int64(e.h.Spec.Capacity); c > 0 && before.Total > c {
		t.Errorf("statfs says %d bytes of an image of %d", before.Total, c)
	}
	f.write("f", pattern(1, 100_000))
	f.used("after a write", 100_000)
	if !e.caps.Quota || e.h.Spec.Kind != vole.KindDir {
		return
	}
	q := e.openFiles(t, e.createSpec(t, "q", vole.Spec{Quota: 12345}), vole.FSOptions{})
	q.write("f", pattern(1, 345))
	s, err := q.Statfs(f.ctx)
	must(t, "statfs", err)
	if s.Total != 12345 || s.Used != 345 || s.Free != 12000 {
		t.Errorf("statfs under a quota of 12345 with 345 used: %+v", s)
	}
	if _, err := q.WriteFrom(f.ctx, "g", strings.NewReader(pattern(1, 12001)), vole.WriteOptions{}); !errors.Is(err, vole.ErrQuota) {
		t.Errorf("write of more than is free: %v", err)
	}
	q.write("g", pattern(1, 12000))
}
