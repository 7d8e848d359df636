package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server"
)

// TestShortServer reads from a server between which and us something cuts content in half:
// no command takes the half for the file.
func TestShortServer(t *testing.T) {
	dir := t.TempDir()
	address, key := startServer(t)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	cut := false
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.ModifyResponse = func(res *http.Response) error {
		if !cut || res.Request.Method != http.MethodGet || !strings.HasSuffix(res.Request.URL.Path, "/data") {
			return nil
		}
		b, err := io.ReadAll(res.Body)
		b = b[:len(b)/2]
		res.Body = io.NopCloser(bytes.NewReader(b))
		res.ContentLength = int64(len(b))
		res.Header.Set("Content-Length", strconv.Itoa(len(b)))
		return err
	}
	ps := httptest.NewServer(proxy)
	t.Cleanup(ps.Close)
	t.Setenv("VOLE_URL", ps.URL)
	t.Setenv("VOLE_API_KEY", key)
	t.Setenv("VOLE_CONFIG", filepath.Join(dir, "config.json"))
	vole := func(args ...string) (int, string) {
		var out, errs bytes.Buffer
		code := runCommandLine(args, strings.NewReader(strings.Repeat("content ", 1000)), &out, &errs)
		return code, errs.String()
	}
	for _, args := range [][]string{{"create", "v"}, {"fs", "put", "-", "v:/d/f"}} {
		if code, errs := vole(args...); code != 0 {
			t.Fatal(args, code, errs)
		}
	}
	out := filepath.Join(dir, "out")
	for _, half := range []bool{true, false} {
		cut = half
		for _, args := range [][]string{
			{"cp", "v:/d/f", out}, {"cp", "v:/d", filepath.Join(dir, "tree")}, {"fs", "get", "v:/d/f", out}, {"fs", "cat", "v:/d/f"},
			{"cp", "v:/d", "-"}, {"cp", "v:/d/f", "v:/g"},
		} {
			code, errs := vole(args...)
			_, there := os.Stat(out)
			if half == (code == 0) || half && there == nil {
				t.Errorf("cut %v: vole %v: %d %s", half, args, code, errs)
			}
		}
	}
}

// startServer serves a namespace of its own until the test ends, and returns the server's
// URL and first key.
func startServer(t *testing.T) (address, key string) {
	t.Helper()
	dir := t.TempDir()
	s, err := server.New(context.Background(), server.Options{Bucket: &bucket.Options{Dir: dir, Database: filepath.Join(dir, "namespace.db"), Maintain: -1}})
	if err != nil {
		t.Fatal(err)
	}
	key, err = s.FirstKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(s.Handler())
	t.Cleanup(func() { hs.Close(); s.Close() })
	return hs.URL, key
}
