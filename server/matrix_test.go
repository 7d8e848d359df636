package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// caller is who makes requests of things that are not theirs.
type caller struct {
	name, key string
	want      func(op *apiOp, c apiCall) int // the expected refusal; 0: none, but nothing of others may show
}

// TestMatrix makes each request of the description as each kind of caller who may not,
// and sees that it is refused and that nothing is changed.
func TestMatrix(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	if err := w.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	owner := w.createKey(t, accounts.NewKey{Scopes: accounts.Write})
	x := w.makeFixture(t, owner, "precious")
	callers := w.makeCallers(t, x)
	before := w.describeState(t, x)
	for _, who := range callers {
		t.Run(who.name, func(t *testing.T) {
			for _, op := range w.doc.ops {
				make := calls[op.id]
				if make == nil {
					t.Errorf("the test does not know how to call %s; tell it in calls_test.go", op.id)
					continue
				}
				if !w.hasRoute(op.id) {
					continue // TestRoutes tells
				}
				tries := []apiCall{make(x)}
				if op.param("Vole-Filesystem") != nil {
					tries = append(tries, make(x).inOpenFilesystem(x))
				}
				for _, c := range tries {
					w.checkRefused(t, who, op, c, x, &before)
				}
			}
		})
	}
}

// checkRefused makes one call and checks what comes of it.
func (w *testServer) checkRefused(t *testing.T, who caller, op *apiOp, c apiCall, x *fixture, before *string) {
	t.Helper()
	want, via := who.want(op, c), ""
	if c.header != nil {
		via = " through the owner's file system"
	}
	if want == allowed && op.method != http.MethodGet {
		return
	}
	a := w.callOperation(t, op, c, who.key)
	if want == allowed {
		if a.status >= 300 {
			t.Errorf("%s%s: %d %s, and it is allowed", op.id, via, a.status, a.body)
		}
		return
	}
	if want == 0 {
		for _, secret := range []string{x.owner, x.name, x.volume, x.session, x.filesystem, x.handle, x.attachment, x.key} {
			// The audit log has what the caller asked for.
			if strings.Contains(a.body, secret) && (op.id != "listAudit" || secret == x.owner) {
				t.Errorf("%s%s: the answer %d shows %s: %s", op.id, via, a.status, secret, a.body)
			}
		}
		if a.status >= 500 {
			t.Errorf("%s%s: %d %s", op.id, via, a.status, a.body)
		}
	} else if a.status != want {
		t.Errorf("%s%s: %d %s, want %d", op.id, via, a.status, a.body, want)
	}
	if op.method == http.MethodGet {
		return
	}
	if now := w.describeState(t, x); now != *before {
		t.Errorf("%s%s: answered %d and changed\n%s\nto\n%s", op.id, via, a.status, *before, now)
		*before = now
	}
}

// TestMatrixMixed is about requests that name something of the caller's and something of
// another's.
func TestMatrixMixed(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	if err := w.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	x := w.makeFixture(t, w.createKey(t, accounts.NewKey{Scopes: accounts.Write}), "precious")
	same := w.makeFixture(t, w.createKey(t, accounts.NewKey{Scopes: accounts.Write}), "mine")
	stranger := w.createKey(t, accounts.NewKey{Org: "other", Scopes: accounts.Admin})
	narrow := w.createKey(t, accounts.NewKey{Scopes: accounts.Admin, Volumes: []string{same.volume}})
	before := w.describeState(t, x)
	for name, key := range map[string]string{"OtherOrg": stranger, "OtherVolume": narrow} {
		t.Run(name, func(t *testing.T) {
			var own api.Session
			w.mustCall(t, key, "openSession", apiCall{}, &own)
			mine := same.volume
			if key == stranger {
				var v api.Volume
				w.mustCall(t, key, "createVolume", apiCall{body: `{"name":"own"}`}, &v)
				mine = v.ID
			}
			at := func(volume string) map[string]string { return map[string]string{"volume": volume} }
			for _, c := range []struct {
				id     string
				call   apiCall
				status int
			}{
				{"createVolume", apiCall{body: `{"name":"a","from":"` + x.volume + `"}`}, unlessKey(key == narrow, 404)},
				{"createVolume", apiCall{body: `{"name":"b","from":"` + x.name + `"}`}, unlessKey(key == narrow, 404)},
				{"createVolume", apiCall{body: `{"name":"c","draft_of":"` + x.session + `"}`}, unlessKey(key == narrow, 410)},
				{"createKey", apiCall{body: `{"name":"d","scopes":["read"],"volumes":["` + x.volume + `"]}`}, 404},
				{"createKey", apiCall{body: `{"name":"d","scopes":["operator"]}`}, 403},
				{"attach", apiCall{path: at(x.volume), body: `{"session":"` + own.ID + `"}`}, 404},
				{"attach", apiCall{path: at(mine), body: `{"session":"` + x.session + `"}`}, 410},
				{"openFilesystem", apiCall{path: map[string]string{"session": own.ID}, query: pairs([]string{"volume", x.volume})}, 404},
				{"openFilesystem", apiCall{path: map[string]string{"session": own.ID}, query: pairs([]string{"volume", x.name})}, 404},
				{"stat", apiCall{path: at(mine), query: pairs([]string{"path", "/"})}.inOpenFilesystem(x), 410},
				{"listEntries", apiCall{path: at(mine), query: pairs([]string{"path", "/", "unsorted", "1", "cursor", x.cursor})}, 410},
			} {
				if a := w.callOperation(t, w.operation(t, c.id), c.call, key); a.status != c.status {
					t.Errorf("%s %v: %d %s, want %d", c.id, c.call, a.status, a.body, c.status)
				}
			}
			// Of another's attachment it is only known that the caller's session has it not.
			w.callOperation(t, w.operation(t, "detach"), apiCall{path: map[string]string{"attachment": x.attachment}, query: pairs([]string{"session", own.ID})}, key)
			w.callOperation(t, w.operation(t, "cancel"), apiCall{query: pairs([]string{"key", "x"})}, key)
			if now := w.describeState(t, x); now != before {
				t.Errorf("changed\n%s\nto\n%s", before, now)
			}
		})
	}
	var made api.NewKey
	w.mustCall(t, narrow, "createKey", apiCall{body: `{"name":"narrow too","scopes":["admin"]}`}, &made)
	if !slices.Equal(made.Key.Volumes, []string{same.volume}) {
		t.Errorf("a key for one volume makes a key for the volumes %v", made.Key.Volumes)
	}
}

// unlessKey is 403 for keys of a few volumes, which make none.
func unlessKey(narrow bool, status int) int {
	if narrow {
		return 403
	}
	return status
}

// makeCallers are those who may not, with what they are to be told.
func (w *testServer) makeCallers(t *testing.T, x *fixture) []caller {
	t.Helper()
	soon := w.createKey(t, accounts.NewKey{Scopes: accounts.Admin | accounts.Operator, Expires: time.Now().Add(500 * time.Millisecond)})
	time.Sleep(510 * time.Millisecond)
	k, revoked, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Admin})
	if err != nil {
		t.Fatal(err)
	}
	w.mustCall(t, revoked, "getServer", apiCall{}, nil) // so that the server remembers it
	w.mustCall(t, w.root, "revokeKey", apiCall{path: map[string]string{"key": k.ID}}, nil)
	var elsewhere api.Volume
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"elsewhere"}`}, &elsewhere)
	narrow := accounts.NewKey{Scopes: accounts.Write, Volumes: []string{elsewhere.ID}}
	narrowAdmin := accounts.NewKey{Scopes: accounts.Admin, Volumes: []string{elsewhere.ID}}
	id, token := w.volumeToken(t, w.root, x.name)
	if id != x.volume {
		t.Fatalf("the token is for %s, not %s", id, x.volume)
	}
	unknown := func(op *apiOp, _ apiCall) int { return unless(op.public, 401) }
	return []caller{
		{"NoKey", "", unknown},
		{"Nonsense", "vole_" + strings.Repeat("A", 43), unknown},
		{"Malformed", "nonsense", unknown},
		{"Expired", soon, unknown},
		{"Revoked", revoked, unknown},
		{"VolumeToken", token, unknown},
		{"ReadOnly", w.createKey(t, accounts.NewKey{Scopes: accounts.Read}), readerMay},
		{"Write", w.createKey(t, accounts.NewKey{Scopes: accounts.Write}), writerMay},
		{"Admin", w.createKey(t, accounts.NewKey{Scopes: accounts.Admin}), adminMay},
		{"Operator", w.createKey(t, accounts.NewKey{Scopes: accounts.Operator}), operatorMay},
		{"OtherOrg", w.createKey(t, accounts.NewKey{Org: "other", Scopes: accounts.Admin}), strangerMay},
		{"OtherVolume", w.createKey(t, narrow), narrowMay(false)},
		{"OtherVolumeAdmin", w.createKey(t, narrowAdmin), narrowMay(true)},
	}
}

// volumeToken returns what the dialect of E2B gives out with a volume.
func (w *testServer) volumeToken(t *testing.T, key, name string) (id, token string) {
	t.Helper()
	var list []e2bVolume
	for _, path := range []string{"/volumes", "/volumes/"} {
		if path == "/volumes/" {
			i := slices.IndexFunc(list, func(v e2bVolume) bool { return v.Name == name })
			path += list[i].ID
		}
		_, _, body := sendRequest(t, "GET", w.url+path, nil, "X-API-Key", key)
		if path == "/volumes" {
			if err := json.Unmarshal([]byte(body), &list); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			continue
		}
		var v e2bVolume
		if err := json.Unmarshal([]byte(body), &v); err != nil || v.Token == "" {
			t.Fatalf("%v in %s", err, body)
		}
		return v.ID, v.Token
	}
	return "", ""
}

func unless(free bool, status int) int {
	if free {
		return 0
	}
	return status
}

// Scopes that hold something are refused with 403 before anything is looked at.

func readerMay(op *apiOp, c apiCall) int {
	switch {
	case op.scope == "write" || op.scope == "admin" || op.scope == "operator" || op.id == "attach":
		return 403
	case op.id == "writeHandle" || op.id == "appendHandle" || op.id == "truncateHandle" || op.id == "punchHole" || op.id == "openFile":
		return 403
	}
	return anotherKey(op, c)
}

func writerMay(op *apiOp, c apiCall) int {
	if op.scope == "admin" || op.scope == "operator" {
		return 403
	}
	return sharing(op, c)
}

func adminMay(op *apiOp, c apiCall) int {
	switch {
	case op.scope == "operator":
		return 403
	case op.scope == "admin":
		return allowed
	}
	return sharing(op, c)
}

func operatorMay(op *apiOp, _ apiCall) int {
	switch op.scope {
	case "none":
		return 0
	case "operator":
		return allowed
	}
	return 403
}

// allowed is wanted of what is right to do and is not done.
const allowed = -1

// sharing is for who may do to the volume what the owner may, but not through what the
// owner has open.
func sharing(op *apiOp, c apiCall) int {
	if status := anotherKey(op, c); status > 0 {
		return status
	}
	return allowed
}

// anotherKey is for keys of the same organisation: sessions are not shared.
func anotherKey(op *apiOp, c apiCall) int {
	switch {
	case op.id == "closeSession":
		return 204 // there is none of that key
	case c.path["session"] != "" || c.path["filesystem"] != "" || c.path["handle"] != "" || c.target == "session":
		return 410
	case c.header != nil:
		if op.id == "endListing" {
			return 204
		}
		return 410
	}
	return allowed
}

// strangerMay is for keys of another organisation, who know all names and ids.
func strangerMay(op *apiOp, c apiCall) int {
	switch {
	case op.scope == "operator":
		return 403
	case op.id == "closeSession" || op.id == "endListing" || op.id == "cancelUpload":
		return 204 // there is none, which is what was asked for
	case c.path["session"] != "" || c.path["filesystem"] != "" || c.path["handle"] != "" || c.target == "session" || c.header != nil:
		return 410
	case c.path["volume"] != "" || c.path["key"] != "" || c.path["upload"] != "" || c.target == "volume":
		return 404
	}
	return 0
}

// narrowMay is for keys that may use another volume only.
func narrowMay(admin bool) func(op *apiOp, c apiCall) int {
	return func(op *apiOp, c apiCall) int {
		switch {
		case op.scope == "operator", op.scope == "admin" && !admin:
			return 403
		case op.id == "createKey":
			return allowed // for that volume: TestMatrixMixed
		case op.id == "check" || op.id == "createVolume" || op.id == "cloneVolume":
			return 403 // concerns other volumes, too
		}
		return strangerMay(op, c)
	}
}

// describeState is all that matters of the owner's organisation: volumes, files with what they
// hold, keys and attachments.
func (w *testServer) describeState(t *testing.T, x *fixture) string {
	t.Helper()
	var b strings.Builder
	var vols api.VolumePage
	w.mustCall(t, w.root, "listVolumes", apiCall{}, &vols)
	for _, v := range vols.Volumes {
		fmt.Fprintf(&b, "volume %s %s %v used %d quota %d updated %v\n", v.ID, v.Name, v.Labels, v.Used, v.Quota, v.Updated)
	}
	w.describeTree(t, &b, x, "")
	var keys api.Keys
	w.mustCall(t, w.root, "listKeys", apiCall{}, &keys)
	for _, k := range keys.Keys {
		fmt.Fprintf(&b, "key %s %s %v revoked %v\n", k.ID, k.Name, k.Scopes, k.Revoked)
	}
	var atts api.Attachments
	w.mustCall(t, w.root, "listAttachments", apiCall{}, &atts)
	for _, a := range atts.Attachments {
		fmt.Fprintf(&b, "attachment %s %s\n", a.ID, a.Holder)
	}
	var orgs api.Orgs
	w.mustCall(t, w.root, "listOrgs", apiCall{}, &orgs)
	fmt.Fprintln(&b, orgs.Orgs)
	return b.String()
}

func (w *testServer) describeTree(t *testing.T, b *strings.Builder, x *fixture, dir string) {
	t.Helper()
	var page api.EntryPage
	w.mustCall(t, w.root, "listEntries", x.onVolume(pairs([]string{"path", "/" + dir}), ""), &page)
	for _, e := range page.Entries {
		path := dir + "/" + e.Name
		fmt.Fprintf(b, "%s %s %s %d %d:%d nlink %d mtime %v ctime %v\n", path, e.Type, e.Mode, e.Size, e.UID, e.GID, e.Nlink, e.Mtime, e.Ctime)
		var names api.XattrNames
		if e.Type != "symlink" {
			w.mustCall(t, w.root, "listXattrs", x.onVolume(pairs([]string{"path", path}), ""), &names)
			fmt.Fprintln(b, names.Names)
		}
		switch e.Type {
		case "directory":
			w.describeTree(t, b, x, path)
		case "file":
			a := w.callOperation(t, w.operation(t, "readFile"), x.onVolume(pairs([]string{"path", path}), ""), w.root)
			fmt.Fprintf(b, "%q\n", a.body)
		}
	}
}
