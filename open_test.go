package vole_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server"
)

// serve serves a new namespace and returns its URL and key.
func serve(t *testing.T) (url, key string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	s, err := server.New(ctx, server.Options{Bucket: &bucket.Options{Dir: dir, Database: filepath.Join(dir, "namespace.db"), Maintain: -1}})
	if err != nil {
		t.Fatal(err)
	}
	if key, err = s.FirstKey(ctx); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String(), key
}

func TestOpenServer(t *testing.T) {
	url, key := serve(t)
	file := filepath.Join(t.TempDir(), "config.json")
	for _, v := range []string{"VOLE_URL", "VOLE_API_KEY", "VOLE_API_KEY_FILE", "VOLE_PROFILE", "VOLE_HOME"} {
		t.Setenv(v, "")
	}
	t.Setenv("VOLE_CONFIG", file)
	config := `{"current": "acme", "profiles": {"acme": {"url": "` + url + `", "key": "` + key + `"}, "bad": {"url": "` + url + `", "key": "vole_no"}}}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	made := false
	for _, opts := range []vole.Options{{URL: url, Key: key}, {Profile: "acme"}, {}, {ReadOnly: true}} {
		s, err := vole.Open(ctx, opts)
		if err != nil {
			t.Fatalf("%+v: %v", opts, err)
		}
		if s.Caps().Backend != "cloud" {
			t.Errorf("%+v: backend %s", opts, s.Caps().Backend)
		}
		_, created, err := s.Ensure(ctx, "v", vole.Spec{})
		switch {
		case opts.ReadOnly && !errors.Is(err, vole.ErrReadOnly):
			t.Errorf("%+v: %v, want ErrReadOnly", opts, err)
		case !opts.ReadOnly && (err != nil || created == made):
			t.Errorf("%+v: created %v, %v", opts, created, err)
		}
		made = true
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}

	// What cannot be used is an error, and never the local home.
	home := filepath.Join(t.TempDir(), "home")
	t.Setenv("VOLE_HOME", home)
	for _, c := range []struct {
		opts vole.Options
		want error
	}{
		{vole.Options{Profile: "bad"}, vole.ErrPermission},
		{vole.Options{Profile: "nosuch"}, vole.ErrNoSuch},
		{vole.Options{URL: url}, vole.ErrInvalid},
		{vole.Options{URL: url, Key: key, Home: home}, vole.ErrInvalid},
		{vole.Options{URL: "http://vole.example.com", Key: key}, vole.ErrInvalid},
	} {
		s, err := vole.Open(ctx, c.opts)
		if !errors.Is(err, c.want) || !errors.As(err, new(*vole.Error)) || strings.Contains(err.Error(), key) {
			t.Errorf("%+v: %v, %v; want %v", c.opts, s, err, c.want)
		}
	}
	if _, err := os.Stat(home); err == nil {
		t.Error("a home was made")
	}
}

// TestReaderRequests: of a file behind a server a Reader asks only for its bytes, and not once more
// for its end.
func TestReaderRequests(t *testing.T) {
	address, key := serve(t)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(u)
	counted := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.UserAgent() != "reader/1" {
			t.Errorf("the program is named %q", r.UserAgent())
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(counted.Close)
	ctx := t.Context()
	s, err := vole.Open(ctx, vole.Options{URL: counted.URL, Key: key, UserAgent: "reader/1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Cloud() == nil || s.Local() != nil {
		t.Error("the store is not one of a server")
	}
	v, err := s.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const text = "some text"
	if err := f.WriteFile(ctx, "f", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := f.NewReader(ctx, "f", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := requests.Load()
	got, err := io.ReadAll(r)
	if n := requests.Load() - before; string(got) != text || err != nil || n != 1 {
		t.Errorf("%q, %v, by %d requests; want %q by one", got, err, n, text)
	}
}
