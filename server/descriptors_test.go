package server

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

// TestDescriptors shows that a key that only reads cannot have a server open all that its
// process may: handles, attachments and listings of an organisation are bounded, and others
// are served meanwhile.
func TestDescriptors(t *testing.T) {
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, descriptorLimit: 400}) // 40 for an organisation
	if err := w.organisations.CreateOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	otherKey := w.createKey(t, accounts.NewKey{Org: "other", Scopes: accounts.Admin})
	other := w.makeFixture(t, otherKey, "other")
	x := w.makeFixture(t, w.root, "v")
	reader := w.createKey(t, accounts.NewKey{Scopes: accounts.Read})
	until := func(what string, id string, c func() apiCall) {
		t.Helper()
		for range 100 {
			a := w.callOperation(t, w.operation(t, id), c(), reader)
			if a.status < 300 {
				continue
			}
			if after, err := strconv.Atoi(a.header.Get("Retry-After")); a.status != http.StatusTooManyRequests || err != nil || after < 1 {
				t.Errorf("%s: %d %v %s", what, a.status, a.header, a.body)
			}
			return
		}
		t.Errorf("%s: 100 of them were opened", what)
	}
	var s api.Session
	w.mustCall(t, reader, "openSession", apiCall{}, &s)
	var f api.Filesystem
	w.mustCall(t, reader, "openFilesystem", apiCall{path: map[string]string{"session": s.ID}, query: url.Values{"volume": {x.volume}, "read_only": {"true"}}}, &f)
	until("handles", "openFile", func() apiCall {
		return apiCall{path: map[string]string{"filesystem": f.ID}, query: url.Values{"path": {"file"}}}
	})
	until("file systems", "openFilesystem", func() apiCall {
		return apiCall{path: map[string]string{"session": s.ID}, query: url.Values{"volume": {x.volume}, "read_only": {"true"}}}
	})
	until("attachments", "attach", func() apiCall { return x.onVolume(nil, `{"read_only":true,"session":"`+s.ID+`"}`) })
	w.mustCall(t, otherKey, "openFile",
		apiCall{path: map[string]string{"filesystem": other.filesystem}, query: url.Values{"path": {"file"}}}, nil)
	w.mustCall(t, reader, "closeSession", apiCall{path: map[string]string{"session": s.ID}}, nil)
	w.mustCall(t, reader, "openSession", apiCall{}, &s)
	w.mustCall(t, reader, "openFilesystem", apiCall{path: map[string]string{"session": s.ID}, query: url.Values{"volume": {x.volume}, "read_only": {"true"}}}, &f)
}

// TestConnections shows that connections without a request make room for new ones, and
// that those beyond what there may be are told so when all have requests.
func TestConnections(t *testing.T) {
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, descriptorLimit: 40}) // 8 connections
	addr := strings.TrimPrefix(w.url, "http://")
	w.client.CloseIdleConnections()
	get := func(path string) (net.Conn, *http.Response) {
		c := dial(t, addr)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, w.root)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, res
	}
	var idle []net.Conn
	for i := range 20 {
		if i%2 == 0 {
			idle = append(idle, dial(t, addr))
			continue
		}
		c, res := get("/vole/v1/volumes")
		if idle = append(idle, c); res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %d", i, res.StatusCode)
		}
	}
	_ = idle[0].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := idle[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest connection is open: %v", err)
	}
	for range 8 {
		if _, res := get("/vole/v1/events"); res.StatusCode != http.StatusOK {
			t.Fatalf("a stream of events: %d", res.StatusCode)
		}
	}
	_, res := get("/healthz")
	defer res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !res.Close {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

// TestStreamsOfOneOrganisation shows that one organisation's streams of events leave
// connections for others.
func TestStreamsOfOneOrganisation(t *testing.T) {
	w := startTestServerWith(t, Options{Bucket: &bucket.Options{Dir: t.TempDir()}, descriptorLimit: 300}) // 60 connections
	var refused int
	for range 60 {
		c := dial(t, strings.TrimPrefix(w.url, "http://"))
		fmt.Fprintf(c, "GET /vole/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", w.root)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused != 40 {
		t.Errorf("%d streams were refused", refused)
	}
}

// What one organisation leaves open does not end the listings of another.
func TestListingsOfOthers(t *testing.T) {
	t.Parallel()
	w := startTestServer(t)
	badKey := w.createOrg(t, "bad")
	x, mine := w.makeFixture(t, badKey, "v"), w.makeFixture(t, w.root, "mine")
	q := url.Values{"path": {"dir"}, "unsorted": {"true"}, "limit": {"1"}}
	for range 4200 {
		w.mustCall(t, badKey, "listEntries", x.onVolume(q, ""), nil)
	}
	var page api.EntryPage
	w.mustCall(t, w.root, "listEntries", mine.onVolume(q, ""), &page)
	q.Set("cursor", page.Next)
	w.mustCall(t, w.root, "listEntries", mine.onVolume(q, ""), &page)
}

// One organisation has no end of streams of events.
func TestMostWatchers(t *testing.T) {
	w := startTestServer(t)
	for i := range 501 {
		c := w.sendRequestHead(t, w.root, "GET "+api.Prefix+"/events")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if i == 500 && res.StatusCode != http.StatusTooManyRequests || i < 500 && res.StatusCode != http.StatusOK {
			t.Fatal(i, res.Status)
		}
	}
}
