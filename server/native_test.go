package server_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server"
)

// client speaks the native API to a server of its own.
type client struct {
	t   *testing.T
	url string
	key string
}

// startNative serves a fresh namespace, of SQLite and a directory, until the test ends.
func startNative(t *testing.T) *client {
	t.Helper()
	return startNativeWith(t, server.Options{Bucket: &bucket.Options{Dir: filepath.Join(t.TempDir(), "namespace")}})
}

// startNativeWith is startNative with other options.
func startNativeWith(t *testing.T, opts server.Options) *client {
	t.Helper()
	s, err := server.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.FirstKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		hs.Close()
		if err := s.Close(); err != nil {
			t.Errorf("close the server: %v", err)
		}
	})
	return &client{t, hs.URL, key}
}

// send makes a request and returns status, headers and body. headers are name, value, ...
func (c *client) send(method, path string, q url.Values, body io.Reader, headers ...string) (int, http.Header, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+api.Prefix+path+"?"+q.Encode(), body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, res.Header, string(b)
}

// wantStatus makes a request that must be answered with status, and decodes the answer into out.
func (c *client) wantStatus(status int, method, path string, q url.Values, body string, out any, headers ...string) http.Header {
	c.t.Helper()
	got, h, b := c.send(method, path, q, strings.NewReader(body), headers...)
	if got != status {
		c.t.Fatalf("%s %s %v: status %d, want %d: %s", method, path, q, got, status, b)
	}
	if s, ok := out.(*string); ok {
		*s = b
	} else if out != nil {
		if err := json.Unmarshal([]byte(b), out); err != nil {
			c.t.Fatalf("%s %s: %v: %s", method, path, err, b)
		}
	}
	return h
}

// wantError makes a request that must be refused with that status and code.
func (c *client) wantError(status int, code, method, path string, q url.Values, body string, headers ...string) {
	c.t.Helper()
	var e api.ErrorBody
	c.wantStatus(status, method, path, q, body, &e, headers...)
	if e.Error.Code != code || e.Error.Message == "" || e.Error.RequestID == "" {
		c.t.Errorf("%s %s: error %+v, want code %s", method, path, e.Error, code)
	}
}

func pathQuery(p string) url.Values { return url.Values{"path": {p}} }

func reprDigest(b []byte) string {
	s := sha256.Sum256(b)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(s[:]) + ":"
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func (c *client) wantContent(p, want string) {
	c.t.Helper()
	var got string
	c.wantStatus(200, "GET", "/volumes/v/content", pathQuery(p), "", &got)
	if got != want {
		c.t.Errorf("%s holds %d bytes, want %d", p, len(got), len(want))
	}
}

func startVolume(t *testing.T) *client {
	c := startNative(t)
	c.wantStatus(201, "POST", "/volumes", nil, `{"name":"v"}`, nil)
	return c
}

func TestConditions(t *testing.T) {
	c := startVolume(t)
	c.wantStatus(200, "PUT", "/volumes/v/content", pathQuery("f"), "0123456789", nil)
	etag := c.wantStatus(200, "GET", "/volumes/v/content", pathQuery("f"), "", nil).Get("Etag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	c.wantStatus(304, "GET", "/volumes/v/content", pathQuery("f"), "", nil, "If-None-Match", etag)
	var part string
	c.wantStatus(206, "GET", "/volumes/v/content", pathQuery("f"), "", &part, "Range", "bytes=2-4")
	if part != "234" {
		t.Errorf("range: %q", part)
	}
	if code, _, _ := c.send("GET", "/volumes/v/content", pathQuery("f"), nil, "Range", "bytes=50-"); code != 416 {
		t.Errorf("a range behind the end: %d", code)
	}
	c.wantError(412, "precondition_failed", "PUT", "/volumes/v/content", pathQuery("f"), "new", "If-None-Match", "*")
	c.wantStatus(200, "PUT", "/volumes/v/content", pathQuery("f"), "second", nil, "If-Match", etag)
	c.wantError(412, "precondition_failed", "PUT", "/volumes/v/content", pathQuery("f"), "third", "If-Match", etag)
	c.wantError(412, "precondition_failed", "PUT", "/volumes/v/content", pathQuery("none"), "x", "If-Match", "*")
	c.wantContent("f", "second")
}

func TestDigest(t *testing.T) {
	c := startVolume(t)
	c.wantStatus(200, "PUT", "/volumes/v/content", pathQuery("f"), "data", nil, "Repr-Digest", reprDigest([]byte("data")))
	c.wantError(400, "digest_mismatch", "PUT", "/volumes/v/content", pathQuery("f"), "other", "Repr-Digest", reprDigest([]byte("data")))
	c.wantError(400, "invalid_request", "PUT", "/volumes/v/content", pathQuery("f"), "other", "Repr-Digest", "sha-256=:AAAA:")
	c.wantError(400, "invalid_request", "PUT", "/volumes/v/content", pathQuery("f"), "other", "Repr-Digest", "md5=:AAAA:")
	c.wantContent("f", "data")
}

// The same idempotency key is the same request, whatever became of the connection.
func TestIdempotency(t *testing.T) {
	c := startVolume(t)
	q := pathQuery("d")
	for range 3 {
		c.wantStatus(204, "POST", "/volumes/v/mkdir", q, "", nil, "Idempotency-Key", "one")
	}
	c.wantError(409, "already_exists", "POST", "/volumes/v/mkdir", q, "", "Idempotency-Key", "two")
	c.wantError(400, "invalid_request", "POST", "/volumes/v/mkdir", pathQuery("other"), "", "Idempotency-Key", "one")
	c.wantError(409, "outcome_unknown", "POST", "/volumes/v/mkdir", pathQuery("e"), "", "Idempotency-Key", "three", "If-Instance", "another")
	var a, b api.Volume
	c.wantStatus(201, "POST", "/volumes", nil, `{"name":"w"}`, &a, "Idempotency-Key", "w")
	c.wantStatus(201, "POST", "/volumes", nil, `{"name":"w"}`, &b, "Idempotency-Key", "w")
	if a.ID != b.ID {
		t.Errorf("created twice: %s and %s", a.ID, b.ID)
	}
}

// What ends a request that is given up is waited for.
func TestCancel(t *testing.T) {
	c := startVolume(t)
	body, feed := io.Pipe()
	done := make(chan int, 1)
	go func() {
		req, _ := http.NewRequest("PUT", c.url+api.Prefix+"/volumes/v/content?path=f", body)
		req.Header.Set("Authorization", "Bearer "+c.key)
		req.Header.Set("Idempotency-Key", "k")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- 0
			return
		}
		res.Body.Close()
		done <- res.StatusCode
	}()
	if _, err := feed.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	var out api.Outcome
	c.wantStatus(200, "POST", "/cancel", url.Values{"key": {"k"}}, "", &out)
	if out.Done {
		t.Error("a request that was cancelled in the middle was done")
	}
	_ = feed.Close()
	if code := <-done; code == 200 {
		t.Error("the request that was cancelled succeeded")
	}
	c.wantError(404, "file_not_found", "GET", "/volumes/v/stat", pathQuery("f"), "")
}

func TestUpload(t *testing.T) {
	c := startVolume(t)
	data := randomBytes(5<<20 + 123)
	var up api.Upload
	q := pathQuery("big/file")
	q.Set("size", fmt.Sprint(len(data)))
	q.Set("mode", "640")
	c.wantStatus(201, "POST", "/volumes/v/uploads", q, "", &up)
	at := "/uploads/" + up.ID
	off := func(n int64) url.Values { return url.Values{"offset": {fmt.Sprint(n)}} }
	c.wantStatus(200, "PUT", at, off(0), string(data[:1<<20]), &up)
	c.wantError(409, "wrong_offset", "PUT", at, off(0), "x")
	c.wantError(409, "wrong_offset", "POST", at+"/finish", nil, "")
	c.breakOff(at, 1<<20, data[1<<20:3<<20])
	c.wantStatus(200, "GET", at, nil, "", &up)
	if up.Offset < 2<<20 {
		t.Errorf("after a broken connection the upload has come to %d; what arrived is to stay", up.Offset)
	}
	c.wantError(404, "file_not_found", "GET", "/volumes/v/stat", pathQuery("big/file"), "")
	c.wantError(400, "invalid_request", "PUT", at, off(up.Offset), string(data[up.Offset:])+"more")
	c.wantStatus(200, "GET", at, nil, "", &up)
	c.wantStatus(200, "PUT", at, off(up.Offset), string(data[up.Offset:]), &up)
	c.wantError(400, "digest_mismatch", "POST", at+"/finish", nil, "", "Repr-Digest", reprDigest(data[1:]))
	c.wantStatus(200, "POST", at+"/finish", nil, "", nil, "Repr-Digest", reprDigest(data))
	c.wantContent("big/file", string(data))
	var e api.Entry
	c.wantStatus(200, "GET", "/volumes/v/stat", pathQuery("big/file"), "", &e)
	if e.Mode != "0640" {
		t.Errorf("mode %s", e.Mode)
	}
	c.wantError(404, "not_found", "GET", at, nil, "")
	var page api.EntryPage
	c.wantStatus(200, "GET", "/volumes/v/entries", pathQuery("big"), "", &page)
	if len(page.Entries) != 1 {
		t.Errorf("the upload left something: %+v", page.Entries)
	}
}

// breakOff sends a part of an upload and breaks the connection before its end.
func (c *client) breakOff(at string, off int, data []byte) {
	c.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		c.t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT %s%s?offset=%d HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", api.Prefix, at, off, c.key, len(data)+1000)
	if _, err := conn.Write(data); err != nil {
		c.t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // until the server has done what it does
	conn.Close()
}

func TestUploadRefused(t *testing.T) {
	c := startVolume(t)
	c.wantStatus(200, "PUT", "/volumes/v/content", pathQuery("f"), "old", nil)
	c.wantStatus(204, "POST", "/volumes/v/mkdir", pathQuery("d"), "", nil)
	c.wantError(409, "is_a_directory", "POST", "/volumes/v/uploads", pathQuery("d"), "")
	c.wantError(409, "is_a_directory", "POST", "/volumes/v/uploads", pathQuery("/"), "")
	c.wantError(400, "path_escape", "POST", "/volumes/v/uploads", pathQuery("../x"), "")
	q := pathQuery("f")
	q.Set("exclusive", "true")
	c.wantError(409, "already_exists", "POST", "/volumes/v/uploads", q, "")
	var up api.Upload
	c.wantStatus(201, "POST", "/volumes/v/uploads", pathQuery("f"), "", &up)
	c.wantStatus(204, "DELETE", "/uploads/"+up.ID, nil, "", nil)
	c.wantError(404, "not_found", "PUT", "/uploads/"+up.ID, url.Values{"offset": {"0"}}, "x")
	c.wantContent("f", "old")
	var page api.EntryPage
	c.wantStatus(200, "GET", "/volumes/v/entries", pathQuery("/"), "", &page)
	if len(page.Entries) != 2 {
		t.Errorf("an upload that was given up left something: %+v", page.Entries)
	}
}

func TestArchive(t *testing.T) {
	c := startVolume(t)
	var in bytes.Buffer
	tw := tar.NewWriter(&in)
	for _, h := range []tar.Header{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750}, {Name: "d/f", Mode: 0o600, Size: 5},
		{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "f"}} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = tw.Write([]byte("hello"))
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var stats api.Unpacked
	whole := in.String()
	c.wantStatus(200, "PUT", "/volumes/v/archive", pathQuery("into"), whole, &stats)
	if stats.Files != 1 || stats.Links != 1 {
		t.Errorf("unpacked %+v", stats)
	}
	c.wantContent("into/d/f", "hello")
	var out string
	c.wantStatus(200, "GET", "/volumes/v/archive", pathQuery("into"), "", &out)
	var names []string
	for tr := tar.NewReader(strings.NewReader(out)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "into/ into/d/ into/d/f into/d/l" {
		t.Errorf("the archive has %s", got)
	}
	c.wantError(404, "file_not_found", "GET", "/volumes/v/archive", pathQuery("none"), "")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, whole)
	_ = z.Close()
	damaged := packed.Bytes()
	damaged[len(damaged)-6]++
	for what, body := range map[string]string{"cut off": whole[:700], "empty": "", "damaged": string(damaged)} {
		if code, _, b := c.send("PUT", "/volumes/v/archive", nil, strings.NewReader(body)); code != 400 || strings.Contains(string(b), "the request ended early") {
			t.Errorf("an archive that is %s: %d %s", what, code, b)
		}
	}
	if code, _, b := c.send("PUT", "/volumes/v/archive", nil, strings.NewReader(strings.Repeat("\x00", 4096)+"an image")); code != 400 {
		t.Errorf("no archive, but zeros first: %d %s", code, b)
	}
	if code, _, b := c.send("PUT", "/volumes/v/archive", nil, strings.NewReader("this is no tar stream, but long enough to be looked at"+strings.Repeat("x", 600))); code != 400 {
		t.Errorf("nonsense instead of a tar stream: %d %s", code, b)
	}
}

func TestEvents(t *testing.T) {
	c := startNative(t)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	req, _ := http.NewRequestWithContext(ctx, "GET", c.url+api.Prefix+"/events", nil)
	req.Header.Set("Authorization", "Bearer "+c.key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			var ev api.Event
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &ev); err != nil || ev.Type != want || ev.Volume != "v" {
					t.Fatalf("event %s, want %s of v (%v)", data, want, err)
				}
				return
			}
		}
		t.Fatalf("no event %s: %v", want, lines.Err())
	}
	if !lines.Scan() || lines.Text() != ": ready" {
		t.Fatalf("the stream begins with %q", lines.Text())
	}
	c.wantStatus(201, "POST", "/volumes", nil, `{"name":"v"}`, nil)
	next("created")
	c.wantStatus(200, "PUT", "/volumes/v/content", pathQuery("f"), "x", nil)
	next("changed")
	c.wantStatus(200, "PATCH", "/volumes/v", nil, `{"set_labels":{"a":"b"}}`, nil)
	next("updated")
	c.wantStatus(200, "DELETE", "/volumes/v", nil, "", nil)
	next("removed")
}

// A cursor is good for another server, which has not the listing open.
func TestListing(t *testing.T) {
	c := startVolume(t)
	for i := range 25 {
		c.wantStatus(200, "PUT", "/volumes/v/content", pathQuery(fmt.Sprintf("d/%02d", i)), "", nil)
	}
	for _, forget := range []bool{false, true} {
		q := pathQuery("d")
		q.Set("limit", "10")
		var names []string
		for {
			var page api.EntryPage
			c.wantStatus(200, "GET", "/volumes/v/entries", q, "", &page)
			for _, e := range page.Entries {
				names = append(names, e.Name)
			}
			if page.Next == "" {
				break
			}
			if forget {
				c.wantStatus(204, "DELETE", "/volumes/v/entries", url.Values{"cursor": {page.Next}}, "", nil)
			}
			q.Set("cursor", page.Next)
		}
		if len(names) != 25 || names[0] != "00" || names[24] != "24" {
			t.Errorf("forget %v: %v", forget, names)
		}
	}
	q := pathQuery("d")
	q.Set("cursor", "nonsense")
	c.wantError(400, "invalid_request", "GET", "/volumes/v/entries", q, "")
	var many api.StatResults
	c.wantStatus(200, "POST", "/volumes/v/stat", nil, `{"paths":["d/00","none","../x"]}`, &many)
	if r := many.Results; len(r) != 3 || r[0].Entry == nil || r[1].Error == nil || r[1].Error.Code != "file_not_found" || r[2].Error.Code != "path_escape" {
		t.Errorf("stat of many: %+v", r)
	}
}
