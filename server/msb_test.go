package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/accounts"
)

// call makes a request. header is names and values in turn.
func (s *msbServer) call(t *testing.T, key, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	if key != "" {
		header = append([]string{"Authorization", "Bearer " + key}, header...)
	}
	return sendRequest(t, method, s.url+path, strings.NewReader(body), header...)
}

// want makes a request that succeeds, and decodes the answer into out unless that is nil.
func (s *msbServer) want(t *testing.T, key, method, path, body string, out any, header ...string) {
	t.Helper()
	status, _, got := s.call(t, key, method, path, body, header...)
	if status/100 != 2 || out == nil != (status == http.StatusNoContent) {
		t.Fatalf("%s %s: %d %s", method, path, status, got)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(got), out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, got)
		}
	}
}

// refuse makes a request that fails with that status and code.
func (s *msbServer) refuse(t *testing.T, key, method, path, body string, status int, code string, header ...string) {
	t.Helper()
	var out struct {
		Error struct {
			Code, Message string
			Details       map[string]any
		}
	}
	got, head, text := s.call(t, key, method, path, body, header...)
	if err := json.Unmarshal([]byte(text), &out); err != nil || got != status || out.Error.Code != code || out.Error.Message == "" || out.Error.Details == nil {
		t.Errorf("%s %.100s: %d %.300s; want %d %s", method, path, got, text, status, code)
	}
	if head.Get("Content-Type") != "application/json" || strings.Contains(text, "/tmp") {
		t.Errorf("%s %.100s: %v %.300s", method, path, head, text)
	}
}

// msbPathHeader is the header that names a path.
func msbPathHeader(path string) []string {
	return []string{"x-msb-file-path", base64.RawURLEncoding.EncodeToString([]byte(path))}
}

type msbVolume struct {
	ID      string            `json:"id"`
	Name    *string           `json:"name"`
	Kind    string            `json:"kind"`
	Storage string            `json:"storage"`
	Status  string            `json:"status"`
	Used    *int64            `json:"used_bytes"`
	Cap     *int64            `json:"capacity_bytes"`
	Labels  map[string]string `json:"labels"`
	Created time.Time         `json:"created_at"`
	Updated time.Time         `json:"updated_at"`
}

func (s *msbServer) create(t *testing.T, key, body string) (v msbVolume) {
	t.Helper()
	s.want(t, key, "POST", "/v1/volumes", body, &v)
	return v
}

func TestMSBVolumes(t *testing.T) {
	s := startMSB(t, t.TempDir())
	key := s.key(t, accounts.Write)
	status, _, text := s.call(t, key, "POST", "/v1/volumes", `{"name":"a","labels":{"team":"ml","x":"1"},"capacity_gib":0.5}`)
	var fields map[string]any
	if err := json.Unmarshal([]byte(text), &fields); err != nil || status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, []string{"capacity_bytes", "created_at", "id", "kind", "labels", "name", "status", "storage", "updated_at", "used_bytes"}) {
		t.Errorf("fields %v", got)
	}
	var v msbVolume
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	if *v.Name != "a" || v.Kind != "managed" || v.Storage != "block" || v.Status != "active" || *v.Used != 0 || *v.Cap != 1<<29 ||
		!maps.Equal(v.Labels, map[string]string{"team": "ml", "x": "1"}) || time.Since(v.Created) > time.Minute {
		t.Errorf("created %s", text)
	}
	path := "/v1/volumes/" + v.ID
	v = msbVolume{}
	s.want(t, key, "PATCH", path, `{"capacity_gib":2}`, &v)
	if *v.Cap != 2<<30 || len(v.Labels) != 2 {
		t.Errorf("patched %+v", v)
	}
	v = msbVolume{}
	s.want(t, key, "PATCH", path, `{"capacity_gib":null,"labels":{"x":"2","y":""}}`, &v)
	if v.Cap != nil || !maps.Equal(v.Labels, map[string]string{"x": "2", "y": ""}) {
		t.Errorf("patched %+v", v)
	}
	v = msbVolume{}
	s.want(t, key, "PATCH", path, `{"labels":{}}`, &v)
	if len(v.Labels) != 0 || v.Labels == nil {
		t.Errorf("patched %+v", v)
	}
	b := s.create(t, key, `{"name":"b"}`)
	var list []msbVolume
	s.want(t, key, "GET", "/v1/volumes", "", &list)
	if len(list) != 3 || list[0].Name != nil || list[1].ID != b.ID || list[2].ID != v.ID {
		t.Errorf("list %+v", list)
	}
	s.want(t, key, "PUT", path+"/files/content", strings.Repeat("x", 20<<10), nil, msbPathHeader("/f")...)
	s.refuse(t, key, "PATCH", path, `{"capacity_gib":0.00001}`, 507, "quota_exceeded")
	var gone struct{ Message string }
	s.want(t, key, "DELETE", path, "", &gone)
	if gone.Message == "" {
		t.Error("no message")
	}
	s.refuse(t, key, "DELETE", path, "", 404, "volume_not_found")
}

func TestMSBVolumeErrors(t *testing.T) {
	s := startMSB(t, t.TempDir())
	key := s.key(t, accounts.Write)
	v := s.create(t, key, `{"name":"a"}`)
	for _, body := range []string{
		``, `{`, `[]`, `null`, `{}`, `{"name":""}`, `{"name":"-a"}`, `{"name":"a/b"}`, `{"name":"` + strings.Repeat("a", 129) + `"}`, `{"name":7}`,
		`{"name":"n","capacity_gib":0}`, `{"name":"n","capacity_gib":-1}`, `{"name":"n","capacity_gib":"1"}`, `{"name":"n","capacity_gib":1e300}`,
		`{"name":"n","labels":{"a b":""}}`, `{"name":"n","labels":{"a":1}}`, `{"name":"n","labels":{"msb.default":"true"}}`, `{"name":"n","kind":"host"}`,
		`{"name":"n"} x`,
	} {
		s.refuse(t, key, "POST", "/v1/volumes", body, 400, "invalid_request")
	}
	s.refuse(t, key, "POST", "/v1/volumes", `{"name":"a"}`, 409, "name_already_exists")
	s.refuse(t, key, "POST", "/v1/volumes", `{"name":"msb-default"}`, 409, "name_already_exists")
	for _, body := range []string{``, `{"capacity_gib":0}`, `{"capacity_gib":"x"}`, `{"name":"b"}`, `{"labels":{"msb.default":"true"}}`, `{"labels":{"":""}}`} {
		s.refuse(t, key, "PATCH", "/v1/volumes/"+v.ID, body, 400, "invalid_request")
	}
	other := "0197a1b2-0000-7000-8000-000000000001"
	s.create(t, key, `{"name":"`+other+`"}`) // is no id for that
	for _, id := range []string{"a", other, strings.Replace(v.ID, "-", "", 4), "..%2f" + v.ID, "%00", strings.Repeat("a", 5000)} {
		s.refuse(t, key, "DELETE", "/v1/volumes/"+id, "", 404, "volume_not_found")
		s.refuse(t, key, "PATCH", "/v1/volumes/"+id, "{}", 404, "volume_not_found")
		s.refuse(t, key, "GET", "/v1/volumes/"+id+"/files", "", 404, "volume_not_found", msbPathHeader("/")...)
	}
	s.want(t, key, "PATCH", "/v1/volumes/"+strings.ToUpper(v.ID), `{}`, &v)
	for _, path := range []string{"/v1/volumes/" + v.ID, "/v1/sandboxes", "/v1/", "/v1/volumes/" + v.ID + "/files/other"} {
		s.refuse(t, key, "GET", path, "", 404, "not_found")
	}
	// Attached volumes stay.
	store, err := s.core.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := store.Get(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	att, err := vol.Attach(t.Context(), vole.AttachOptions{Holder: "sandbox-7"})
	if err != nil {
		t.Fatal(err)
	}
	s.refuse(t, key, "DELETE", "/v1/volumes/"+v.ID, "", 409, "in_use")
	if err := att.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestMSBKeys(t *testing.T) {
	s := startMSB(t, t.TempDir())
	key := s.key(t, accounts.Write)
	v, w := s.create(t, key, `{"name":"a"}`), s.create(t, key, `{"name":"b"}`)
	path := "/v1/volumes/" + v.ID
	s.want(t, key, "PUT", path+"/files/content", "x", nil, msbPathHeader("/f")...)
	for _, bad := range []string{"", "x", "vole_" + strings.Repeat("A", 43), key + "x"} {
		for _, route := range msbRoutes {
			method, pattern, _ := strings.Cut(route, " ")
			s.refuse(t, bad, method, strings.Replace(pattern, "{id}", v.ID, 1), "", 401, "invalid_api_key", msbPathHeader("/f")...)
		}
	}
	read := s.key(t, accounts.Read)
	for _, route := range msbRoutes {
		method, pattern, _ := strings.Cut(route, " ")
		if method != "GET" {
			s.refuse(t, read, method, strings.Replace(pattern, "{id}", v.ID, 1), "{}", 403, "forbidden", msbPathHeader("/f")...)
		}
	}
	if status, _, body := s.call(t, read, "GET", path+"/files/content", "", msbPathHeader("/f")...); status != 200 || body != "x" {
		t.Errorf("read: %d %s", status, body)
	}
	one := s.key(t, accounts.Write, v.ID)
	var list []msbVolume
	s.want(t, one, "GET", "/v1/volumes", "", &list)
	if len(list) != 1 || list[0].ID != v.ID {
		t.Errorf("list %+v", list)
	}
	s.refuse(t, one, "POST", "/v1/volumes", `{"name":"c"}`, 403, "forbidden")
	for _, id := range []string{w.ID, "default"} {
		s.refuse(t, one, "DELETE", "/v1/volumes/"+id, "", 404, "volume_not_found")
		s.refuse(t, one, "GET", "/v1/volumes/"+id+"/files", "", 404, "volume_not_found", msbPathHeader("/")...)
	}
	s.refuse(t, one, "GET", "/v1/volumes/default", "", 404, "volume_not_found")

	if err := s.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	_, foreign, err := s.accounts.CreateKey(t.Context(), accounts.NewKey{Org: "other", Name: "test", Scopes: accounts.Admin})
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range msbRoutes[3:] {
		method, pattern, _ := strings.Cut(route, " ")
		s.refuse(t, foreign, method, strings.Replace(pattern, "{id}", v.ID, 1), bodyFor(pattern), 404, "volume_not_found", msbPathHeader("/f")...)
	}
}

// bodyFor is a body that a route accepts.
func bodyFor(pattern string) string {
	switch {
	case strings.HasSuffix(pattern, "/mkdir"):
		return `{"path":"/d"}`
	case strings.HasSuffix(pattern, "/copy"), strings.HasSuffix(pattern, "/rename"):
		return `{"from":"/f","to":"/g"}`
	}
	return "{}"
}

func TestMSBDefault(t *testing.T) {
	dir := t.TempDir()
	servers := []*msbServer{startMSB(t, dir), startMSB(t, dir)}
	s := servers[0]
	key, read := s.key(t, accounts.Write), s.key(t, accounts.Read)
	var wg sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		wg.Go(func() {
			var v msbVolume
			servers[i%2].want(t, []string{key, read}[i/2%2], "GET", "/v1/volumes/default", "", &v)
			ids[i] = v.ID
			if v.Name != nil || v.Kind != "host" || v.Cap != nil || len(v.Labels) != 0 {
				t.Errorf("default %+v", v)
			}
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[15] {
		t.Fatalf("several: %v", ids)
	}
	var list []msbVolume
	s.want(t, read, "GET", "/v1/volumes", "", &list)
	if len(list) != 1 || list[0].ID != ids[0] || list[0].Name != nil || list[0].Kind != "host" {
		t.Errorf("list %+v", list)
	}
	for _, id := range []string{"default", ids[0]} {
		s.refuse(t, key, "DELETE", "/v1/volumes/"+id, "", 409, "default_volume")
		s.want(t, key, "PUT", "/v1/volumes/"+id+"/files/content", id, nil, msbPathHeader("/"+id)...)
		var v msbVolume
		s.want(t, key, "PATCH", "/v1/volumes/"+id, `{"capacity_gib":1,"labels":{"a":"b"}}`, &v)
		if v.Name != nil || v.Kind != "host" || *v.Cap != 1<<30 || !maps.Equal(v.Labels, map[string]string{"a": "b"}) {
			t.Errorf("patched %+v", v)
		}
	}
	only := s.key(t, accounts.Read, ids[0])
	var v msbVolume
	s.want(t, only, "GET", "/v1/volumes/default", "", &v)

	// Whoever gives that name to another volume keeps it.
	store, err := s.core.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Remove(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(t.Context(), "msb-default", vole.Spec{}); err != nil {
		t.Fatal(err)
	}
	s.refuse(t, key, "GET", "/v1/volumes/default", "", 409, "name_already_exists")
	s.want(t, key, "GET", "/v1/volumes", "", &list)
	if len(list) != 1 || list[0].Name == nil {
		t.Errorf("list %+v", list)
	}
}

// TestMSBLabelsAtOnce: of labels that are replaced by many at once, one's remain.
func TestMSBLabelsAtOnce(t *testing.T) {
	s := startMSB(t, t.TempDir())
	key := s.key(t, accounts.Write)
	v := s.create(t, key, `{"name":"a","labels":{"old":""}}`)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			s.want(t, key, "PATCH", "/v1/volumes/"+v.ID, fmt.Sprintf(`{"labels":{"k%d":"1","l%d":"2"}}`, i, i), &msbVolume{})
		})
	}
	wg.Wait()
	var now msbVolume
	s.want(t, key, "PATCH", "/v1/volumes/"+v.ID, `{}`, &now)
	if got := slices.Sorted(maps.Keys(now.Labels)); len(got) != 2 || got[0][1:] != got[1][1:] {
		t.Errorf("labels %v", now.Labels)
	}
}

// TestMSBBrokenUpload: a body that ends early leaves the old file.
func TestMSBBrokenUpload(t *testing.T) {
	s := startMSB(t, t.TempDir())
	key := s.key(t, accounts.Write)
	v := s.create(t, key, `{"name":"a"}`)
	path := "/v1/volumes/" + v.ID + "/files/content"
	s.want(t, key, "PUT", path, "old", nil, msbPathHeader("/f")...)
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, head := range []string{"Content-Length: 20000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n900000\r\n"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nx-msb-file-path: %s\r\n%s%s",
			path, key, msbPathHeader("/f")[1], head, strings.Repeat("n", 9_000_000))
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(conn)
		conn.Close()
		if _, _, body := s.call(t, key, "GET", path, "", msbPathHeader("/f")...); body != "old" {
			t.Errorf("%q: the file is %.20q", head, body)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	store, err := s.core.Org(ctx, DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := store.Get(ctx, v.ID)
	if err != nil || vol.Info().Used != 3 {
		t.Errorf("%v, %v", vol.Info().Used, err)
	}
}
