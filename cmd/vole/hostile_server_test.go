//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/cloud"
)

// execSQL changes the catalog of a home behind the backs of those who have it open.
func execSQL(t *testing.T, home, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(home, "catalog.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

// What a hostile server says: its answers with hostile text added to each string but
// those by which a client goes on, or to every string, or errors.
const (
	hostileNames int32 = iota
	hostileStrings
	hostileErrors
	hostilePages
	hostileModes
)

// structural are the keys whose strings a client parses or sends back.
var structural = []string{"id", "volume_id", "kind", "state", "type", "at", "created", "updated", "since", "expires",
	"revoked", "last_used", "mtime", "atime", "ctime", "mode", "next", "cursor", "session", "handle", "scopes", "data"}

// addHostile adds hostile text to the strings in a value of JSON, and to keys of labels.
func addHostile(v any, key string, mode int32) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if key == "labels" {
				k += hostileText
			}
			out[k] = addHostile(x, k, mode)
		}
		return out
	case []any:
		for i := range v {
			v[i] = addHostile(v[i], key, mode)
		}
	case string:
		if mode == hostileStrings || !slices.Contains(structural, key) {
			return v + hostileText
		}
	}
	return v
}

// rewriteJSON is addHostile for a text of one or many values.
func rewriteJSON(text []byte, mode int32) []byte {
	var out bytes.Buffer
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	for {
		var v any
		if err := dec.Decode(&v); err == io.EOF {
			return out.Bytes()
		} else if err != nil {
			return text
		}
		_ = json.NewEncoder(&out).Encode(addHostile(v, "", mode))
	}
}

// hostileProxy stands before a real server and rewrites its answers.
func hostileProxy(t *testing.T, backend string, mode *atomic.Int32) string {
	u, err := url.Parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(res *http.Response) error {
		if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			res.Body = rewriteEvents(res.Body, mode.Load())
			return nil
		}
		if !strings.Contains(res.Header.Get("Content-Type"), "json") {
			return nil
		}
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		text = rewriteJSON(text, mode.Load())
		res.Body = io.NopCloser(bytes.NewReader(text))
		res.ContentLength = int64(len(text))
		res.Header.Set("Content-Length", strconv.Itoa(len(text)))
		return nil
	}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := strings.HasSuffix(r.URL.Path, "/server") || strings.HasSuffix(r.URL.Path, "/whoami")
		switch m := mode.Load(); {
		case m == hostileErrors && !first:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": "invalid_request", "message": hostileText, "request_id": hostileText}})
		case m == hostilePages && !first:
			w.Header().Set("Content-Type", "text/html; charset=\u009b31m")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<html>"+hostileName)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(hs.Close)
	return hs.URL
}

// rewriteEvents is rewriteJSON for a stream of events.
func rewriteEvents(body io.ReadCloser, mode int32) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		lines := bufio.NewScanner(body)
		for lines.Scan() {
			line := lines.Text()
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				line = "data: " + strings.TrimSuffix(string(rewriteJSON([]byte(data), mode)), "\n")
			}
			if _, err := io.WriteString(pw, line+"\n"); err != nil {
				break
			}
		}
		pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	return struct {
		io.Reader
		io.Closer
	}{pr, body}
}

// serverLines are command lines for a server. dir is for files of the host.
func serverLines(dir, url string) [][]string {
	e := hostileText
	return [][]string{
		{"ls"}, {"ls", "--limit", "1"}, {"inspect", "v"}, {"df"}, {"df", "v"}, {"doctor"}, {"fs", "ls", "v:/"}, {"fs", "ls", "-l", "v:/"}, {"fs", "tree", "v"},
		{"fs", "stat", "v:/f", "v:/l"}, {"fs", "cat", "v:/no" + e}, {"fs", "rm", "v:/no" + e}, {"cp", "v:/", filepath.Join(dir, "out")}, {"cp", "v:/no", dir},
		{"set", "v", "-l", "a=b"}, {"create", "n"}, {"rename", "n", "n2"}, {"clone", "v", "n3"}, {"ls", "--format", "{{.}}"}, {"rm", "v"}, {"rm", "n2"}, {"inspect", e},
		{"key", "create", "k2", "--scope", "read"}, {"key", "ls"}, {"key", "revoke", "k2"}, {"org", "ls"}, {"org", "create", "o2"}, {"org", "rm", "o2"}, {"key", "create", "k3", "--org", "o2", "--scope", "read"}, {"audit"}, {"audit", "--limit", "1"},
		{"--timeout", "100ms", "watch"}, {"profile", "show", "--check"}, {"version"},
		{"login", url, "--profile", "p"}, {"profile", "ls"}, {"profile", "show", "p"}, {"logout", "p"},
		{"__complete", "inspect", ""}, {"__complete", "key", "revoke", ""}, {"__complete", "fs", "ls", "v:/"},
	}
}

// TestHostileServer has every command show what a hostile server says.
func TestHostileServer(t *testing.T) {
	dir := t.TempDir()
	address, key := startServer(t)
	prepareServer(t, address, key)

	var mode atomic.Int32
	proxy := hostileProxy(t, address, &mode)
	t.Setenv("VOLE_URL", proxy)
	t.Setenv("VOLE_API_KEY", key)
	t.Setenv("VOLE_CONFIG", filepath.Join(dir, "config.json"))
	for m := range hostileModes {
		mode.Store(m)
		lines := serverLines(t.TempDir(), proxy)
		if m == hostileStrings { // little of it can be parsed, and the client tries again for long
			lines = [][]string{{"--timeout", "100ms", "ls"}, {"--timeout", "100ms", "fs", "ls", "v:/"}, {"--timeout", "100ms", "audit"}}
		}
		if out := runHostile(t, lines); !strings.Contains(out, "PWNED") {
			t.Errorf("mode %d: nothing hostile was shown", m)
		}
	}
}

// prepareServer makes a volume with files and a holder.
func prepareServer(t *testing.T, url, key string) {
	ctx := t.Context()
	b, err := cloud.Open(ctx, cloud.Options{URL: url, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	store := vole.New(b)
	t.Cleanup(func() { store.Close() })
	vol, err := store.Create(ctx, "v", vole.Spec{Labels: vole.Labels{"k": "value"}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := vol.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, name := range []string{"f", hostileName} {
		if err := f.WriteFile(ctx, name, []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Symlink(ctx, hostileName, "l"); err != nil {
		t.Fatal(err)
	}
	att, err := vol.Attach(ctx, vole.AttachOptions{Holder: "holder"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { att.Detach(context.WithoutCancel(ctx)) })
}
