package server

import (
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// Who is alone with a volume is not joined by who has read the id of the attachment.
func TestAttachmentOfAnotherSession(t *testing.T) {
	w := startTestServer(t)
	var v api.Volume
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"alone"}`}, &v)
	var a api.Attachment
	w.mustCall(t, w.root, "attach", apiCall{path: map[string]string{"volume": v.ID}, body: `{"exclusive":true}`}, &a)
	other := w.createKey(t, accounts.NewKey{Scopes: accounts.Write})
	for key, want := range map[string]int{other: http.StatusConflict, w.root: http.StatusConflict} {
		var s api.Session
		w.mustCall(t, key, "openSession", apiCall{}, &s)
		open := apiCall{path: map[string]string{"session": s.ID}, query: url.Values{"volume": {v.ID}, "attachment": {a.ID}}}
		if got := w.callOperation(t, w.operation(t, "openFilesystem"), open, key); got.status != want {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	own := apiCall{path: map[string]string{"session": a.Session}, query: url.Values{"volume": {v.ID}, "attachment": {a.ID}}}
	w.mustCall(t, w.root, "openFilesystem", own, nil)
}

// Files that are opened to be changed are in the audit log, those that are read are not.
func TestAuditOfHandles(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "v")
	open := apiCall{path: map[string]string{"filesystem": x.filesystem}, query: url.Values{"path": {"made"}, "write": {"true"}, "create": {"true"}}}
	w.mustCall(t, w.root, "openFile", open, nil)
	open.query = url.Values{"path": {"file"}}
	w.mustCall(t, w.root, "openFile", open, nil)
	var paths []string
	for range 50 {
		var page api.AuditPage
		w.mustCall(t, w.root, "listAudit", apiCall{}, &page)
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
