package server_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/volehq/vole/internal/api"
)

// as is the same server with another key.
func (c *client) as(in api.CreateKey) *client {
	c.t.Helper()
	body, _ := json.Marshal(in)
	var made api.NewKey
	c.wantStatus(201, "POST", "/keys", nil, string(body), &made)
	return &client{c.t, c.url, made.Secret}
}

// A key that ends makes none that outlives it.
func TestKeyOutlivesNothing(t *testing.T) {
	c := startNative(t)
	ends := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	short := c.as(api.CreateKey{Name: "short", Scopes: []api.Scope{"admin"}, Expires: ends})
	var made api.NewKey
	short.wantStatus(201, "POST", "/keys", nil, `{"name":"child","scopes":["read"]}`, &made)
	if !made.Key.Expires.Equal(ends) {
		t.Errorf("a key that ends at %v made one that ends at %v", ends, made.Key.Expires)
	}
	short.wantError(403, "forbidden", "POST", "/keys", nil, fmt.Sprintf(`{"name":"child","scopes":["read"],"expires":%q}`, ends.Add(time.Hour).Format(time.RFC3339)))
	short.wantStatus(201, "POST", "/keys", nil, fmt.Sprintf(`{"name":"child","scopes":["read"],"expires":%q}`, ends.Add(-time.Minute).Format(time.RFC3339)), nil)
}

// Who may only read keeps nobody from writing.
func TestReaderIsNotExclusive(t *testing.T) {
	c := startVolume(t)
	reader := c.as(api.CreateKey{Name: "reader", Scopes: []api.Scope{"read"}})
	reader.wantError(403, "forbidden", "POST", "/volumes/v/attachments", nil, `{"read_only":true,"exclusive":true}`)
	reader.wantError(403, "forbidden", "POST", "/volumes/v/attachments", nil, `{}`)
	var a api.Attachment
	reader.wantStatus(201, "POST", "/volumes/v/attachments", nil, `{"read_only":true}`, &a)
	if a.Host != "127.0.0.1" || a.Pid != 0 {
		t.Errorf("the holder is said to be process %d on %q", a.Pid, a.Host)
	}
}

// What concerns more than files is in the audit log when the answer is there.
func TestAuditBeforeAnswer(t *testing.T) {
	c := startNative(t)
	for i := range 20 {
		c.wantStatus(201, "POST", "/volumes", nil, fmt.Sprintf(`{"name":"v%d"}`, i), nil)
		var page api.AuditPage
		c.wantStatus(200, "GET", "/audit", nil, "", &page)
		if len(page.Records) == 0 || page.Records[0].Action != "createVolume" || len(page.Records) != i+1 {
			t.Fatalf("after %d volumes the audit log has %d records", i+1, len(page.Records))
		}
	}
}
