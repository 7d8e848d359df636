package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
)

// cornerNumbers are what arithmetic trips over, as they stand in a query or in JSON.
var cornerNumbers = []string{
	"0", "-0", "1", "-1", "2147483647", "2147483648", "4294967295", "4294967296", "9007199254740992", "17592186044415", "17592186044416",
	"4611686018427387904", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616",
	"1e3", "1e400", "-1e400", "1.5", "NaN", "Infinity", `"1e3"`, "0x10", strings.Repeat("9", 4000), "0." + strings.Repeat("0", 4000) + "1", "null", "[]", "{}", "true",
}

// corners is a server whose integers are tried.
type corners struct {
	*testServer
	x *fixture
}

// light is what the volumes hold, without the content of files, some of which get large.
func (c *corners) light(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	var vols api.VolumePage
	c.mustCall(t, c.root, "listVolumes", apiCall{}, &vols)
	for _, v := range vols.Volumes {
		fmt.Fprintf(&b, "volume %s %s quota %d capacity %d used %d\n", v.ID, v.Name, v.Quota, v.Capacity, v.Used)
	}
	for _, dir := range []string{"/", "/dir"} {
		var page api.EntryPage
		c.mustCall(t, c.root, "listEntries", c.x.onVolume(pairs([]string{"path", dir}), ""), &page)
		for _, e := range page.Entries {
			fmt.Fprintf(&b, "%s/%s %s %s %d %d:%d %v\n", dir, e.Name, e.Type, e.Mode, e.Size, e.UID, e.GID, e.Mtime)
		}
	}
	return b.String()
}

// tried checks what came of a request with a corner value: an answer, an error that is the
// client's or says what there is no room for, and no change where it was refused.
func (c *corners) tried(t *testing.T, what string, changes bool, before *string, a apiAnswer) {
	t.Helper()
	if a.status >= 500 && a.status != http.StatusNotImplemented && a.status != http.StatusInsufficientStorage {
		t.Errorf("%.200s: %d %.200s", what, a.status, a.body)
	}
	if !changes {
		return
	}
	now := c.light(t)
	if a.status >= 400 && now != *before {
		t.Errorf("%.200s: was refused (%d) and changed\n%s\nto\n%s", what, a.status, *before, now)
	}
	*before = now
}

// TestCornerNumbers tries the corner values on every integer that the description has: no
// answer is an internal error, nothing panics, and what is refused changes nothing.
func TestCornerNumbers(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]Options{"bucket": {Bucket: &bucket.Options{Dir: t.TempDir()}}, "home": {Home: t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			w := startTestServerWith(t, opts)
			c := &corners{w, w.makeFixture(t, w.root, "v")}
			before := c.light(t)
			for _, op := range w.doc.ops {
				c.tryQuery(t, op, &before)
				c.tryBody(t, op, &before)
			}
			c.tryDialects(t, &before)
			if text := w.log.String(); strings.Contains(text, "panic") || strings.Contains(text, "level=ERROR") {
				t.Errorf("logged:\n%.4000s", text)
			}
		})
	}
}

func (c *corners) tryQuery(t *testing.T, op *apiOp, before *string) {
	t.Helper()
	for _, p := range op.params {
		if p.in != "query" || p.schema["type"] != "integer" && p.schema["type"] != "number" {
			continue
		}
		for _, n := range cornerNumbers {
			call := calls[op.id](c.x)
			q := url.Values{}
			for k, v := range call.query {
				q[k] = v
			}
			q.Set(p.name, n)
			call.query = q
			c.tried(t, fmt.Sprintf("%s %s=%s", op.id, p.name, n), op.method != "GET", before, c.callOperation(t, op, call, c.root))
		}
	}
}

func (c *corners) tryBody(t *testing.T, op *apiOp, before *string) {
	t.Helper()
	media, _ := op.body["application/json"].(map[string]any)
	if media == nil {
		return
	}
	for _, with := range c.numbersIn(media["schema"]) {
		for _, n := range cornerNumbers {
			call := calls[op.id](c.x)
			var v map[string]any
			if json.Unmarshal([]byte(call.body), &v) != nil {
				t.Fatalf("%s: the body of the test is %q", op.id, call.body)
			}
			delete(v, "quota")
			with(v)
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			call.body = strings.ReplaceAll(string(b), `"@"`, n)
			c.tried(t, op.id+" "+call.body, op.method != "GET", before, c.callOperation(t, op, call, c.root))
		}
	}
}

// numbersIn returns functions that put a mark in the place of each number of a schema.
func (c *corners) numbersIn(schema any) (list []func(v map[string]any)) {
	s := c.doc.resolveRef(schema)
	props, _ := s["properties"].(map[string]any)
	for name, p := range props {
		p := c.doc.resolveRef(p)
		switch p["type"] {
		case "integer", "number":
			list = append(list, func(v map[string]any) { v[name] = "@" })
		case "object":
			for _, inner := range c.numbersIn(p) {
				list = append(list, func(v map[string]any) {
					m := map[string]any{}
					inner(m)
					v[name] = m
				})
			}
		case "array":
			for _, inner := range c.numbersIn(p["items"]) {
				list = append(list, func(v map[string]any) {
					m := map[string]any{}
					inner(m)
					v[name] = []any{m}
				})
			}
		}
	}
	return list
}

// tryDialects is the same for what the other dialects have, whose descriptions are not ours.
func (c *corners) tryDialects(t *testing.T, before *string) {
	t.Helper()
	_, _, body := sendRequest(t, "GET", c.url+"/volumes/"+c.x.volume, nil, "X-API-Key", c.root)
	var v e2bVolume
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatal(err)
	}
	content, bearer := "/volumecontent/"+c.x.volume, []string{"Authorization", "Bearer " + v.Token}
	for i, n := range cornerNumbers {
		q := url.QueryEscape(n)
		for _, r := range []struct{ method, path, body string }{
			{"GET", content + "/dir?path=/&depth=" + q, ""},
			{"PUT", content + "/file?path=/e&force=true&uid=" + q, "x"}, {"PUT", content + "/file?path=/e&force=true&gid=" + q, "x"},
			{"PUT", content + "/file?path=/e&force=true&mode=" + q, "x"}, {"POST", fmt.Sprintf("%s/dir?path=/d%d&mode=%s", content, i, q), ""},
			{"POST", fmt.Sprintf("%s/dir?path=/u%d&uid=%s", content, i, q), ""},
			{"PATCH", content + "/path?path=/file", `{"mode":` + n + `}`}, {"PATCH", content + "/path?path=/file", `{"uid":` + n + `}`}, {"PATCH", content + "/path?path=/file", `{"gid":` + n + `}`},
		} {
			status, h, text := sendRequest(t, r.method, c.url+r.path, strings.NewReader(r.body), bearer...)
			c.tried(t, r.method+" "+r.path+" "+r.body, r.method != "GET", before, apiAnswer{status, h, text})
		}
		for _, r := range []struct{ method, path, body string }{
			{"POST", "/v1/volumes", fmt.Sprintf(`{"name":"m%d","capacity_gib":%s}`, i, n)}, {"PATCH", "/v1/volumes/" + c.x.volume, `{"capacity_gib":` + n + `}`},
		} {
			status, h, text := sendRequest(t, r.method, c.url+r.path, strings.NewReader(r.body), "Authorization", "Bearer "+c.root)
			c.tried(t, r.method+" "+r.path+" "+r.body, true, before, apiAnswer{status, h, text})
		}
	}
	for _, r := range []string{"bytes=0-9223372036854775807", "bytes=9223372036854775807-", "bytes=9223372036854775808-", "bytes=-9223372036854775807", "bytes=-9223372036854775808",
		"bytes=18446744073709551615-", "bytes=" + strings.Repeat("9", 3000) + "-", "bytes=1e3-", "bytes=--1"} {
		for _, path := range []string{api.Prefix + "/volumes/" + c.x.volume + "/content?path=dir/a", content + "/file?path=/dir/a"} {
			key := c.root
			if strings.HasPrefix(path, content) {
				key = v.Token
			}
			status, h, text := sendRequest(t, "GET", c.url+path, nil, "Authorization", "Bearer "+key, "Range", r)
			c.tried(t, path+" Range: "+r, false, before, apiAnswer{status, h, text})
		}
	}
}
