package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/volehq/vole/internal/api"
)

// The same idempotency key with another body is another request, not a success.
func TestIdempotencyKeyOfAnotherBody(t *testing.T) {
	w := startTestServer(t)
	once := http.Header{api.HeaderIdempotencyKey: {"k"}}
	for _, c := range []struct {
		body   string
		status int
	}{{`{"name":"one"}`, 201}, {`{"name":"one"}`, 201}, {`{"name":"two"}`, 400}, {"", 400}} {
		if got := w.callOperation(t, w.operation(t, "createVolume"), apiCall{header: once.Clone(), body: c.body}, w.root); got.status != c.status {
			t.Errorf("%s: %d %s", c.body, got.status, got.body)
		}
	}
}

// Of several who write over the same version one does.
func TestIfMatchAtOnce(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "v")
	q := url.Values{"path": {"file"}}
	for range 20 {
		var e api.Entry
		w.mustCall(t, w.root, "stat", x.onVolume(q, ""), &e)
		var mu sync.Mutex
		got := map[int]int{}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c := x.onVolume(q, fmt.Sprintf("by %d", i))
				c.header = http.Header{"If-Match": {e.Etag}}
				status := w.callOperation(t, w.operation(t, "writeFile"), c, w.root).status
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
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "v")
	body := &bytes.Buffer{}
	for _, n := range []uint64{4, 2} { // two bytes at 4, of 10
		_ = binary.Write(body, binary.BigEndian, n)
	}
	body.WriteString("ab")
	for _, n := range []uint64{10, 0} {
		_ = binary.Write(body, binary.BigEndian, n)
	}
	c := x.onVolume(url.Values{"path": {"sparse"}, "size": {"10"}}, body.String())
	c.header = http.Header{"Content-Type": {api.TypeSparse}}
	w.mustCall(t, w.root, "writeFile", c, nil)
	sum := sha256.Sum256(body.Bytes())
	c.header.Set(api.HeaderDigest, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	w.mustCall(t, w.root, "writeFile", c, nil)
	sum = sha256.Sum256([]byte("something else"))
	c.header.Set(api.HeaderDigest, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	if got := w.callOperation(t, w.operation(t, "writeFile"), c, w.root); got.status != http.StatusBadRequest {
		t.Errorf("%d %s", got.status, got.body)
	}
}
