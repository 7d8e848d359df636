package server

import (
	"encoding/json"
	"fmt"
	"mime"
	"slices"
	"strings"
	"testing"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// TestAnswers makes every request of the description once, as who may, and compares the
// answers with what is described; then once with something wrong.
func TestAnswers(t *testing.T) {
	w := startTestServer(t)
	if err := w.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	for i, op := range w.doc.ops {
		t.Run(op.id, func(t *testing.T) {
			make := calls[op.id]
			if make == nil {
				t.Fatalf("the test does not know how to call %s; tell it in calls_test.go", op.id)
			}
			if !w.hasRoute(op.id) {
				t.Skip("not served; TestRoutes tells")
			}
			x := w.makeFixture(t, w.root, fmt.Sprintf("things-%d", i))
			w.prepare(t, op.id, x)
			c := make(x)
			a := w.callOperation(t, op, c, w.root)
			if a.status >= 400 {
				t.Errorf("%d %s", a.status, a.body)
			}
			if err := w.doc.checkAnswer(op, a); err != nil {
				t.Errorf("%v: %d %s", err, a.status, a.body)
			}
			if op.public {
				return
			}
			bad := make(x)
			bad.query, bad.body = pairs([]string{"nonsense", "1"}), "{"
			for name := range bad.path {
				bad.path[name] = "none"
			}
			if a = w.callOperation(t, op, bad, w.root); a.status >= 500 {
				t.Errorf("a bad request: %d %s", a.status, a.body)
			}
			if err := w.doc.checkAnswer(op, a); err != nil {
				t.Errorf("a bad request: %v: %d %s", err, a.status, a.body)
			}
		})
	}
	for id := range calls {
		if !slices.ContainsFunc(w.doc.ops, func(op *apiOp) bool { return op.id == id }) {
			t.Errorf("calls_test.go calls %s, which is not described", id)
		}
	}
	if text := w.log.String(); strings.Contains(text, "panic") || strings.Contains(text, "ERROR") {
		t.Errorf("logged:\n%s", text)
	}
}

// prepare puts x into the state that an operation needs.
func (w *testServer) prepare(t *testing.T, id string, x *fixture) {
	t.Helper()
	switch id {
	case "removeVolume":
		w.mustCall(t, w.root, "closeSession", apiCall{path: map[string]string{"session": x.session}}, nil)
	case "appendHandle":
		var h api.Handle
		w.mustCall(t, w.root, "openFile", apiCall{path: map[string]string{"filesystem": x.filesystem}, query: pairs([]string{"path", "file", "append", "true"})}, &h)
		x.handle = h.ID
	case "createKey", "listKeys":
		w.createKey(t, accounts.NewKey{Scopes: accounts.Read, Volumes: []string{x.volume}, Format: "e2b"})
	case "statMany":
		w.mustCall(t, w.root, "symlink", x.onVolume(pairs([]string{"path", "\xff", "target", "x"}), ""), nil)
	}
}

// checkAnswer checks an answer against what is described of its operation.
func (d *apiDoc) checkAnswer(op *apiOp, a apiAnswer) error {
	schema, media, known := op.answer(d, a.status)
	if !known {
		return fmt.Errorf("the status is not described")
	}
	if len(media) == 0 {
		if a.body != "" {
			return fmt.Errorf("an answer without content has %q", a.body)
		}
		return nil
	}
	kind, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if !slices.Contains(media, kind) {
		return fmt.Errorf("the media type is %q, not of %v", kind, media)
	}
	if schema == nil || kind != "application/json" {
		return nil
	}
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		return err
	}
	return d.checkSchema("answer", schema, v)
}

// TestUploadIDs: whatever the random id of an upload begins with, it can be begun.
func TestUploadIDs(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "many")
	for range 150 {
		w.mustCall(t, w.root, "startUpload", x.onVolume(pairs([]string{"path", "big"}), ""), nil)
	}
}
