package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/accounts"
)

// e2bEntry is an answer that describes what is at a path.
type e2bEntry struct {
	Name, Path, Type, Target string
	Size                     int64
	Mode, UID, GID           uint32
	Atime, Mtime, Ctime      time.Time
}

// e2bFS returns a volume and its files by the back door.
func (s *e2bServer) e2bFS(t *testing.T) (e2bVolume, *vole.FS) {
	t.Helper()
	_, key := s.key(t, accounts.NewKey{Scopes: accounts.Write})
	v := s.create(t, key, "data")
	x, err := s.store(t).Get(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	f, err := x.FS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return v, f
}

// entry makes a request whose answer is an entry.
func (s *e2bServer) entry(t *testing.T, v e2bVolume, method, what, body string, want int) (e e2bEntry) {
	t.Helper()
	status, _, out := s.content(t, v, method, what, body)
	if err := json.Unmarshal([]byte(out), &e); err != nil || status != want {
		t.Fatalf("%s %s: %d %s, want %d", method, what, status, out, want)
	}
	return e
}

// list returns the paths of a listing.
func (s *e2bServer) list(t *testing.T, v e2bVolume, query string) (paths []string, entries []e2bEntry) {
	t.Helper()
	status, _, body := s.content(t, v, "GET", "dir?"+query, "")
	if err := json.Unmarshal([]byte(body), &entries); err != nil || status != 200 {
		t.Fatalf("list %s: %d %s", query, status, body)
	}
	for _, e := range entries {
		if e.Name != path.Base(e.Path) {
			t.Errorf("name %q, path %q", e.Name, e.Path)
		}
		paths = append(paths, e.Path)
	}
	return paths, entries
}

func TestE2BFiles(t *testing.T) {
	s := startE2B(t)
	v, _ := s.e2bFS(t)
	e := s.entry(t, v, "PUT", "file?path=a.txt&uid=5&gid=6&mode=416", "hello", 201)
	if e.Name != "a.txt" || e.Path != "/a.txt" || e.Type != "file" || e.Size != 5 || e.UID != 5 || e.GID != 6 || e.Mode != 0o640 {
		t.Errorf("put: %+v", e)
	}
	// What replaces it keeps the mode, unless another is given: 0 is one.
	if e = s.entry(t, v, "PUT", "file?path=/a.txt&force=true", "new", 201); e.Mode != 0o640 || e.Size != 3 {
		t.Errorf("replace: %+v", e)
	}
	if e = s.entry(t, v, "PUT", "file?path=/a.txt&force=true&mode=0", "new", 201); e.Mode != 0 {
		t.Errorf("replace with mode 0: %+v", e)
	}
	if e = s.entry(t, v, "PATCH", "path?path=/a.txt", `{"mode":3565,"uid":null,"later":true}`, 200); e.Mode != 0o6755 {
		t.Errorf("patch: %+v", e)
	}
	if e = s.entry(t, v, "PATCH", "path?path=/a.txt", `{}`, 200); e.Mode != 0o6755 {
		t.Errorf("patch of nothing: %+v", e)
	}
	if e = s.entry(t, v, "GET", "path?path=//./a.txt/", "", 200); e.Path != "/a.txt" || time.Since(e.Mtime).Abs() > time.Minute {
		t.Errorf("stat: %+v", e)
	}
	if e = s.entry(t, v, "GET", "path?path=/", "", 200); e.Path != "/" || e.Name != "/" || e.Type != "directory" {
		t.Errorf("stat of the root: %+v", e)
	}
	if e = s.entry(t, v, "POST", "dir?path=/x/y&force=true&uid=9", "", 201); e.UID != 9 || e.Path != "/x/y" || e.Mode != 0o755 {
		t.Errorf("mkdir: %+v", e)
	}
	if e = s.entry(t, v, "GET", "path?path=/x", "", 200); e.UID != 9 {
		t.Errorf("parent: %+v", e)
	}
	// With force a file gets the directories that it is to be in, of its owner.
	if e = s.entry(t, v, "PUT", "file?path=new/deep/f&force=true&uid=9&mode=384", "x", 201); e.UID != 9 || e.Mode != 0o600 {
		t.Errorf("a file below directories that were missing: %+v", e)
	}
	if e = s.entry(t, v, "GET", "path?path=/new/deep", "", 200); e.UID != 9 || e.Mode != 0o755 {
		t.Errorf("its directory: %+v", e)
	}
	if status, _, body := s.content(t, v, "DELETE", "path?path=/new", ""); status != 204 {
		t.Errorf("removal of a tree: %d %s", status, body)
	}
	if e = s.entry(t, v, "POST", "dir?path=/z&mode=1023", "", 201); e.Mode != 0o1777 {
		t.Errorf("sticky: %+v", e)
	}
	if e = s.entry(t, v, "POST", "dir?path=/&force=true&uid=3", "", 201); e.UID != 0 {
		t.Errorf("the root: %+v", e)
	}
	for _, c := range []struct {
		method, what string
		status       int
		code         string
	}{
		{"PUT", "file?path=/a.txt", 409, "already_exists"},
		{"PUT", "file?path=/x&force=true", 409, "is_a_directory"},
		{"PUT", "file?path=/&force=true", 409, "is_a_directory"},
		{"PUT", "file?path=/no/such", 404, "file_not_found"},
		{"PUT", "file?path=/a.txt/below", 404, "file_not_found"},
		{"PUT", "file?path=/a.txt/below&force=true", 404, "file_not_found"},
		{"PUT", "file?path=/a.txt/far/below&force=true", 404, "file_not_found"},
		{"POST", "dir?path=/x", 409, "already_exists"},
		{"POST", "dir?path=/a.txt&force=true", 409, "already_exists"},
		{"POST", "dir?path=/no/such", 404, "file_not_found"},
		{"POST", "dir?path=/a.txt/below&force=true", 409, "not_a_directory"},
		{"GET", "file?path=/x", 400, "is_a_directory"},
		{"GET", "file?path=/none", 404, "file_not_found"},
		{"GET", "file?path=/a.txt/below", 404, "file_not_found"},
		{"GET", "dir?path=/a.txt", 400, "not_a_directory"},
		{"GET", "dir?path=/none", 404, "file_not_found"},
		{"GET", "dir?path=/a.txt/below", 404, "file_not_found"},
		{"GET", "path?path=/a.txt/below", 404, "file_not_found"},
		{"PATCH", "path?path=/none", 404, "file_not_found"},
		{"DELETE", "path?path=/none", 404, "file_not_found"},
		{"DELETE", "path?path=/a.txt/below", 404, "file_not_found"},
	} {
		status, _, body := s.content(t, v, c.method, c.what, "{}")
		checkE2BError(t, c.method+" "+c.what, status, body, c.status, c.code)
	}
	if status, _, body := s.content(t, v, "DELETE", "path?path=/x", ""); status != 204 || body != "" {
		t.Errorf("remove: %d %q", status, body)
	}
	if paths, _ := s.list(t, v, "path=/&depth=9"); !slices.Equal(paths, []string{"/a.txt", "/z"}) {
		t.Errorf("left: %v", paths)
	}
}

// TestE2BRanges shows that parts of files can be had.
func TestE2BRanges(t *testing.T) {
	s := startE2B(t)
	v, f := s.e2bFS(t)
	if err := f.WriteFile(t.Context(), "a", []byte("0123456789"), 0); err != nil {
		t.Fatal(err)
	}
	status, head, body := s.content(t, v, "GET", "file?path=/a", "", "Range", "bytes=3-5")
	if status != 206 || body != "345" || head.Get("Content-Range") != "bytes 3-5/10" {
		t.Errorf("range: %d %q %v", status, body, head)
	}
	status, head, body = s.content(t, v, "HEAD", "file?path=/a", "")
	if status != 200 || body != "" || head.Get("Content-Length") != "10" || head.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("head: %d %q %v", status, body, head)
	}
	if status, _, _ := s.content(t, v, "GET", "file?path=/a", "", "If-None-Match", head.Get("Etag")); status != 304 {
		t.Errorf("not modified: %d", status)
	}
}

// TestE2BLinks shows what is followed: links to files, by who reads them.
func TestE2BLinks(t *testing.T) {
	s := startE2B(t)
	v, f := s.e2bFS(t)
	ctx := t.Context()
	for _, err := range []error{
		f.WriteFile(ctx, "dir/file", []byte("x"), 0o600),
		f.Symlink(ctx, "dir", "todir"), f.Symlink(ctx, "dir/file", "tofile"), f.Symlink(ctx, "nowhere", "dangling"),
		f.Symlink(ctx, "..", "dir/up"), f.Symlink(ctx, "/etc/passwd", "out"), f.Symlink(ctx, "../../../../etc/passwd", "far"),
		f.Mknod(ctx, "fifo", os.ModeNamedPipe|0o600, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	paths, entries := s.list(t, v, "path=/&depth=50")
	want := []string{"/dangling", "/dir", "/dir/file", "/dir/up", "/far", "/fifo", "/out", "/todir", "/tofile"}
	if !slices.Equal(paths, want) {
		t.Fatalf("list: %v, want %v", paths, want)
	}
	if e := entries[7]; e.Type != "symlink" || e.Target != "dir" || entries[5].Type != "unknown" {
		t.Errorf("entries: %+v", entries)
	}
	if e := s.entry(t, v, "GET", "path?path=/dangling", "", 200); e.Type != "symlink" || e.Target != "nowhere" {
		t.Errorf("stat: %+v", e)
	}
	if status, _, body := s.content(t, v, "GET", "file?path=/tofile", ""); status != 200 || body != "x" {
		t.Errorf("read: %d %q", status, body)
	}
	for _, c := range []struct {
		method, what string
		status       int
		code         string
	}{
		{"GET", "dir?path=/todir", 400, "not_a_directory"},
		{"GET", "file?path=/dangling", 404, "file_not_found"},
		{"PUT", "file?path=/dangling/x", 404, "file_not_found"},
		{"PUT", "file?path=/tofile", 409, "already_exists"},
		{"PATCH", "path?path=/tofile", 400, "invalid_request"},
		{"POST", "dir?path=/todir&force=true", 409, "already_exists"},
	} {
		status, _, body := s.content(t, v, c.method, c.what, `{"mode":511}`)
		checkE2BError(t, c.method+" "+c.what, status, body, c.status, c.code)
	}
	for _, p := range []string{"/out", "/far"} {
		if status, _, body := s.content(t, v, "GET", "file?path="+p, ""); status < 400 || strings.Contains(body, "root:") {
			t.Errorf("read of %s: %d %q", p, status, body)
		}
	}
	s.entry(t, v, "PATCH", "path?path=/tofile", `{"uid":7}`, 200)
	s.entry(t, v, "PUT", "file?path=/tofile&force=true", "a file now", 201)
	if e := s.entry(t, v, "GET", "path?path=/dir/file", "", 200); e.Size != 1 || e.UID != 0 || e.Mode != 0o600 {
		t.Errorf("the target was changed: %+v", e)
	}
	if status, _, body := s.content(t, v, "DELETE", "path?path=/todir", ""); status != 204 {
		t.Errorf("remove of a link: %d %s", status, body)
	}
	s.entry(t, v, "GET", "path?path=/dir/file", "", 200)
}

// TestE2BListing lists more than is held at once, and deeper than is allowed.
func TestE2BListing(t *testing.T) {
	t.Parallel()
	s := startE2B(t)
	v, _ := s.e2bFS(t)
	vol, err := s.store(t).Get(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	f, err := vol.OpenFS(t.Context(), vole.FSOptions{Batch: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want []string
	for i := range 700 { // with a directory among them that has more, too
		want = append(want, fmt.Sprintf("/many/%03d", i))
		if i == 300 {
			for j := range 600 {
				want = append(want, fmt.Sprintf("/many/300/%03d", j))
			}
		}
	}
	deep := "/deep"
	for range 150 {
		deep += "/d"
	}
	if err := f.MkdirAll(t.Context(), deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range want {
		if p == "/many/300" {
			continue
		}
		if err := f.WriteFile(t.Context(), p, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	paths, _ := s.list(t, v, "path=/many&depth=2")
	slices.Sort(paths)
	slices.Sort(want)
	if !slices.Equal(paths, want) {
		t.Errorf("%d entries, want %d", len(paths), len(want))
	}
	if paths, _ = s.list(t, v, "path=/many"); len(paths) != 700 {
		t.Errorf("%d entries, want 700", len(paths))
	}
	if paths, _ = s.list(t, v, "path=/deep&depth=100"); len(paths) != 100 {
		t.Errorf("%d levels, want 100", len(paths))
	}
}

// TestE2BBrokenOff shows that a body that ends early leaves the old file.
func TestE2BBrokenOff(t *testing.T) {
	s := startE2B(t)
	v, f := s.e2bFS(t)
	if err := f.WriteFile(t.Context(), "a", []byte("old"), 0); err != nil {
		t.Fatal(err)
	}
	for _, head := range []string{"Content-Length: 1000\r\n\r\nnew", "Transfer-Encoding: chunked\r\n\r\n3\r\nnew\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT /volumecontent/%s/file?path=/a&force=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s", v.ID, v.Token, head)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
			t.Errorf("answer: %q", answer)
		}
	}
	if b, err := f.ReadFile(t.Context(), "a"); err != nil || string(b) != "old" {
		t.Errorf("the file is %q now (%v)", b, err)
	}
	if paths, _ := s.list(t, v, "path=/"); !slices.Equal(paths, []string{"/a"}) {
		t.Errorf("left behind: %v", paths)
	}
}

// TestE2BLimits shows that quotas and the most bytes of a file hold.
func TestE2BLimits(t *testing.T) {
	s := startE2B(t)
	v, f := s.e2bFS(t)
	if err := f.Volume().Update(t.Context(), vole.Update{Quota: 1 * vole.MiB}); err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("x", 2<<20)
	for _, size := range []int64{int64(len(body)), -1} {
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), "PUT", s.url+"/volumecontent/"+v.ID+"/file?path=/a", io.NopCloser(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = size
		req.Header.Set("Authorization", "Bearer "+v.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		checkE2BError(t, "over the quota", res.StatusCode, string(b), 507, "quota_exceeded")
	}
	if err := f.Volume().Update(t.Context(), vole.Update{ClearQuota: true}); err != nil {
		t.Fatal(err)
	}
	status, _, answer := s.content(t, v, "PUT", "file?path=/a", strings.Repeat("x", e2bMaxFile+1))
	checkE2BError(t, "larger than files may be", status, answer, 413, "too_large")
	if paths, _ := s.list(t, v, "path=/"); len(paths) != 0 {
		t.Errorf("left behind: %v", paths)
	}
}
