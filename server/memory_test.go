package server

import (
	"io"
	"net/http"
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
	const memory, share = 128 << 20, 128 << 20 / 8 // of which all together have two shares
	w := startWorldOf(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, Memory: memory})
	if err := w.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	other := w.key(t, accounts.NewKey{Org: "other", Scopes: accounts.Write})
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
		start := time.Now()
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
		if took := time.Since(start); took > 10*time.Second { // 5 s, with some to spare
			t.Errorf("%s: it waited for %v", c.name, took)
		}
		if strings.HasPrefix(c.name, "own") {
			status, _, text := e2bCall(t, "GET", w.url+api.Prefix+"/volumes", nil, "Authorization", "Bearer "+other)
			if status != http.StatusOK {
				t.Errorf("%s: another organisation: %d %s", c.name, status, text)
			}
		}
		for org, n := range held {
			b.Share(org).Release(n)
		}
	}
	if a := w.call(t, w.op(t, "listVolumes"), apiCall{}, w.root); a.status != http.StatusOK {
		t.Errorf("once there is room: %d %s", a.status, a.body)
	}
}
