package server

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

var (
	randomRequests = flag.Int("requests", 4000, "how many requests TestRandomRequests makes")
	randomSeed     = flag.Uint64("requests.seed", 1, "of TestRandomRequests")
)

// TestRandomRequests makes requests that the description allows, and such as it does not,
// as one who may do everything. Each is answered within the server's own limit of time
// (beyond it the status is 503), in the form that is described,
// and never with an internal error.
func TestRandomRequests(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	const workers, lot = 4, 100
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for i := range workers {
		wg.Go(func() {
			g := &generator{r: rand.New(rand.NewPCG(*randomSeed, uint64(i))), w: w}
			for n := range *randomRequests / workers {
				if n%lot == 0 {
					g.x = w.makeFixture(t, w.root, fmt.Sprintf("w%d-%d", i, n))
				}
				status := g.sendRandom(t)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("answers by status: %v", statuses)
	if text := w.log.String(); strings.Contains(text, "panic") || strings.Contains(text, "level=ERROR") {
		t.Errorf("logged:\n%.4000s", text)
	}
}

// generator makes random requests about its things.
type generator struct {
	r *rand.Rand
	w *testServer
	x *fixture
}

func (g *generator) sendRandom(t *testing.T) int {
	op := g.w.doc.ops[g.r.IntN(len(g.w.doc.ops))]
	c := g.mutate(op, calls[op.id](g.x))
	as := *op
	if g.r.IntN(20) == 0 {
		as.method = pick(g.r, "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "get")
	}
	req, err := c.request(t.Context(), g.w.url, &as, g.w.root)
	if err != nil {
		return 0 // no client could send it
	}
	a := g.w.callOperation(t, &as, c, g.w.root)
	what := fmt.Sprintf("%s %.300s %v %.200q", req.Method, req.URL, c.header, c.body)
	if a.status >= 500 && a.status != http.StatusNotImplemented && a.status != http.StatusInsufficientStorage {
		t.Errorf("%s: %d %s", what, a.status, a.body)
	}
	if as.method == op.method {
		if err := g.w.doc.checkAnswer(op, a); err != nil && !g.refusedByHTTP(a) {
			t.Errorf("%s: %v: %d %.300s", what, err, a.status, a.body)
		}
	}
	return a.status
}

// refusedByHTTP reports whether net/http or its router answered before any route: to
// broken requests, and with redirects to paths in a clean form.
func (g *generator) refusedByHTTP(a apiAnswer) bool {
	return a.header.Get("Vole-Instance") == "" && (a.status == 400 || a.status == 431 || a.status/100 == 3)
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// mutate changes some of a good request.
func (g *generator) mutate(op *apiOp, c apiCall) apiCall {
	q := url.Values{}
	for k, v := range c.query {
		q[k] = slices.Clone(v)
	}
	for _, p := range op.params {
		switch n := g.r.IntN(12); {
		case p.in == "query" && n < 3:
			q.Set(p.name, g.value(p.schema))
		case p.in == "query" && n == 3:
			q.Add(p.name, g.value(p.schema))
		case p.in == "query" && n == 4:
			q.Del(p.name)
		case p.in == "path" && n == 0:
			c.path[p.name] = g.text()
		case p.in == "path" && n == 1:
			c.path[p.name] = pick(g.r, g.x.volume, g.x.name, g.x.session, g.x.handle, g.x.filesystem, uuid.NewString())
		}
	}
	if g.r.IntN(15) == 0 {
		q.Set(g.text(), g.text())
	}
	c.query = q
	c.header = g.headers(op, c.header)
	if g.r.IntN(3) == 0 {
		c.body = g.body(op, c.body)
	}
	return c
}

// value is for a parameter: of the right type or not, at the edges of what it may be.
func (g *generator) value(schema map[string]any) string {
	switch n := g.r.IntN(10); {
	case n < 3:
		return g.text()
	case n < 4:
		return fmt.Sprint(g.number())
	}
	switch schema["type"] {
	case "integer":
		return fmt.Sprint(g.number())
	case "boolean":
		return pick(g.r, "true", "false", "1", "0", "TRUE", "", "2")
	}
	if list, ok := schema["enum"].([]any); ok {
		return fmt.Sprint(pick(g.r, list...))
	}
	if schema["format"] == "date-time" {
		return pick(g.r, "2020-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1600-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999-23:59",
			"2262-04-12T00:00:00Z", "1969-12-31T23:59:59.9Z", "2020-01-01", "2020-02-30T00:00:00Z", "2020-01-01T00:00:00+99:99")
	}
	return pick(g.r, "file", "dir", "dir/sub", "link", "none", "/", ".", "", "7777", "644", "../x", "dir/../file", "file/x", "s.", "sZmlsZQ.x", "u.", "uZmlsZQ."+g.x.cursor,
		g.x.cursor, g.x.session, g.x.attachment, g.x.volume, "user.a", "user."+strings.Repeat("n", 250), "security.capability", "a=b,c!=d,e")
}

func (g *generator) number() any {
	return pick[any](g.r, 0, 1, -1, 7, 1000, 1001, 4095, 1<<16, 1<<24, 1<<24+1, int64(1)<<31-1, int64(1)<<31, int64(1)<<32-1, int64(1)<<53, int64(1)<<62, int64(math.MaxInt64),
		uint64(1)<<63, "99999999999999999999999", "-9223372036854775808", "1e3", "0x10", "1.5", "NaN", " 1", "+1")
}

// text is what is hard to take.
func (g *generator) text() string {
	return pick(g.r, "", " ", "\x00", "a\x00b", "\xff\xfe", "é", "e\u0301", "\u202egnp.exe", "💾", "..", "../..", "/", "//", "a//b", "a/./b", "\\", "%00", "%2e%2e%2f",
		"\r\nX-Injected: 1", "\n", "'; DROP TABLE volumes; --", "$(id)", "<script>", strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("é", 200),
		strings.Repeat("d/", 2000), strings.Repeat("x", 5000), "nul", "\u0000\uffff", "{volume}", "*", "?", "#", ";", "&", "=", "none")
}

func (g *generator) headers(op *apiOp, h http.Header) http.Header {
	h = h.Clone()
	if h == nil {
		h = http.Header{}
	}
	if op.param("Vole-Filesystem") != nil && g.r.IntN(4) == 0 {
		h.Set("Vole-Filesystem", pick(g.r, g.x.filesystem, "none", g.x.session))
	}
	for name, list := range map[string][]string{
		"Range":             {"bytes=0-", "bytes=5-2", "bytes=-1", "bytes=0-0,2-3", "bytes=99999999999-", "lines=1-2", "bytes=" + strings.Repeat("0-1,", 200)},
		"If-None-Match":     {"*", `"x"`, `W/"x"`, "\"", ""},
		"If-Match":          {"*", `"x"`, "x", ",,,"},
		"If-Modified-Since": {"Mon, 01 Jan 2035 00:00:00 GMT", "yesterday"},
		"Repr-Digest":       {"sha-256=:AAAA:", "md5=:AAAA:", "sha-256", "sha-512=::", "=", "sha-256=:" + strings.Repeat("A", 43) + "=:"},
		"Idempotency-Key":   {"one", "two", strings.Repeat("k", 128), strings.Repeat("k", 300), "é"},
		"If-Instance":       {"other", g.w.core.Instance()},
		"Content-Type":      {"application/json", "text/plain", "application/vnd.vole.sparse", "multipart/form-data", "nonsense", "application/x-tar", "application/octet-stream"},
		"X-Request-Id":      {"mine", strings.Repeat("i", 100), "a b"},
		"Accept-Encoding":   {"gzip", "identity;q=0"},
		"Content-Encoding":  {"gzip", "br"},
		"X-Forwarded-For":   {"1.2.3.4, nonsense"},
	} {
		if g.r.IntN(14) == 0 {
			h.Set(name, pick(g.r, list...))
		}
	}
	return h
}

func (g *generator) body(op *apiOp, good string) string {
	if op.body["application/json"] == nil || g.r.IntN(5) == 0 {
		b := make([]byte, g.r.IntN(3000))
		for i := range b {
			b[i] = byte(g.r.IntN(256))
		}
		return pick(g.r, string(b), "", strings.Repeat("\x00", 64), "\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01", good+"x")
	}
	if g.r.IntN(3) == 0 {
		deep := strings.Repeat(`{"a":`, 50_000)
		return pick(g.r, deep, strings.Repeat("[", 200_000), "null", "[]", "1", `""`, "{}", "{", good+good, good[:g.r.IntN(len(good)+1)], "\xef\xbb\xbf"+good,
			`{"name":"`+strings.Repeat("n", 2<<20)+`"}`, `{"name":"a","name":"b"}`, `{"unknown":1}`)
	}
	var v map[string]any
	if json.Unmarshal([]byte(good), &v) != nil || v == nil {
		return good
	}
	media := op.body["application/json"].(map[string]any)
	props, _ := g.w.doc.resolveRef(media["schema"])["properties"].(map[string]any)
	for name, s := range props {
		switch g.r.IntN(8) {
		case 0:
			v[name] = g.json(g.w.doc.resolveRef(s), 0)
		case 1:
			v[name] = pick[any](g.r, nil, true, -1, 1.5, g.text(), []any{}, []any{nil}, map[string]any{}, map[string]any{"a": nil}, json.Number("1e400"))
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return good
	}
	return string(b)
}

// json is a value that fits a schema, mostly.
func (g *generator) json(s map[string]any, depth int) any {
	switch s["type"] {
	case "string":
		return g.value(s)
	case "integer":
		return json.Number(fmt.Sprint(pick(g.r, 0, 1, 4096, 1<<30, 1<<62)))
	case "number":
		return g.r.Float64()
	case "boolean":
		return g.r.IntN(2) == 0
	case "array":
		list := []any{}
		for range g.r.IntN(4) {
			list = append(list, g.json(g.w.doc.resolveRef(s["items"]), depth+1))
		}
		return list
	}
	m := map[string]any{}
	for range g.r.IntN(3) {
		m[g.text()] = g.text()
	}
	return m
}
