package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// A server of this host's volumes tells nobody where they lie, by no route: an Info of the
// home has the path, an answer has not.
func TestHomeIsNotTold(t *testing.T) {
	home := t.TempDir()
	w := startTestServerWith(t, Options{Home: home})
	var dir, disk api.Volume
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"v"}`}, &dir)
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"k","kind":"disk","capacity":8388608}`}, &disk)
	b, err := w.organisations.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	info, err := b.Get(t.Context(), driver.ByID(disk.ID))
	if err != nil || !strings.HasPrefix(info.ImagePath, home) || info.HostPath != info.ImagePath {
		t.Fatalf("the home's own %+v, %v", info, err)
	}
	told := func(what, answer string) {
		t.Helper()
		for _, private := range []string{home, "disk.raw", "host_path\":\"", "image_path"} {
			if strings.Contains(answer, private) {
				t.Errorf("%s has %q: %s", what, private, answer)
			}
		}
	}
	of := func(name string) map[string]string { return map[string]string{"volume": name} }
	for id, c := range map[string]apiCall{
		"listVolumes": {}, "getVolume": {path: of("k")}, "measureVolume": {path: of("v")}, "getUsage": {path: of("k")},
		"updateVolume": {path: of("k"), body: `{"set_labels":{"a":"b"}}`}, "listAttachments": {}, "getServer": {}, "listAudit": {}, "check": {},
	} {
		var answer json.RawMessage
		w.mustCall(t, w.root, id, c, &answer)
		told(id, string(answer))
	}
	for _, path := range []string{"/volumes", "/volumes/" + dir.ID} {
		_, _, body := sendRequest(t, "GET", w.url+path, nil, "X-API-Key", w.root)
		told("e2b "+path, body)
	}
	_, _, body := sendRequest(t, "GET", w.url+"/v1/volumes", nil, "Authorization", "Bearer "+w.root)
	told("msb", body)

	var s api.Session
	w.mustCall(t, w.root, "openSession", apiCall{}, &s)
	att := w.callOperation(t, w.operation(t, "attach"), apiCall{path: of("k"), body: `{"holder":"h","session":"` + s.ID + `"}`}, w.root)
	told("attach", att.body)
	in := url.Values{"unused_since": {"2100-01-01T00:00:00Z"}}
	used := w.callOperation(t, w.operation(t, "removeVolume"), apiCall{path: of("k"), query: in}, w.root)
	told("refused removal", used.body)
	if used.status != http.StatusConflict {
		t.Errorf("the removal of what is attached: %d %s", used.status, used.body)
	}
	var gone json.RawMessage
	w.mustCall(t, w.root, "removeVolume", apiCall{path: of("v"), query: in}, &gone)
	told("removal", string(gone))
}
