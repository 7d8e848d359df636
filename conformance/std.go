package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"testing"
	"testing/fstest"

	"github.com/volehq/vole"
)

var stdTests = []test{
	{"TestFS", testStdFS},
	{"Walk", testStdWalk},
	{"Errors", testStdErrors},
	{"Seek", testStdSeek},
	{"HTTP", testStdHTTP},
}

func testStdFS(t *testing.T, e *env) {
	f := e.files(t)
	want := []string{"a", "d/b", "d/e/c", "d/zero", "empty"}
	f.write("a", "data")
	f.write("d/b", pattern(1, 10_000))
	f.write("d/e/c", "c")
	f.write("d/zero", "")
	f.mkdir("empty")
	if e.caps.Links {
		f.symlink("a", "link")
		f.symlink("../a", "d/uplink")
		want = append(want, "link", "d/uplink")
	}
	ok(t, "TestFS", fstest.TestFS(f.Std(f.ctx), want...))
	sub, err := fs.Sub(f.Std(f.ctx), "d")
	must(t, "sub", err)
	b, err := fs.ReadFile(sub, "e/c")
	if err != nil || string(b) != "c" {
		t.Errorf("read in a subtree: %q, %v", b, err)
	}
}

func testStdWalk(t *testing.T, e *env) {
	f := e.files(t)
	f.garden("g")
	want := f.tree()
	got := 0
	err := fs.WalkDir(f.Std(f.ctx), "g", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		got++
		info, err := d.Info()
		if err != nil {
			return err
		}
		entry := f.lstat(p)
		if info.Mode() != entry.Mode || info.Size() != entry.Size || !info.ModTime().Equal(entry.Mtime) || d.Name() != path.Base(p) {
			return fmt.Errorf("%s is %v, %d, %v by the walk", p, info.Mode(), info.Size(), info.ModTime())
		}
		if sys, is := info.Sys().(vole.Entry); !is || sys.Inode != entry.Inode {
			return fmt.Errorf("%s: Sys is %T", p, info.Sys())
		}
		return nil
	})
	ok(t, "walk", err)
	delete(want, "lost+found") // of a disk volume, not part of the walk
	equal(t, "entries", got, len(want))
}

func testStdErrors(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	std := f.Std(f.ctx)
	cases := []struct {
		path string
		want error
	}{
		{"nosuch", fs.ErrNotExist}, {"../x", fs.ErrInvalid}, {"/file", fs.ErrInvalid}, {"file/", fs.ErrInvalid}, {"", fs.ErrInvalid}, {"file/x", vole.ErrNotDir},
	}
	for _, c := range cases {
		errs := map[string]error{}
		_, errs["open"] = std.Open(c.path)
		_, errs["stat"] = fs.Stat(std, c.path)
		_, errs["read"] = fs.ReadFile(std, c.path)
		_, errs["list"] = fs.ReadDir(std, c.path)
		_, errs["lstat"] = fs.Lstat(std, c.path)
		_, errs["readlink"] = fs.ReadLink(std, c.path)
		for op, err := range errs {
			pe := (*fs.PathError)(nil)
			if !errors.Is(err, c.want) || !errors.As(err, &pe) || pe.Path != c.path {
				t.Errorf("%s %q: %v, want a PathError that is %v", op, c.path, err, c.want)
			}
		}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	std = f.Std(ctx)
	cancel()
	if _, err := fs.ReadFile(std, "file"); !errors.Is(err, context.Canceled) {
		t.Errorf("read under a cancelled context: %v", err)
	}
}

func testStdSeek(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(1, 5000)
	f.write("f", data)
	file, err := f.Std(f.ctx).Open("f")
	must(t, "open", err)
	defer file.Close()
	s := file.(io.ReadSeeker)
	b := make([]byte, 10)
	for _, c := range []struct {
		off    int64
		whence int
		want   int64
	}{{100, io.SeekStart, 100}, {-50, io.SeekCurrent, 60}, {-10, io.SeekEnd, 4990}, {0, io.SeekStart, 0}} {
		at, err := s.Seek(c.off, c.whence)
		if err != nil || at != c.want {
			t.Fatalf("seek %d from %d: %d, %v, want %d", c.off, c.whence, at, err, c.want)
		}
		_, err = io.ReadFull(s, b)
		must(t, "read", err)
		equal(t, "read after a seek", string(b), data[c.want:c.want+10])
	}
	if _, err := s.Seek(-1, io.SeekStart); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("seek to -1: %v", err)
	}
	ra := file.(io.ReaderAt)
	_, err = ra.ReadAt(b, 4000)
	must(t, "read at", err)
	equal(t, "read at", string(b), data[4000:4010])
}

// The standard file server, ranges included, works over a volume.
func testStdHTTP(t *testing.T, e *env) {
	f := e.files(t)
	data := pattern(1, 5000)
	f.write("d/f.bin", data)
	srv := httptest.NewServer(http.FileServerFS(f.Std(f.ctx)))
	defer srv.Close()
	for _, c := range []struct {
		path, rng string
		status    int
		want      string
	}{
		{"/d/f.bin", "", 200, data},
		{"/d/f.bin", "bytes=10-19", 206, data[10:20]},
		{"/d/f.bin", "bytes=-7", 206, data[4993:]},
		{"/nosuch", "", 404, ""},
		{"/d/../../etc/passwd", "", 404, ""},
	} {
		req, err := http.NewRequestWithContext(f.ctx, "GET", srv.URL+c.path, nil)
		must(t, "request", err)
		if c.rng != "" {
			req.Header.Set("Range", c.rng)
		}
		res, err := srv.Client().Do(req)
		must(t, "get", err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		must(t, "read", err)
		equal(t, c.path+" "+c.rng+": status", res.StatusCode, c.status)
		if c.status < 300 && string(body) != c.want {
			t.Errorf("%s %s: %d bytes, want %d", c.path, c.rng, len(body), len(c.want))
		}
	}
}
