package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// testServer is a running server with its description, and keys of two organisations.
type testServer struct {
	*Server
	url    string
	doc    *apiDoc
	client *http.Client
	log    *logBuffer

	root string // the secret of a key with all rights
}

// logBuffer keeps what a server logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startTestServer(t testing.TB) *testServer {
	t.Helper()
	// What a test holds, it holds to its end, however long that takes on a busy machine.
	return startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, MaxFile: 64 << 20, Lease: time.Hour})
}

// startTestServerWith is startTestServer with other options.
func startTestServerWith(t testing.TB, opts Options) *testServer {
	t.Helper()
	logs := &logBuffer{}
	opts.Log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := New(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln, 5*time.Second) }()
	w := &testServer{Server: s, url: "http://" + ln.Addr().String(), doc: describedAPI(t), log: logs,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: answerTimeout}}
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w.root = w.createKey(t, accounts.NewKey{Scopes: accounts.Admin | accounts.Operator})
	return w
}

// createKey makes a key by the back door and returns its secret.
func (w *testServer) createKey(t testing.TB, n accounts.NewKey) string {
	t.Helper()
	if n.Org == "" {
		n.Org = DefaultOrg
	}
	if n.Name == "" {
		n.Name = "test"
	}
	_, secret, err := w.accounts.CreateKey(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// apiCall is a request of an operation: what fills its path, its query, its body.
type apiCall struct {
	path   map[string]string
	query  url.Values
	header http.Header
	body   string
	// target says what of ours the query or the body name besides the path: volume, session.
	target string
}

// apiAnswer is what came of a call.
type apiAnswer struct {
	status int
	header http.Header
	body   string
}

func (c apiCall) request(ctx context.Context, base string, op *apiOp, key string) (*http.Request, error) {
	path := op.path
	for name, v := range c.path {
		path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(v))
	}
	target := base + path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, op.method, target, strings.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	for media := range op.body {
		req.Header.Set("Content-Type", media)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	return req, nil
}

// answerTimeout tells a request that hangs from one on a busy machine. It bounds nothing that
// a server promises: those bounds show in the status of an answer.
const answerTimeout = 5 * time.Minute

// callOperation makes a request. Of an endless answer the first line is read.
func (w *testServer) callOperation(t testing.TB, op *apiOp, c apiCall, key string) apiAnswer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerTimeout)
	defer cancel()
	req, err := c.request(ctx, w.url, op, key)
	if err != nil {
		t.Fatalf("%s: %v", op.id, err)
	}
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", op.id, err)
	}
	defer res.Body.Close()
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return apiAnswer{res.StatusCode, res.Header, ""}
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", op.id, err)
	}
	return apiAnswer{res.StatusCode, res.Header, string(b)}
}

// operation returns the operation of that name.
func (w *testServer) operation(t testing.TB, id string) *apiOp {
	t.Helper()
	for _, op := range w.doc.ops {
		if op.id == id {
			return op
		}
	}
	t.Fatalf("there is no operation %s", id)
	return nil
}

// mustCall makes a request that has to succeed, and decodes its JSON.
func (w *testServer) mustCall(t testing.TB, key, id string, c apiCall, out any) {
	t.Helper()
	a := w.callOperation(t, w.operation(t, id), c, key)
	if a.status >= 300 {
		t.Fatalf("%s: %d %s", id, a.status, a.body)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(a.body), out); err != nil {
			t.Fatalf("%s: %v in %q", id, err, a.body)
		}
	}
}

// fixture are what operations act on; all of them belong to one key.
type fixture struct {
	owner               string // id of the key
	volume, name        string // id and name
	session, attachment string
	filesystem, handle  string
	key, upload         string // ids
	cursor              string // of an unsorted listing
}

// hasRoute reports whether the server has the route of an operation.
func (w *testServer) hasRoute(id string) bool {
	for _, rt := range w.native.Dialect().Routes {
		if rt.Name == id {
			return true
		}
	}
	return false
}

// makeFixture makes one of each.
func (w *testServer) makeFixture(t testing.TB, key, name string) *fixture {
	t.Helper()
	x := &fixture{name: name}
	var s api.Server
	w.mustCall(t, key, "getServer", apiCall{}, &s)
	x.owner = s.Key
	var v api.Volume
	w.mustCall(t, key, "createVolume", apiCall{body: fmt.Sprintf(`{"name":%q,"labels":{"a":"b"}}`, name)}, &v)
	x.volume = v.ID
	for path, text := range map[string]string{"file": "some text of " + name, "dir/sub/deep": "deep", "dir/a": "a", "dir/b": "b"} {
		w.mustCall(t, key, "writeFile", x.onVolume(url.Values{"path": {path}}, text), nil)
	}
	w.mustCall(t, key, "symlink", x.onVolume(url.Values{"path": {"link"}, "target": {"file"}}, ""), nil)
	w.mustCall(t, key, "mkdir", x.onVolume(url.Values{"path": {"empty"}}, ""), nil)
	w.mustCall(t, key, "setXattr", x.onVolume(url.Values{"path": {"file"}, "name": {"user.a"}}, "value"), nil)
	var a api.Attachment
	w.mustCall(t, key, "attach", x.onVolume(nil, `{"holder":"me"}`), &a)
	x.session, x.attachment = a.Session, a.ID
	var f api.Filesystem
	w.mustCall(t, key, "openFilesystem", apiCall{path: map[string]string{"session": x.session}, query: url.Values{"volume": {x.volume}}}, &f)
	x.filesystem = f.ID
	var h api.Handle
	w.mustCall(t, key, "openFile", apiCall{path: map[string]string{"filesystem": f.ID}, query: url.Values{"path": {"file"}, "write": {"true"}}}, &h)
	x.handle = h.ID
	var page api.EntryPage
	w.mustCall(t, key, "listEntries", x.onVolume(url.Values{"path": {"dir"}, "unsorted": {"true"}, "limit": {"1"}}, ""), &page)
	x.cursor = page.Next
	var k api.NewKey
	w.mustCall(t, w.root, "createKey", apiCall{body: `{"name":"of ` + name + `","scopes":["read"]}`}, &k)
	x.key = k.Key.ID
	x.upload = "none"
	if w.hasRoute("startUpload") {
		var u api.Upload
		w.mustCall(t, key, "startUpload", x.onVolume(url.Values{"path": {"big"}}, ""), &u)
		x.upload = u.ID
	}
	return x
}

// onVolume is a call on the volume.
func (x *fixture) onVolume(q url.Values, body string) apiCall {
	return apiCall{path: map[string]string{"volume": x.volume}, query: q, body: body}
}

// createOrg makes an organisation and returns a key of it.
func (w *testServer) createOrg(t *testing.T, name string) string {
	t.Helper()
	var k api.NewKey
	w.mustCall(t, w.root, "createOrg", apiCall{body: fmt.Sprintf(`{"name":%q}`, name)}, &k)
	return k.Secret
}

// sendRequestHead opens a connection and sends the head of a request.
func (w *testServer) sendRequestHead(t *testing.T, key, line string, headers ...string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n", line, key, strings.Join(append(headers, ""), "\r\n"))
	return c
}
