package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/testing/servers"
)

// outage is a server with a large file of two objects, and where these are.
type outage struct {
	*testServer
	dir string
	v   api.Volume
}

func newOutage(t *testing.T) *outage {
	o := &outage{dir: t.TempDir()}
	o.testServer = startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: o.dir}})
	o.mustCall(t, o.root, "createVolume", apiCall{body: `{"name":"v"}`}, &o.v)
	o.mustCall(t, o.root, "writeFile", o.volumeCall(url.Values{"path": {"large"}}, strings.Repeat("0123456789abcdef", 9<<16)), nil)
	return o
}

func (o *outage) volumeCall(q url.Values, body string) apiCall {
	return apiCall{path: map[string]string{"volume": o.v.ID}, query: q, body: body}
}

// objects are the files of the blob store, largest first.
func (o *outage) objects(t *testing.T) (list []string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(o.dir, "blobs", "o", "*", "b", "*", "*"))
	if err != nil || len(list) != 2 {
		t.Fatalf("%d objects: %v", len(list), err)
	}
	a, _ := os.Stat(list[0])
	b, _ := os.Stat(list[1])
	if a.Size() < b.Size() {
		list[0], list[1] = list[1], list[0]
	}
	return list
}

// fails makes a request that the server cannot serve, and checks that its client is told
// code, nothing of the operator's, and an id under which the log has the reason.
func (o *outage) fails(t *testing.T, id, op string, c apiCall, status int, code string) {
	t.Helper()
	if c.header == nil {
		c.header = http.Header{}
	}
	c.header.Set(api.HeaderRequestID, id)
	a := o.callOperation(t, o.operation(t, op), c, o.root)
	if a.status != status || !strings.Contains(a.body, `"code":"`+code+`"`) || !strings.Contains(a.body, id) {
		t.Errorf("%s: %d %s; want %d %s with the id %s", op, a.status, a.body, status, code, id)
	}
	o.hides(t, op, a.body)
	o.logged(t, id)
}

// hides checks that a text for tenants has nothing of the operator's.
func (o *outage) hides(t *testing.T, what, text string) {
	t.Helper()
	for _, secret := range []string{o.dir, "blobs/", "o/0", "/b/", "127.0.0.1:", "SELECT", "no such file or directory"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s tells %q: %s", what, secret, text)
		}
	}
}

func (o *outage) logged(t *testing.T, id string) {
	t.Helper()
	if !strings.Contains(o.log.String(), "request="+id) {
		t.Errorf("the log has nothing under %s:\n%s", id, o.log.String())
	}
}

// TestLostObjects shows what becomes of requests whose bytes are lost.
func TestLostObjects(t *testing.T) {
	o := newOutage(t)
	list := o.objects(t)
	if err := os.Remove(list[1]); err != nil { // the end of the file
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", o.url+api.Prefix+"/volumes/v/content?path=large", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+o.root)
	req.Header.Set(api.HeaderRequestID, "in-the-middle")
	res, err := o.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err == nil || n == 0 || res.StatusCode != http.StatusOK {
		t.Errorf("a file whose end is lost: %d, %d bytes, %v; want an answer that breaks off", res.StatusCode, n, err)
	}
	o.logged(t, "in-the-middle")
	if err := os.Remove(list[0]); err != nil {
		t.Fatal(err)
	}
	o.fails(t, "at-the-beginning", "readFile", o.volumeCall(url.Values{"path": {"large"}}, ""), 500, "corrupt")
}

// TestStorageAway shows what becomes of requests, and of what is kept of them for tenants,
// when the directory of objects is gone.
func TestStorageAway(t *testing.T) {
	o := newOutage(t)
	if err := os.RemoveAll(filepath.Join(o.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 200<<10)
	for i, key := range []string{"", "once"} {
		c := o.volumeCall(url.Values{"path": {"new"}}, large)
		c.header = http.Header{}
		if key != "" {
			c.header.Set(api.HeaderIdempotencyKey, key)
		}
		o.fails(t, fmt.Sprint("write-", i), "writeFile", c, 503, codeNoStorage)
	}
	o.fails(t, "read", "readFile", o.volumeCall(url.Values{"path": {"large"}}, ""), 503, codeNoStorage)
	var page api.AuditPage
	o.mustCall(t, o.root, "listAudit", apiCall{}, &page)
	for _, rec := range page.Records {
		o.hides(t, "the audit log", rec.Detail)
	}
	res := o.getPath(t, "/readyz")
	if res.status != 503 || !strings.Contains(res.body, "storage") {
		t.Errorf("readyz without the blob store: %d %s", res.status, res.body)
	}
	o.hides(t, "readyz", res.body)
}

const codeNoStorage = "storage_unavailable"

func (w *testServer) getPath(t *testing.T, path string) apiAnswer {
	t.Helper()
	res, err := w.client.Get(w.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return apiAnswer{res.StatusCode, res.Header, string(b)}
}

// TestDatabaseAway shows that a server whose database does not answer says so in seconds, and
// that a client can tell.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	direct := servers.PG(t)
	gate, through := newGate(t, direct)
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Database: through, Blobs: t.TempDir()}})
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"v"}`}, nil)
	gate.setOpen(false)
	t.Cleanup(func() { gate.setOpen(true) }) // the end of a server needs it, too
	begin := time.Now()
	a := w.callOperation(t, w.operation(t, "listVolumes"), apiCall{header: http.Header{api.HeaderRequestID: {"listing"}}}, w.root)
	if took := time.Since(begin); took > 45*time.Second {
		t.Errorf("the answer took %v", took)
	}
	if a.status != 503 || !strings.Contains(a.body, "database unavailable") {
		t.Errorf("without a database: %d %s", a.status, a.body)
	}
	o := &outage{testServer: w, dir: gate.addr()}
	o.hides(t, "the answer", a.body)
	o.logged(t, "listing")
	if ready := w.getPath(t, "/readyz"); ready.status != 503 || !strings.Contains(ready.body, "database unavailable") {
		t.Errorf("readyz: %d %s", ready.status, ready.body)
	}
}

// gate forwards connections to a database while it is open.
type gate struct {
	listen net.Listener
	mu     sync.Mutex // guards what follows
	shut   bool
	conns  []net.Conn
}

func newGate(t *testing.T, to string) (*gate, string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listen: ln}
	t.Cleanup(func() { _ = ln.Close() })
	go g.forward(u.Host)
	u.Host = g.addr()
	return g, u.String()
}

func (g *gate) addr() string { return g.listen.Addr().String() }

func (g *gate) forward(to string) {
	for {
		c, err := g.listen.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", to)
		g.mu.Lock()
		shut := g.shut
		if !shut && err == nil {
			g.conns = append(g.conns, c, s)
		}
		g.mu.Unlock()
		if shut || err != nil {
			_ = c.Close()
			continue
		}
		go func() { _, _ = io.Copy(s, c); _ = s.Close() }()
		go func() { _, _ = io.Copy(c, s); _ = c.Close() }()
	}
}

// setOpen opens or closes the gate. What was connected is cut off.
func (g *gate) setOpen(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = !open
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}
