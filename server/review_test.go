package server

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// org makes an organisation and returns a key of it.
func (w *world) org(t *testing.T, name string) string {
	t.Helper()
	var k api.NewKey
	w.must(t, w.root, "createOrg", apiCall{body: fmt.Sprintf(`{"name":%q}`, name)}, &k)
	return k.Secret
}

// raw opens a connection and sends the head of a request.
func (w *world) raw(t *testing.T, key, line string, headers ...string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n", line, key, strings.Join(append(headers, ""), "\r\n"))
	return c
}

// Two clients that send slowly do not take the memory from other organisations.
func TestSlowSendersByHandle(t *testing.T) {
	w := startWorld(t)
	bad := w.org(t, "bad")
	x, mine := w.make(t, bad, "v"), w.make(t, w.root, "mine")
	for range 3 {
		c := w.raw(t, bad, "PUT "+api.Prefix+"/handles/"+x.handle+"/data?offset=0", fmt.Sprintf("Content-Length: %d", api.MaxIO))
		_, _ = c.Write([]byte("x"))
	}
	time.Sleep(300 * time.Millisecond)
	w.client.Timeout = 3 * time.Second
	read := apiCall{path: map[string]string{"handle": mine.handle}, query: url.Values{"offset": {"0"}, "length": {"100"}}}
	w.must(t, w.root, "readHandle", read, nil)
}

// A request that moves no files ends with its time, though its client sends now and then.
func TestSlowBodyEndsInTime(t *testing.T) {
	w := startWorld(t)
	x := w.make(t, w.root, "v")
	w.core.Options().Timeout = 500 * time.Millisecond
	c := w.raw(t, w.root, "PUT "+api.Prefix+"/handles/"+x.handle+"/data?offset=0", "Content-Length: 1000000")
	begun := time.Now()
	_ = c.SetReadDeadline(begun.Add(5 * time.Second))
	_, _ = c.Write([]byte("some"))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode < 400 {
		t.Error(res.Status)
	}
}

// What one organisation leaves open does not end the listings of another.
func TestListingsOfOthers(t *testing.T) {
	w := startWorld(t)
	badKey := w.org(t, "bad")
	x, mine := w.make(t, badKey, "v"), w.make(t, w.root, "mine")
	q := url.Values{"path": {"dir"}, "unsorted": {"true"}, "limit": {"1"}}
	for range 4200 {
		w.must(t, badKey, "listEntries", x.at(q, ""), nil)
	}
	var page api.EntryPage
	w.must(t, w.root, "listEntries", mine.at(q, ""), &page)
	q.Set("cursor", page.Next)
	w.must(t, w.root, "listEntries", mine.at(q, ""), &page)
}

// A stream of events ends when its key does.
func TestEventsOfRevokedKey(t *testing.T) {
	w := startWorld(t)
	k, secret, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Read})
	if err != nil {
		t.Fatal(err)
	}
	c := w.raw(t, secret, "GET "+api.Prefix+"/events")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Scan() // ready
	w.must(t, w.root, "revokeKey", apiCall{path: map[string]string{"key": k.ID}}, nil)
	w.must(t, w.root, "createVolume", apiCall{body: `{"name":"secret"}`}, nil)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for lines.Scan() {
		if strings.Contains(lines.Text(), "secret") {
			t.Fatalf("a revoked key learns of %s", lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream goes on: %v", err)
	}
}

// Who is alone with a volume is not joined by who has read the id of the attachment.
func TestAttachmentOfAnotherSession(t *testing.T) {
	w := startWorld(t)
	var v api.Volume
	w.must(t, w.root, "createVolume", apiCall{body: `{"name":"alone"}`}, &v)
	var a api.Attachment
	w.must(t, w.root, "attach", apiCall{path: map[string]string{"volume": v.ID}, body: `{"exclusive":true}`}, &a)
	other := w.key(t, accounts.NewKey{Scopes: accounts.Write})
	for key, want := range map[string]int{other: http.StatusConflict, w.root: http.StatusConflict} {
		var s api.Session
		w.must(t, key, "openSession", apiCall{}, &s)
		open := apiCall{path: map[string]string{"session": s.ID}, query: url.Values{"volume": {v.ID}, "attachment": {a.ID}}}
		if got := w.call(t, w.op(t, "openFilesystem"), open, key); got.status != want {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	own := apiCall{path: map[string]string{"session": a.Session}, query: url.Values{"volume": {v.ID}, "attachment": {a.ID}}}
	w.must(t, w.root, "openFilesystem", own, nil)
}

// The same idempotency key with another body is another request, not a success.
func TestIdempotencyKeyOfAnotherBody(t *testing.T) {
	w := startWorld(t)
	once := http.Header{api.HeaderIdempotencyKey: {"k"}}
	for _, c := range []struct {
		body   string
		status int
	}{{`{"name":"one"}`, 201}, {`{"name":"one"}`, 201}, {`{"name":"two"}`, 400}, {"", 400}} {
		if got := w.call(t, w.op(t, "createVolume"), apiCall{header: once.Clone(), body: c.body}, w.root); got.status != c.status {
			t.Errorf("%s: %d %s", c.body, got.status, got.body)
		}
	}
}

// Files that are opened to be changed are in the audit log, those that are read are not.
func TestAuditOfHandles(t *testing.T) {
	w := startWorld(t)
	x := w.make(t, w.root, "v")
	open := apiCall{path: map[string]string{"filesystem": x.filesystem}, query: url.Values{"path": {"made"}, "write": {"true"}, "create": {"true"}}}
	w.must(t, w.root, "openFile", open, nil)
	open.query = url.Values{"path": {"file"}}
	w.must(t, w.root, "openFile", open, nil)
	var paths []string
	for range 50 {
		var page api.AuditPage
		w.must(t, w.root, "listAudit", apiCall{}, &page)
		paths = nil
		for _, rec := range page.Records {
			if rec.Action == "openFile" && rec.Volume == x.volume {
				paths = append(paths, rec.Path)
			}
		}
		if len(paths) >= 2 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	slices.Sort(paths)                                  // records of one moment may be written in any order
	if !slices.Equal(paths, []string{"file", "made"}) { // make opened that for writing
		t.Errorf("recorded: %q", paths)
	}
}

// One organisation has no end of streams of events.
func TestMostWatchers(t *testing.T) {
	w := startWorld(t)
	for i := range 501 {
		c := w.raw(t, w.root, "GET "+api.Prefix+"/events")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if i == 500 && res.StatusCode != http.StatusTooManyRequests || i < 500 && res.StatusCode != http.StatusOK {
			t.Fatal(i, res.Status)
		}
	}
}

// Of several who write over the same version one does.
func TestIfMatchAtOnce(t *testing.T) {
	w := startWorld(t)
	x := w.make(t, w.root, "v")
	q := url.Values{"path": {"file"}}
	for range 20 {
		var e api.Entry
		w.must(t, w.root, "stat", x.at(q, ""), &e)
		var mu sync.Mutex
		got := map[int]int{}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := x.at(q, fmt.Sprintf("by %d", i))
				c.header = http.Header{"If-Match": {e.Etag}}
				status := w.call(t, w.op(t, "writeFile"), c, w.root).status
				mu.Lock()
				defer mu.Unlock()
				got[status]++
			})
		}
		wg.Wait()
		if got[http.StatusOK] != 1 || got[http.StatusPreconditionFailed] != 7 {
			t.Fatalf("answers: %v", got)
		}
	}
}

// The digest of a sparse body is checked, too.
func TestDigestOfSparse(t *testing.T) {
	w := startWorld(t)
	x := w.make(t, w.root, "v")
	body := &bytes.Buffer{}
	for _, n := range []uint64{4, 2} { // two bytes at 4, of 10
		_ = binary.Write(body, binary.BigEndian, n)
	}
	body.WriteString("ab")
	for _, n := range []uint64{10, 0} {
		_ = binary.Write(body, binary.BigEndian, n)
	}
	c := x.at(url.Values{"path": {"sparse"}, "size": {"10"}}, body.String())
	c.header = http.Header{"Content-Type": {api.TypeSparse}}
	w.must(t, w.root, "writeFile", c, nil)
	sum := sha256.Sum256(body.Bytes())
	c.header.Set(api.HeaderDigest, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	w.must(t, w.root, "writeFile", c, nil)
	sum = sha256.Sum256([]byte("something else"))
	c.header.Set(api.HeaderDigest, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	if got := w.call(t, w.op(t, "writeFile"), c, w.root); got.status != http.StatusBadRequest {
		t.Errorf("%d %s", got.status, got.body)
	}
}
