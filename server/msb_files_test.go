package server

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/accounts"
)

type msbFile struct {
	Path     string    `json:"path"`
	Kind     string    `json:"kind"`
	Size     int64     `json:"size"`
	Mode     uint32    `json:"mode"`
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Readonly bool      `json:"readonly"`
	Accessed time.Time `json:"accessed_at"`
	Modified time.Time `json:"modified_at"`
}

// msbFS is the files of one volume on the wire.
type msbFS struct {
	*msbServer
	key, url string
	files    *vole.FS // by the back door
}

func newMSBFS(t *testing.T) *msbFS {
	t.Helper()
	s := startMSB(t, t.TempDir())
	f := &msbFS{msbServer: s, key: s.key(t, accounts.Write)}
	v := s.create(t, f.key, `{"name":"a"}`)
	f.url = "/v1/volumes/" + v.ID + "/files"
	store, err := s.core.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := store.Get(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if f.files, err = vol.FS(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.files.Close() })
	return f
}

func (f *msbFS) write(t *testing.T, path, body string) {
	t.Helper()
	f.want(t, f.key, "PUT", f.url+"/content", body, nil, msbPathHeader(path)...)
}

func (f *msbFS) stat(t *testing.T, path string) msbFile {
	t.Helper()
	var out struct{ Metadata msbFile }
	f.want(t, f.key, "GET", f.url+"/stat", "", &out, msbPathHeader(path)...)
	return out.Metadata
}

// list returns the entries of a directory as path, kind and size.
func (f *msbFS) list(t *testing.T, path string) (list []string) {
	t.Helper()
	var out struct{ Entries []msbFile }
	f.want(t, f.key, "GET", f.url, "", &out, msbPathHeader(path)...)
	if out.Entries == nil {
		t.Errorf("no entries in the list of %s", path)
	}
	for _, e := range out.Entries {
		list = append(list, fmt.Sprintf("%s %s %d", e.Path, e.Kind, e.Size))
	}
	return list
}

func (f *msbFS) exists(t *testing.T, path string) bool {
	t.Helper()
	var out struct{ Exists *bool }
	f.want(t, f.key, "GET", f.url+"/exists", "", &out, msbPathHeader(path)...)
	return *out.Exists
}

func TestMSBFiles(t *testing.T) {
	f := newMSBFS(t)
	f.write(t, "a/b/c.txt", "hello world")
	f.want(t, f.key, "POST", f.url+"/mkdir", `{"path":"/d/e"}`, nil)
	f.want(t, f.key, "POST", f.url+"/mkdir", `{"path":"/d/e"}`, nil)
	f.want(t, f.key, "POST", f.url+"/copy", `{"from":"/a/b/c.txt","to":"/new/c2"}`, nil)
	f.want(t, f.key, "POST", f.url+"/rename", `{"from":"/new/c2","to":"/d/c3"}`, nil)
	if got, want := f.list(t, "/"), []string{"/a directory 0", "/d directory 0", "/new directory 0"}; !slices.Equal(got, want) {
		t.Errorf("list %q", got)
	}
	if got, want := f.list(t, "d/"), []string{"/d/c3 file 11", "/d/e directory 0"}; !slices.Equal(got, want) {
		t.Errorf("list %q", got)
	}
	if got := f.list(t, "d/e"); len(got) != 0 {
		t.Errorf("list %q", got)
	}
	m := f.stat(t, "a/b/c.txt")
	if m.Path != "/a/b/c.txt" || m.Kind != "file" || m.Size != 11 || m.Mode != 0o100644 || m.Readonly || time.Since(m.Modified) > time.Minute {
		t.Errorf("stat %+v", m)
	}
	if err := f.files.Chmod(t.Context(), "a/b/c.txt", 0o444); err != nil {
		t.Fatal(err)
	}
	if m := f.stat(t, "/a/b/c.txt"); m.Mode != 0o100444 || !m.Readonly {
		t.Errorf("stat %+v", m)
	}
	if m := f.stat(t, ""); m.Path != "/" || m.Kind != "directory" || m.Mode != 0o040755 {
		t.Errorf("stat %+v", m)
	}
	for path, want := range map[string]bool{"": true, "/a": true, "a/b/c.txt": true, "/x": false, "/a/b/c.txt/x": false} {
		if got := f.exists(t, path); got != want {
			t.Errorf("exists %q: %v", path, got)
		}
	}
	for rng, want := range map[string]string{"bytes=6-": "world", "bytes=0-4": "hello", "bytes=-1": "d"} {
		status, head, body := f.call(t, f.key, "GET", f.url+"/content", "", append(msbPathHeader("a/b/c.txt"), "Range", rng)...)
		if status != http.StatusPartialContent || body != want || head.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: %d %q %v", rng, status, body, head)
		}
	}
	f.want(t, f.key, "DELETE", f.url, "", nil, msbPathHeader("/d/c3")...)
	f.want(t, f.key, "DELETE", f.url, "", nil, append(msbPathHeader("/d/e"), "x-msb-file-recursive", "false")...)
	f.want(t, f.key, "DELETE", f.url, "", nil, append(msbPathHeader("/a"), "x-msb-file-recursive", "true")...)
	if got, want := f.list(t, ""), []string{"/d directory 0", "/new directory 0"}; !slices.Equal(got, want) {
		t.Errorf("list %q", got)
	}
}

func TestMSBManyFiles(t *testing.T) {
	f := newMSBFS(t)
	for i := range 1300 {
		if err := f.files.WriteFile(t.Context(), fmt.Sprintf("d/%04d", i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	got := f.list(t, "/d")
	if len(got) != 1300 || !slices.IsSorted(got) || got[1299] != "/d/1299 file 0" {
		t.Errorf("%d entries", len(got))
	}
}

// TestMSBLinks: the dialect has no links; they are what they lead to.
func TestMSBLinks(t *testing.T) {
	f := newMSBFS(t)
	f.write(t, "dir/file", "12345")
	for name, target := range map[string]string{"to-dir": "dir", "to-file": "dir/file", "dangling": "nowhere", "out": "../../../../etc/passwd", "loop": "loop"} {
		if err := f.files.Symlink(t.Context(), target, name); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"/dangling file 0", "/dir directory 0", "/loop file 0", "/out file 0", "/to-dir directory 0", "/to-file file 5"}
	if got := f.list(t, "/"); !slices.Equal(got, want) {
		t.Errorf("list %q", got)
	}
	if got := f.list(t, "/to-dir"); !slices.Equal(got, []string{"/to-dir/file file 5"}) {
		t.Errorf("list %q", got)
	}
	for _, line := range want {
		path, rest, _ := strings.Cut(line, " ")
		if m := f.stat(t, path); fmt.Sprintf("%s %d", m.Kind, m.Size) != rest || !f.exists(t, path) {
			t.Errorf("stat %+v", m)
		}
	}
	if _, _, body := f.call(t, f.key, "GET", f.url+"/content", "", msbPathHeader("to-file")...); body != "12345" {
		t.Errorf("read %q", body)
	}
	f.refuse(t, f.key, "GET", f.url+"/content", "", 404, "volume_file_not_found", msbPathHeader("dangling")...)
	f.refuse(t, f.key, "GET", f.url+"/content", "", 400, "invalid_volume_path", msbPathHeader("out")...)
	f.refuse(t, f.key, "PUT", f.url+"/content", "x", 400, "invalid_volume_path", msbPathHeader("out/x")...)
	for _, name := range []string{"to-dir", "to-file", "dangling", "out", "loop"} {
		f.want(t, f.key, "DELETE", f.url, "", nil, append(msbPathHeader(name), "x-msb-file-recursive", fmt.Sprint(name < "m"))...)
	}
	if got := f.list(t, "/dir"); !slices.Equal(got, []string{"/dir/file file 5"}) {
		t.Errorf("removing a link removed more: %q", got)
	}
}

func TestMSBFileErrors(t *testing.T) {
	f := newMSBFS(t)
	f.write(t, "d/f", "x")
	type route struct{ method, path string }
	get, put, remove, stat := route{"GET", "/content"}, route{"PUT", "/content"}, route{"DELETE", ""}, route{"GET", "/stat"}
	for _, c := range []struct {
		route
		at     string
		status int
		code   string
	}{
		{get, "/none", 404, "volume_file_not_found"}, {stat, "/none", 404, "volume_file_not_found"}, {route{"GET", ""}, "/none", 404, "volume_file_not_found"},
		{remove, "/none", 404, "volume_file_not_found"}, {get, "d", 409, "is_a_directory"}, {put, "d", 409, "is_a_directory"}, {route{"GET", ""}, "d/f", 409, "not_a_directory"},
		{put, "d/f/x", 409, "not_a_directory"}, {remove, "d", 409, "not_empty"}, {remove, "/", 400, "invalid_volume_path"},
	} {
		f.refuse(t, f.key, c.method, f.url+c.path, "x", c.status, c.code, msbPathHeader(c.at)...)
	}
	f.refuse(t, f.key, "DELETE", f.url, "", 404, "volume_file_not_found", append(msbPathHeader("/none"), "x-msb-file-recursive", "true")...)
	f.refuse(t, f.key, "DELETE", f.url, "", 400, "invalid_volume_path", append(msbPathHeader("/"), "x-msb-file-recursive", "true")...)
	f.refuse(t, f.key, "DELETE", f.url, "", 400, "invalid_request", append(msbPathHeader("/d"), "x-msb-file-recursive", "perhaps")...)
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`{"from":"/none","to":"/x"}`: {404, "volume_file_not_found"}, `{"from":"/d"}`: {400, "invalid_request"}, ``: {400, "invalid_request"},
		`{"from":"/d","to":"/d/e"}`: {400, "invalid_volume_path"}, `{"from":"../d","to":"/x"}`: {400, "invalid_volume_path"},
		`{"from":"/d","to":"a/../../x"}`: {400, "invalid_volume_path"}, `{"from":"/d","to":"/"}`: {400, "invalid_volume_path"}, `{"from":"/d","to":"a\u0000b"}`: {400, "invalid_volume_path"},
	} {
		f.refuse(t, f.key, "POST", f.url+"/copy", body, want.status, want.code)
		f.refuse(t, f.key, "POST", f.url+"/rename", body, want.status, want.code)
	}
	for body, code := range map[string]string{`{}`: "invalid_request", `[`: "invalid_request", `{"path":"../x"}`: "invalid_volume_path", `{"path":"\u0000"}`: "invalid_volume_path"} {
		f.refuse(t, f.key, "POST", f.url+"/mkdir", body, 400, code)
	}
	f.refuse(t, f.key, "POST", f.url+"/mkdir", `{"path":"/d/f"}`, 409, "not_a_directory")
	f.refuse(t, f.key, "POST", f.url+"/mkdir", `{"path":"`+strings.Repeat("a", 2<<20)+`"}`, 413, "too_large")
}

// TestMSBHostilePaths: what the header may hold, on every route that heeds it.
func TestMSBHostilePaths(t *testing.T) {
	f := newMSBFS(t)
	f.write(t, "f", "x")
	bad := []string{"YQ==", "Y", "YR", "a/b", "..", "%2e", strings.Repeat("A", 20_000)}
	for _, p := range []string{"..", "../x", "/../x", "a/../../x", "f/..", "a\x00b", "\xff", strings.Repeat("a", 256), strings.Repeat("a/", 3000)} {
		bad = append(bad, base64.RawURLEncoding.EncodeToString([]byte(p)))
	}
	for _, pattern := range msbRoutes[5:11] {
		method, path, _ := strings.Cut(pattern, " ")
		path = f.url + strings.TrimPrefix(path, "/v1/volumes/{id}/files")
		for _, h := range bad {
			f.refuse(t, f.key, method, path, "", 400, "invalid_volume_path", "x-msb-file-path", h, "x-msb-file-recursive", "true")
		}
		f.refuse(t, f.key, method, path, "", 400, "invalid_request", "x-msb-file-recursive", "true")
		// Beyond a megabyte (64 KiB in Serve) net/http itself refuses headers.
		if status, _, _ := f.call(t, f.key, method, path, "", "x-msb-file-path", strings.Repeat("A", 900<<10)); status/100 != 4 {
			t.Errorf("%s: a header of 900 KiB: %d", pattern, status)
		}
	}
	// An absolute path is one from the volume's root.
	f.refuse(t, f.key, "GET", f.url+"/content", "", 404, "volume_file_not_found", msbPathHeader("/etc/passwd")...)
	if got := f.list(t, "//./"); !slices.Equal(got, []string{"/f file 1"}) {
		t.Errorf("list %q", got)
	}
}

// TestMSBBigFile: a file goes through the server in little memory, both ways.
func TestMSBBigFile(t *testing.T) {
	t.Parallel()
	const size = 256 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // as servers have it
	f := newMSBFS(t)
	var most atomic.Uint64
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most.Store(max(most.Load(), m.HeapInuse))
			}
		}
	}()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", f.msbServer.url+f.url+"/content", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.key)
	req.Header.Set("x-msb-file-path", msbPathHeader("big")[1])
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent || f.stat(t, "big").Size != size {
		t.Errorf("write: %s, %+v", res.Status, f.stat(t, "big"))
	}
	req.Method, req.Body, req.GetBody, req.ContentLength = "GET", nil, nil, 0
	if res, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if n != size || err != nil {
		t.Errorf("read %d: %v", n, err)
	}
	close(stop)
	<-done
	t.Logf("%d MiB of heap", most.Load()>>20)
	if most.Load() > 160<<20 {
		t.Errorf("%d MiB of heap for a file of %d MiB", most.Load()>>20, size>>20)
	}
}

// zeros yields bytes without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte{7}, len(p))), nil }
