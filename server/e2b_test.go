package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/accounts"
)

// e2bVolume is an answer that describes a volume.
type e2bVolume struct {
	ID    string `json:"volumeID"`
	Name  string `json:"name"`
	Token string `json:"token"`
}

// sendRequest makes a request and returns the answer. header is names and values in turn.
func sendRequest(t *testing.T, method, target string, body io.Reader, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

// control makes a request of the control plane.
func (s *e2bServer) control(t *testing.T, key, method, path, body string) (int, string) {
	t.Helper()
	status, _, out := sendRequest(t, method, s.url+path, strings.NewReader(body), "X-API-Key", key)
	return status, out
}

func (s *e2bServer) create(t *testing.T, key, name string) (v e2bVolume) {
	t.Helper()
	status, body := s.control(t, key, "POST", "/volumes", `{"name":"`+name+`"}`)
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusCreated {
		t.Fatalf("create %s: %d %s", name, status, body)
	}
	return v
}

// content makes a request of the files of v. what is the resource, with its query after
// the path: "path?path=/a".
func (s *e2bServer) content(t *testing.T, v e2bVolume, method, what, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	return sendRequest(t, method, s.url+"/volumecontent/"+v.ID+"/"+what, strings.NewReader(body), append([]string{"Authorization", "Bearer " + v.Token}, header...)...)
}

// store is the volumes of the organisation, by the back door.
func (s *e2bServer) store(t *testing.T) *vole.Store {
	t.Helper()
	store, err := s.core.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// checkE2BError checks an error: its status, and its code, which is a number in the control
// plane and text in the other.
func checkE2BError(t *testing.T, what string, status int, body string, want int, code string) {
	t.Helper()
	var e struct {
		Code    json.RawMessage `json:"code"`
		Message string          `json:"message"`
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Message == "" {
		t.Errorf("%s: %d %q is no error: %v", what, status, body, err)
	}
	if code == "" {
		code = fmt.Sprint(want)
	} else {
		code = `"` + code + `"`
	}
	if status != want || string(e.Code) != code {
		t.Errorf("%s: %d %s, want %d %s", what, status, body, want, code)
	}
}

func TestE2BVolumes(t *testing.T) {
	s := startE2B(t)
	_, key := s.key(t, accounts.NewKey{Scopes: accounts.Write})
	status, body := s.control(t, key, "GET", "/volumes", "")
	if status != 200 || body != "[]\n" {
		t.Fatalf("empty list: %d %q", status, body)
	}
	v := s.create(t, key, "data")
	if v.Name != "data" || v.Token == "" {
		t.Fatalf("created %+v", v)
	}
	if status, body = s.control(t, key, "GET", "/volumes?later=1", ""); status != 200 || body != `[{"volumeID":"`+v.ID+`","name":"data"}`+"\n]\n" {
		t.Errorf("list: %d %q", status, body)
	}
	var got e2bVolume
	status, body = s.control(t, key, "GET", "/volumes/"+v.ID, "")
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || got.ID != v.ID || got.Name != "data" || got.Token == "" {
		t.Errorf("get: %d %s", status, body)
	}
	if status, body = s.control(t, key, "DELETE", "/volumes/"+v.ID, ""); status != 204 || body != "" {
		t.Errorf("delete: %d %q", status, body)
	}
}

func TestE2BVolumeErrors(t *testing.T) {
	s := startE2B(t)
	if err := s.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	_, key := s.key(t, accounts.NewKey{Scopes: accounts.Write})
	_, reader := s.key(t, accounts.NewKey{Scopes: accounts.Read})
	_, stranger := s.key(t, accounts.NewKey{Org: "other", Scopes: accounts.Admin})
	v, w := s.create(t, key, "data"), s.create(t, key, "second")
	_, narrow := s.key(t, accounts.NewKey{Scopes: accounts.Write, Volumes: []string{w.ID}})
	attached, err := s.store(t).Get(t.Context(), w.ID)
	if err != nil {
		t.Fatal(err)
	}
	att, err := attached.Attach(t.Context(), vole.AttachOptions{Holder: "sandbox"})
	if err != nil {
		t.Fatal(err)
	}
	defer att.Detach(context.WithoutCancel(t.Context()))
	for _, c := range []struct {
		what, key, method, path, body string
		status                        int
	}{
		{"no key", "", "GET", "/volumes", "", 401},
		{"unknown key", "e2b_" + strings.Repeat("0", 40), "GET", "/volumes", "", 401},
		{"volume token as key", v.Token, "GET", "/volumes", "", 401},
		{"name taken", key, "POST", "/volumes", `{"name":"data"}`, 409},
		{"no name", key, "POST", "/volumes", `{}`, 400},
		{"bad name", key, "POST", "/volumes", `{"name":"../x"}`, 400},
		{"name is a number", key, "POST", "/volumes", `{"name":7}`, 400},
		{"no JSON", key, "POST", "/volumes", `name`, 400},
		{"no body", key, "POST", "/volumes", ``, 400},
		{"too large", key, "POST", "/volumes", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413},
		{"read-only key creates", reader, "POST", "/volumes", `{"name":"x"}`, 403},
		{"read-only key removes", reader, "DELETE", "/volumes/" + v.ID, "", 403},
		{"key of one volume creates", narrow, "POST", "/volumes", `{"name":"x"}`, 403},
		{"key of another volume", narrow, "GET", "/volumes/" + v.ID, "", 404},
		{"key of another volume removes", narrow, "DELETE", "/volumes/" + v.ID, "", 404},
		{"another organisation", stranger, "GET", "/volumes/" + v.ID, "", 404},
		{"another organisation removes", stranger, "DELETE", "/volumes/" + v.ID, "", 404},
		{"by name", key, "GET", "/volumes/data", "", 404},
		{"remove by name", key, "DELETE", "/volumes/data", "", 404},
		{"no such id", key, "GET", "/volumes/01890a5d-ac96-774b-bcce-b302099a8057", "", 404},
		{"no id at all", key, "DELETE", "/volumes/%00%2e%2e%2f", "", 404},
		{"attached", key, "DELETE", "/volumes/" + w.ID, "", 409},
		{"no such route", key, "PUT", "/volumes", "", 404},
		{"no such route", key, "GET", "/volumes/" + v.ID + "/files", "", 404},
	} {
		status, body := s.control(t, c.key, c.method, c.path, c.body)
		checkE2BError(t, c.what, status, body, c.status, "")
	}
	if status, body := s.control(t, narrow, "GET", "/volumes", ""); status != 200 || strings.Contains(body, v.ID) || !strings.Contains(body, w.ID) {
		t.Errorf("list of a key of one volume: %d %s", status, body)
	}
	if status, body := s.control(t, stranger, "GET", "/volumes", ""); status != 200 || body != "[]\n" {
		t.Errorf("list of another organisation: %d %s", status, body)
	}
}

// TestE2BTokens shows that a volume token opens what it is for, and nothing else.
func TestE2BTokens(t *testing.T) {
	s := startE2B(t)
	keyID, key := s.key(t, accounts.NewKey{Scopes: accounts.Admin})
	_, reader := s.key(t, accounts.NewKey{Scopes: accounts.Read})
	v, other := s.create(t, key, "data"), s.create(t, key, "other")
	if status, _, body := s.content(t, v, "PUT", "file?path=/a", "hello"); status != 201 {
		t.Fatalf("put: %d %s", status, body)
	}
	who, err := s.accounts.Authenticate(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := s.accounts.VolumeToken(t.Context(), who, v.ID, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(v.Token, "vvt_"))
	for i := range raw {
		raw[i] ^= 1
		v := e2bVolume{ID: v.ID, Token: "vvt_" + base64.RawURLEncoding.EncodeToString(raw)}
		raw[i] ^= 1
		status, _, body := s.content(t, v, "GET", "file?path=/a", "")
		checkE2BError(t, fmt.Sprintf("byte %d tampered with", i), status, body, 401, "unauthenticated")
	}
	for what, v := range map[string]e2bVolume{
		"no token":              {ID: v.ID},
		"API key":               {ID: v.ID, Token: key},
		"expired":               {ID: v.ID, Token: expired},
		"token of another":      {ID: v.ID, Token: other.Token},
		"own volume by name":    {ID: "data", Token: v.Token},
		"id in upper case":      {ID: strings.ToUpper(v.ID), Token: v.Token},
		"a volume that is none": {ID: "01890a5d-ac96-774b-bcce-b302099a8057", Token: v.Token},
	} {
		for _, c := range []string{"GET file", "PUT file", "GET dir", "POST dir", "GET path", "PATCH path", "DELETE path"} {
			method, res, _ := strings.Cut(c, " ")
			status, _, body := s.content(t, v, method, res+"?path=/a&force=true", "{}")
			checkE2BError(t, what+": "+c, status, body, 401, "unauthenticated")
		}
	}
	_, body := s.control(t, reader, "GET", "/volumes/"+v.ID, "")
	var ro e2bVolume
	if err := json.Unmarshal([]byte(body), &ro); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"PUT file", "POST dir", "PATCH path", "DELETE path"} {
		method, res, _ := strings.Cut(c, " ")
		status, _, body := s.content(t, ro, method, res+"?path=/a&force=true", "{}")
		checkE2BError(t, "read-only: "+c, status, body, 403, "forbidden")
	}
	for _, v := range []e2bVolume{v, ro} {
		if status, _, body := s.content(t, v, "GET", "file?path=/a", ""); status != 200 || body != "hello" {
			t.Errorf("read: %d %s", status, body)
		}
	}
	if _, _, err := s.accounts.RevokeKey(t.Context(), DefaultOrg, keyID, accounts.RevokeOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	status, _, body := s.content(t, v, "GET", "file?path=/a", "")
	checkE2BError(t, "revoked", status, body, 401, "unauthenticated")
	if status, _, _ := s.content(t, ro, "GET", "file?path=/a", ""); status != 200 {
		t.Errorf("the token of another key: %d", status)
	}
	if status, body := s.control(t, reader, "GET", "/vole/v1/volumes", ""); status != 401 {
		t.Errorf("the header of this dialect opens another: %d %s", status, body)
	}
}

// TestE2BHostile sends what no client sends.
func TestE2BHostile(t *testing.T) {
	s := startE2B(t)
	_, key := s.key(t, accounts.NewKey{Scopes: accounts.Write})
	v := s.create(t, key, "data")
	if status, _, body := s.content(t, v, "PUT", "file?path=/a", "x"); status != 201 {
		t.Fatalf("put: %d %s", status, body)
	}
	everywhere := []string{"GET file", "PUT file", "GET dir", "POST dir", "GET path", "PATCH path", "DELETE path"}
	for _, c := range []struct {
		query, code string
		on          []string
	}{
		{"path=../../etc/passwd", "path_escape", everywhere},
		{"path=/a/../../b", "path_escape", everywhere},
		{"path=%2e%2e", "path_escape", everywhere},
		{"path=/a%00b", "invalid_request", everywhere},
		{"path=/" + strings.Repeat("a/", 4000), "invalid_request", everywhere},
		{"path=/" + strings.Repeat("a", 256), "invalid_request", everywhere},
		{"path=", "invalid_request", everywhere},
		{"", "invalid_request", everywhere},
		{"path=/a&path=/b", "invalid_request", everywhere},
		{"path=/a&%zz=1", "invalid_request", everywhere},
		{"path=/b&uid=-1", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/b&gid=4294967295", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/b&uid=99999999999999999999", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/b&uid=", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/b&mode=4096", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/b&mode=rwx", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/b&force=perhaps", "invalid_request", []string{"PUT file", "POST dir"}},
		{"path=/&depth=0", "invalid_request", []string{"GET dir"}},
		{"path=/&depth=-1", "invalid_request", []string{"GET dir"}},
		{"path=/&depth=101", "invalid_request", []string{"GET dir"}},
		{"path=/&depth=18446744073709551616", "invalid_request", []string{"GET dir"}},
		{"path=/", "invalid_request", []string{"DELETE path"}},
	} {
		for _, on := range c.on {
			method, res, _ := strings.Cut(on, " ")
			status, _, body := s.content(t, v, method, res+"?"+c.query, "{}")
			checkE2BError(t, on+" "+c.query[:min(40, len(c.query))], status, body, 400, c.code)
		}
	}
	for _, m := range []string{`{"uid":-1}`, `{"gid":4294967295}`, `{"mode":4096}`, `{"uid":1.5}`, `{"mode":"0644"}`, `[]`, ``, `{"uid":`, `{}{}`} {
		status, _, body := s.content(t, v, "PATCH", "path?path=/a", m)
		checkE2BError(t, "PATCH "+m, status, body, 400, "invalid_request")
	}
	for _, c := range []string{"POST file", "PUT dir", "GET ", "GET none"} {
		method, res, _ := strings.Cut(c, " ")
		status, _, body := s.content(t, v, method, res+"?path=/a", "")
		checkE2BError(t, c, status, body, 404, "not_found")
	}
	status, _, body := s.content(t, v, "GET", "dir?path=/", "")
	var entries []struct{ Name string }
	if err := json.Unmarshal([]byte(body), &entries); err != nil || status != 200 || len(entries) != 1 || entries[0].Name != "a" {
		t.Errorf("something came of it: %d %s", status, body)
	}
	if status, _, body := s.content(t, v, "GET", "path?path="+url.QueryEscape(" a ")+"&recursive=true&later=1", ""); status != 404 {
		t.Errorf("parameters of other versions: %d %s", status, body)
	}
}
