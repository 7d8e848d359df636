package server

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// revokedTime is how long a stream may go on when its rights have ended, with much to spare.
const revokedTime = 20 * time.Second

// slowStreams begin requests that the client does not go on with, of a key that has x. Each
// must end by itself when the key's rights do.
var slowStreams = map[string]func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn{
	"PUT": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "PUT "+api.Prefix+"/volumes/"+x.volume+"/content?path=file", "new")
	},
	"PUT of a new file": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "PUT "+api.Prefix+"/volumes/"+x.volume+"/content?path=some/new", "new")
	},
	"tar": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "PUT "+api.Prefix+"/volumes/"+x.volume+"/archive", smallTar()[:513])
	},
	"upload": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "PUT "+api.Prefix+"/uploads/"+x.upload+"?offset=0", "new")
	},
	"handle": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "PUT "+api.Prefix+"/handles/"+x.handle+"/data?offset=0", "new")
	},
	"append": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "POST "+api.Prefix+"/handles/"+x.handle+"/data", "new")
	},
	"JSON": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendHalfRequest(t, key, "PATCH "+api.Prefix+"/volumes/"+x.volume, `{"set_labels":`)
	},
	"msb": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		path := base64.RawURLEncoding.EncodeToString([]byte("/file"))
		return w.sendHalfRequest(t, key, "PUT /v1/volumes/"+x.volume+"/files/content", "new", "X-Msb-File-Path: "+path)
	},
	"e2b": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		status, _, body := sendRequest(t, "GET", w.url+"/volumes/"+x.volume, nil, "X-API-Key", key)
		_, token, ok := strings.Cut(body, `"token":"`)
		if status != http.StatusOK || !ok {
			t.Fatalf("%d %s", status, body)
		}
		token, _, _ = strings.Cut(token, `"`)
		return w.sendHalfRequest(t, token, "PUT /volumecontent/"+x.volume+"/file?path=/file&force=true", "new")
	},
	"GET": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendRequestHead(t, key, "GET "+api.Prefix+"/volumes/"+large.volume+"/content?path=large")
	},
	"GET of a tar": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendRequestHead(t, key, "GET "+api.Prefix+"/volumes/"+large.volume+"/archive")
	},
	"GET of msb": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		path := base64.RawURLEncoding.EncodeToString([]byte("/large"))
		return w.sendRequestHead(t, key, "GET /v1/volumes/"+large.volume+"/files/content", "X-Msb-File-Path: "+path)
	},
	"events": func(t *testing.T, w *testServer, key string, x, large *fixture) net.Conn {
		return w.sendRequestHead(t, key, "GET "+api.Prefix+"/events")
	},
}

// sendHalfRequest sends the head of a request and the first bytes of a body that goes on.
func (w *testServer) sendHalfRequest(t *testing.T, key, line, body string, headers ...string) net.Conn {
	t.Helper()
	c := w.sendRequestHead(t, key, line, append(headers, "Content-Length: 100000")...)
	if _, err := io.WriteString(c, body); err != nil {
		t.Fatal(err)
	}
	return c
}

// largeFile is more than the sockets of a connection hold.
const largeFile = 48 << 20

// TestRevokedStreams: what was begun before a key was revoked, by whichever server, ends
// soon, in both directions, and has changed nothing.
func TestRevokedStreams(t *testing.T) {
	for name, revoke := range map[string]func(t *testing.T, w *testServer, id string){
		"here": func(t *testing.T, w *testServer, id string) {
			w.mustCall(t, w.root, "revokeKey", apiCall{path: map[string]string{"key": id}}, nil)
		},
		"by another server": func(t *testing.T, w *testServer, id string) {
			if _, _, err := w.anotherStore(t).RevokeKey(t.Context(), DefaultOrg, id, accounts.RevokeOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startTestServer(t)
			k, secret, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Write})
			if err != nil {
				t.Fatal(err)
			}
			x := w.makeFixture(t, secret, "v")
			large := w.makeFixture(t, secret, "large")
			w.mustCall(t, w.root, "writeFile", large.onVolume(url.Values{"path": {"large"}}, strings.Repeat("x", largeFile)), nil)
			w.checkStreamsEnd(t, secret, x, large, func() { revoke(t, w, k.ID) })
			w.awaitNoAttachments(t)
		})
	}
}

// anotherStore is the database of keys as another server has it.
func (w *testServer) anotherStore(t *testing.T) *accounts.Store {
	t.Helper()
	s, err := accounts.Open(t.Context(), filepath.Join(w.opts.Bucket.Dir, "server", "accounts.db"), accounts.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// checkStreamsEnd begins all streams, calls lose, and sees that they end and that nothing has changed.
func (w *testServer) checkStreamsEnd(t *testing.T, key string, x, large *fixture, lose func()) {
	t.Helper()
	conns := map[string]net.Conn{}
	for name, begin := range slowStreams {
		conns[name] = begin(t, w, key, x, large)
	}
	time.Sleep(300 * time.Millisecond) // most are in their handlers by then; those that are not are refused as new ones
	before := withoutKeyLines(w.describeState(t, x))
	lose()
	var wg sync.WaitGroup
	for name, c := range conns {
		wg.Go(func() {
			_ = c.SetReadDeadline(time.Now().Add(revokedTime))
			var n int64
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil {
				n, err = readSlowly(res.Body)
			}
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				t.Errorf("%s: the stream goes on", name)
			}
			if n >= largeFile {
				t.Errorf("%s: all bytes came", name)
			}
		})
	}
	wg.Wait()
	if now := withoutKeyLines(w.describeState(t, x)); now != before {
		t.Errorf("changed\n%s\nto\n%s", before, now)
	}
}

// readSlowly reads to the end, at a pace at which a large file takes longer than revokedTime.
func readSlowly(r io.Reader) (int64, error) {
	buf, all := make([]byte, 64<<10), int64(0)
	for {
		n, err := r.Read(buf)
		all += int64(n)
		if err != nil {
			return all, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// withoutKeyLines leaves out of a state what a revocation itself changes.
func withoutKeyLines(state string) string {
	var out []string
	for line := range strings.Lines(state) {
		if !strings.HasPrefix(line, "key ") && !strings.HasPrefix(line, "attachment ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// awaitNoAttachments waits until the attachments of sessions have ended.
func (w *testServer) awaitNoAttachments(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(revokedTime); ; time.Sleep(50 * time.Millisecond) {
		var atts api.Attachments
		w.mustCall(t, w.root, "listAttachments", apiCall{}, &atts)
		if len(atts.Attachments) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the session of a revoked key goes on: %v", atts.Attachments)
		}
	}
}

// TestRevokedBeforeCommit: the last bytes of a file come right after the revocation, before
// any watch has asked.
func TestRevokedBeforeCommit(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	for i := range 10 {
		k, secret, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Write})
		if err != nil {
			t.Fatal(err)
		}
		x := w.makeFixture(t, secret, fmt.Sprintf("v%d", i))
		c := w.sendRequestHead(t, secret, "PUT "+api.Prefix+"/volumes/"+x.volume+"/content?path=file", "Content-Length: 6")
		_, _ = io.WriteString(c, "EV")
		time.Sleep(20 * time.Millisecond)
		if _, _, err := w.accounts.RevokeKey(t.Context(), DefaultOrg, k.ID, accounts.RevokeOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "IL!\n")
		_ = c.SetReadDeadline(time.Now().Add(revokedTime))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%v %v", res, err)
		}
		if got := w.callOperation(t, w.operation(t, "readFile"), x.onVolume(url.Values{"path": {"file"}}, ""), w.root); !strings.HasPrefix(got.body, "some text") {
			t.Errorf("a revoked key wrote %q", got.body)
		}
	}
}

// TestRevokedTarEntry: of an archive no entry is made that comes after the revocation; those
// before stay.
func TestRevokedTarEntry(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	k, secret, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Write})
	if err != nil {
		t.Fatal(err)
	}
	var v api.Volume
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"v"}`}, &v)
	names := func() (list []string) {
		var page api.EntryPage
		w.mustCall(t, w.root, "listEntries", apiCall{path: map[string]string{"volume": "v"}, query: url.Values{"path": {"/"}}}, &page)
		for _, e := range page.Entries {
			list = append(list, e.Name)
		}
		return list
	}
	c := w.sendRequestHead(t, secret, "PUT "+api.Prefix+"/volumes/"+v.ID+"/archive", "Content-Length: 1000000")
	_, _ = c.Write(tarOf("first", 3000, "second", 10)[:512+3072+512])
	for end := time.Now().Add(revokedTime); len(names()) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the first entry does not appear")
		}
	}
	if _, _, err := w.accounts.RevokeKey(t.Context(), DefaultOrg, k.ID, accounts.RevokeOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write(tarOf("second", 10, "third", 10)[512:])
	_ = c.SetReadDeadline(time.Now().Add(revokedTime))
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && res.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v", res.Status)
	}
	if got := names(); len(got) != 1 || got[0] != "first" {
		t.Errorf("there are %q", got)
	}
}

// fakeProvider is an identity provider whose tokens stand for whatever who returns.
type fakeProvider struct {
	who   atomic.Pointer[accounts.Principal]
	asked atomic.Int64
}

func (p *fakeProvider) Gives(string) accounts.Scope { return 0 }

func (p *fakeProvider) Verify(context.Context, string) (*accounts.Principal, error) {
	p.asked.Add(1)
	if who := p.who.Load(); who != nil {
		return who, nil
	}
	return nil, accounts.ErrUnauthenticated
}

// TestRightsShrink: tokens that expire, lose a right or a volume, or are of another
// organisation by now end what was begun with them as a revoked key does.
func TestRightsShrink(t *testing.T) {
	for name, change := range map[string]func(who *accounts.Principal){
		"expired":              func(who *accounts.Principal) {}, // by itself
		"read-only":            func(who *accounts.Principal) { who.Scopes = accounts.Read },
		"other volume":         func(who *accounts.Principal) { who.Volumes = []string{"01890a5d-ac96-774b-bcce-b302099a8057"} },
		"other organisation":   func(who *accounts.Principal) { who.Org = "other" },
		"not accepted anymore": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startTestServer(t)
			p := &fakeProvider{}
			w.core.Options().OIDC = p
			who := accounts.Principal{KeyID: "oidc:a", KeyName: "a", Org: DefaultOrg, Scopes: accounts.Write}
			p.who.Store(&who)
			x := w.makeFixture(t, "a.b.c", "v")
			const streams = 20
			begun := p.asked.Load()
			if name == "expired" {
				late := who
				late.Expires = time.Now().Add(3 * time.Second)
				p.who.Store(&late)
			}
			var conns []net.Conn
			for range streams {
				conns = append(conns, w.sendHalfRequest(t, "a.b.c", "PUT "+api.Prefix+"/volumes/"+x.volume+"/content?path=file", "new"))
			}
			for end := time.Now().Add(revokedTime); p.asked.Load() < begun+streams && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			switch {
			case change == nil:
				p.who.Store(nil)
			case name != "expired":
				less := who
				change(&less)
				p.who.Store(&less)
			}
			for _, c := range conns {
				_ = c.SetReadDeadline(time.Now().Add(revokedTime))
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || res.StatusCode != 401 && res.StatusCode != 403 {
					t.Fatalf("%v %v", res, err)
				}
			}
			if got := w.callOperation(t, w.operation(t, "readFile"), x.onVolume(url.Values{"path": {"file"}}, ""), w.root); !strings.HasPrefix(got.body, "some text") {
				t.Errorf("wrote %q", got.body)
			}
			if name != "expired" { // that session lives by the token before
				w.awaitNoAttachments(t)
			}
		})
	}
}

// TestRightsAskedOnce: many streams of one credential ask one question together.
func TestRightsAskedOnce(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	p := &fakeProvider{}
	w.core.Options().OIDC = p
	p.who.Store(&accounts.Principal{KeyID: "oidc:a", KeyName: "a", Org: DefaultOrg, Scopes: accounts.Write})
	x := w.makeFixture(t, "a.b.c", "v")
	begun := p.asked.Load()
	const streams = 100
	for range streams {
		w.sendHalfRequest(t, "a.b.c", "PUT "+api.Prefix+"/volumes/"+x.volume+"/content?path=file", "new")
	}
	for end := time.Now().Add(revokedTime); p.asked.Load() < begun+streams+2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("asked %d times for %d streams", p.asked.Load()-begun, streams)
		}
	}
	if n := p.asked.Load() - begun - streams; n > streams/2 {
		t.Errorf("asked %d times more for %d streams", n, streams)
	}
}

// tarOf is an archive of files: name, size, ...
func tarOf(list ...any) []byte {
	b := &bytes.Buffer{}
	w := tar.NewWriter(b)
	for i := 0; i < len(list); i += 2 {
		size := list[i+1].(int)
		_ = w.WriteHeader(&tar.Header{Name: list[i].(string), Mode: 0o644, Size: int64(size)})
		_, _ = w.Write(bytes.Repeat([]byte("x"), size))
	}
	_ = w.Close()
	return b.Bytes()
}

// TestRevokedHTTP2 is TestRevokedStreams for streams of one connection, of which the others
// go on.
func TestRevokedHTTP2(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	k, secret, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Write})
	if err != nil {
		t.Fatal(err)
	}
	x := w.makeFixture(t, secret, "v")
	w.mustCall(t, w.root, "writeFile", x.onVolume(url.Values{"path": {"large"}}, strings.Repeat("x", largeFile)), nil)
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: p}}
	defer client.CloseIdleConnections()
	do := func(key, method, path string, body io.Reader) (*http.Response, error) {
		ctx, cancel := context.WithTimeout(t.Context(), revokedTime)
		t.Cleanup(cancel)
		req, err := http.NewRequestWithContext(ctx, method, w.url+api.Prefix+"/volumes/"+x.volume+"/content?path="+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		return client.Do(req)
	}
	down, err := do(secret, "GET", "large", nil)
	if err != nil || down.ProtoMajor != 2 {
		t.Fatal(down, err)
	}
	defer down.Body.Close()
	body, out := io.Pipe()
	up := make(chan error, 1)
	go func() {
		res, err := do(secret, "PUT", "file", body)
		if err == nil {
			if _, err = io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusUnauthorized {
				err = fmt.Errorf("status %s", res.Status)
			}
			_ = res.Body.Close()
		}
		up <- err
	}()
	_, _ = io.WriteString(out, "some")
	others, mine := io.Pipe()
	went := make(chan error, 1)
	go func() {
		res, err := do(w.root, "PUT", "other", others)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", res.Status)
		}
		went <- err
	}()
	_, _ = io.WriteString(mine, "some")
	w.mustCall(t, w.root, "revokeKey", apiCall{path: map[string]string{"key": k.ID}}, nil)
	if err := <-up; errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "status") {
		t.Errorf("writing: %v", err)
	}
	if n, err := readSlowly(down.Body); err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) || n >= largeFile {
		t.Errorf("reading: %d bytes, %v", n, err)
	}
	_ = mine.Close()
	if err := <-went; err != nil {
		t.Errorf("another key's stream: %v", err)
	}
	if got := w.callOperation(t, w.operation(t, "readFile"), x.onVolume(url.Values{"path": {"file"}}, ""), w.root); !strings.HasPrefix(got.body, "some text") {
		t.Errorf("wrote %q", got.body)
	}
}

// A stream of events ends when its key does.
func TestEventsOfRevokedKey(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	k, secret, err := w.accounts.CreateKey(t.Context(), accounts.NewKey{Org: DefaultOrg, Name: "gone", Scopes: accounts.Read})
	if err != nil {
		t.Fatal(err)
	}
	c := w.sendRequestHead(t, secret, "GET "+api.Prefix+"/events")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Scan() // ready
	w.mustCall(t, w.root, "revokeKey", apiCall{path: map[string]string{"key": k.ID}}, nil)
	w.mustCall(t, w.root, "createVolume", apiCall{body: `{"name":"secret"}`}, nil)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for lines.Scan() {
		if strings.Contains(lines.Text(), "secret") {
			t.Fatalf("a revoked key learns of %s", lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream goes on: %v", err)
	}
}
