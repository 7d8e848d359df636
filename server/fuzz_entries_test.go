package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// FuzzEntryPoints puts one value in the place of a parameter, a header, an element of the
// path or a field of the body of each route: names, sizes, times and whatever else there is.
// No answer is an internal error, nothing panics, and every answer to an error says why.
func FuzzEntryPoints(f *testing.F) {
	for i, v := range append([]string{"", "..", "a/../b", "a\x00b", "\xff", "2020-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999-23:59", "2262-04-12T00:00:00Z", "1677-01-01T00:00:00Z",
		"bytes=0-,1-,2-", "sha-256=:AAAA:", "user." + strings.Repeat("n", 300), strings.Repeat("d/", 3000), `{"a":1}`, "sZmlsZQ.x", "7777", "8"}, cornerNumbers...) {
		f.Add(uint16(i), uint16(i*7), v)
	}
	logs := &logBuffer{}
	s, err := New(f.Context(), Options{Bucket: &bucket.Options{Dir: f.TempDir()}, MaxFile: 1 << 20,
		Log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		f.Fatal(err)
	}
	hs := httptest.NewServer(s.Handler())
	f.Cleanup(func() {
		hs.Close()
		if err := s.Close(); err != nil {
			f.Error(err)
		}
	})
	w := &testServer{Server: s, url: hs.URL, doc: describedAPI(f), client: hs.Client(), log: logs}
	w.root = w.createKey(f, accounts.NewKey{Scopes: accounts.Admin | accounts.Operator})
	n := 0
	var x *fixture
	f.Fuzz(func(t *testing.T, which, place uint16, value string) {
		if n++; x == nil || n%100 == 0 { // requests may well end or remove what there is
			x = w.makeFixture(t, w.root, fmt.Sprintf("v%d", n))
		}
		op := w.doc.ops[int(which)%len(w.doc.ops)]
		c := calls[op.id](x).with(op, int(place), value)
		req, err := c.request(t.Context(), w.url, op, w.root)
		if err != nil {
			return // no client could send it
		}
		rec := httptest.NewRecorder()
		if strings.HasPrefix(op.path, api.Prefix+"/events") {
			return // it has no end
		}
		s.Handler().ServeHTTP(rec, req)
		if rec.Code >= 500 && rec.Code != http.StatusNotImplemented && rec.Code != http.StatusInsufficientStorage {
			t.Fatalf("%s %s: %d %s", req.Method, req.URL, rec.Code, rec.Body)
		}
		if text := logs.String(); text != "" {
			t.Fatalf("%s %s: logged %.2000s", req.Method, req.URL, text)
		}
		var e api.ErrorBody
		if rec.Code >= 400 && rec.Code != http.StatusMethodNotAllowed && (json.Unmarshal(rec.Body.Bytes(), &e) != nil || e.Error.Code == "" || e.Error.Message == "") {
			t.Fatalf("%s %s: %d %q", req.Method, req.URL, rec.Code, rec.Body)
		}
	})
}

// fuzzHeaders are those that the server looks at.
var fuzzHeaders = []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", api.HeaderDigest, api.HeaderIdempotencyKey, api.HeaderRequestID, api.HeaderIfInstance,
	api.HeaderFilesystem, "Content-Type", "X-Forwarded-For", "Accept-Encoding"}

// with is c with a value in one of its places.
func (c apiCall) with(op *apiOp, place int, value string) apiCall {
	var set []func()
	q := url.Values{}
	for k, v := range c.query {
		q[k] = v
	}
	path := map[string]string{}
	for k, v := range c.path {
		path[k] = v
		set = append(set, func() { path[k] = value })
	}
	for _, p := range op.params {
		if p.in == "query" {
			set = append(set, func() { q.Set(p.name, value) })
		}
	}
	var body map[string]any
	if json.Unmarshal([]byte(c.body), &body) == nil {
		for _, k := range sortedKeys(body) {
			set = append(set, func() { body[k] = value }, func() {
				var v any
				if json.Unmarshal([]byte(value), &v) == nil {
					body[k] = v
				}
			})
		}
		set = append(set, func() { body = map[string]any{"": value, value: ""} })
	}
	for _, h := range fuzzHeaders {
		set = append(set, func() {
			c.header = c.header.Clone()
			if c.header == nil {
				c.header = http.Header{}
			}
			c.header[http.CanonicalHeaderKey(h)] = []string{value}
		})
	}
	set[place%len(set)]()
	c.query, c.path = q, path
	if body != nil {
		b, _ := json.Marshal(body)
		c.body = string(b)
	}
	return c
}
