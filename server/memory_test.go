package server

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/server/internal/accounts"
)

// TestNoMemory: a request for which there is no memory waits for a few seconds and is told
// when to come again: with 429 when its own organisation holds it all, else with 503.
func TestNoMemory(t *testing.T) {
	t.Parallel()
	const memory, share = 128 << 20, 128 << 20 / 8 // of which all together have two shares
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, Memory: memory})
	if err := w.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	other := w.createKey(t, accounts.NewKey{Org: "other", Scopes: accounts.Write})
	b := w.core.Options().Budget
	fill := func(org string, n int64) {
		t.Helper()
		if err := b.Share(org).Acquire(t.Context(), budget.Small, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, method string
		status       int
		code         string
	}{
		{"own", "GET", http.StatusTooManyRequests, `"rate_limited"`}, {"own, with a body", "POST", http.StatusTooManyRequests, `"rate_limited"`},
		{"all", "GET", http.StatusServiceUnavailable, `"unavailable"`}, {"all, with a body", "POST", http.StatusServiceUnavailable, `"unavailable"`},
	} {
		held := map[string]int64{DefaultOrg: share}
		if strings.HasPrefix(c.name, "all") {
			held = map[string]int64{DefaultOrg: share / 32, "x": share, "y": share - share/32} // its floor, and all of the rest
		}
		for org, n := range held {
			fill(org, n)
		}
		req, err := http.NewRequestWithContext(t.Context(), c.method, w.url+api.Prefix+"/volumes", strings.NewReader(map[string]string{"POST": `{"name":"v"}`}[c.method]))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+w.root)
		// The status shows that the wait for memory ended: nothing is released before.
		res, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		after, err := strconv.Atoi(res.Header.Get("Retry-After"))
		if res.StatusCode != c.status || err != nil || after < 1 || !strings.Contains(string(body), c.code) {
			t.Errorf("%s: %d, Retry-After %q, %s", c.name, res.StatusCode, res.Header.Get("Retry-After"), body)
		}
		if strings.HasPrefix(c.name, "own") {
			status, _, text := sendRequest(t, "GET", w.url+api.Prefix+"/volumes", nil, "Authorization", "Bearer "+other)
			if status != http.StatusOK {
				t.Errorf("%s: another organisation: %d %s", c.name, status, text)
			}
		}
		for org, n := range held {
			b.Share(org).Release(n)
		}
	}
	if a := w.callOperation(t, w.operation(t, "listVolumes"), apiCall{}, w.root); a.status != http.StatusOK {
		t.Errorf("once there is room: %d %s", a.status, a.body)
	}
}

// Two clients that send slowly do not take the memory from other organisations.
func TestSlowSendersByHandle(t *testing.T) {
	w := startTestServer(t)
	bad := w.createOrg(t, "bad")
	x, mine := w.makeFixture(t, bad, "v"), w.makeFixture(t, w.root, "mine")
	for range 3 {
		c := w.sendRequestHead(t, bad, "PUT "+api.Prefix+"/handles/"+x.handle+"/data?offset=0", fmt.Sprintf("Content-Length: %d", api.MaxIO))
		_, _ = c.Write([]byte("x"))
	}
	// Each sender has the memory of its first piece. If they had all of the server's, the
	// read would be refused for want of memory.
	for w.memory.Used() < 3*(64<<10) {
		time.Sleep(time.Millisecond)
	}
	read := apiCall{path: map[string]string{"handle": mine.handle}, query: url.Values{"offset": {"0"}, "length": {"100"}}}
	w.mustCall(t, w.root, "readHandle", read, nil)
}
