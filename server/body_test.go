package server

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole/internal/api"
)

// badBodies are bodies that HTTP/1 does not allow, or that break off.
var badBodies = map[string]string{
	"chunk size":        "Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
	"huge chunk":        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\na\r\n",
	"chunk extension":   "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("e", 8000) + "\r\na\r\n0\r\n\r\n",
	"chunk overhead":    "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("e", 3000)+"\r\na\r\n", 20) + "0\r\n\r\n",
	"chunk end":         "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
	"trailers":          "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + strings.Repeat("T: "+strings.Repeat("x", 900)+"\r\n", 200) + "\r\n",
	"malformed trailer": "Transfer-Encoding: chunked\r\nTrailer: T\r\n\r\n1\r\na\r\n0\r\nno colon\r\n\r\n",
	"ends early":        "Content-Length: 1000\r\n\r\n{",
	"chunk ends early":  "Transfer-Encoding: chunked\r\n\r\n3e8\r\n{",
	"no last chunk":     "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
}

// sendRaw sends a request line with headers and what follows them, ends the connection's
// half, and returns the status.
func (w *testServer) sendRaw(t *testing.T, line, headers, rest string) int {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\n%s%s", line, headers, rest)
	_ = c.(*net.TCPConn).CloseWrite() // the server may have answered, and closed it
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("%s: %v", line, err)
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// TestMalformedBodies sends every route that has a body some that are none: that is the
// client's fault, changes nothing, and is no error of the server in its log.
func TestMalformedBodies(t *testing.T) {
	w := startTestServer(t)
	x, uploads := w.makeFixture(t, w.root, "bodies"), w.makeFixture(t, w.root, "uploads")
	routes := map[string]string{} // request line -> headers
	for _, op := range w.doc.ops {
		if op.body == nil || !w.hasRoute(op.id) {
			continue
		}
		of := x
		if op.id == "continueUpload" {
			of = uploads // where what arrived stays
		}
		req, err := calls[op.id](of).request(t.Context(), w.url, op, w.root)
		if err != nil {
			t.Fatal(err)
		}
		var h strings.Builder
		if err := req.Header.Write(&h); err != nil {
			t.Fatal(err)
		}
		routes[req.Method+" "+req.URL.RequestURI()] = h.String()
		routes[req.Method+" "+req.URL.RequestURI()+" "] = h.String() + "Idempotency-Key: KEY\r\n"
	}
	for line, h := range w.dialectBodies(t, x) {
		routes[line] = h
	}
	if len(routes) < 20 {
		t.Fatalf("only %d routes have bodies", len(routes))
	}
	// The volume of the upload grows by what arrived.
	state := func() string {
		return regexp.MustCompile(`(?m)^volume .* uploads .*$`).ReplaceAllString(w.describeState(t, x), "")
	}
	before := state()
	n := 0
	for name, body := range badBodies {
		for line, h := range routes {
			n++
			h := strings.Replace(h, "KEY", fmt.Sprint("k", n), 1)
			status := w.sendRaw(t, strings.TrimSuffix(line, " "), h, body)
			if moved := status == http.StatusConflict && strings.Contains(line, "/uploads/"); status != http.StatusBadRequest && !moved { // by what arrived before
				t.Errorf("%s: %s: %d", name, line, status)
			}
		}
	}
	if after := state(); after != before {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	if log := w.log.String(); log != "" {
		t.Errorf("the log:\n%s", log)
	}
}

// dialectBodies are the routes of the dialects that have bodies, with their headers.
func (w *testServer) dialectBodies(t *testing.T, x *fixture) map[string]string {
	t.Helper()
	id, token := w.volumeToken(t, w.root, x.name)
	bearer := "Authorization: Bearer " + w.root + "\r\n"
	msb := bearer + "X-Msb-File-Path: " + base64.RawURLEncoding.EncodeToString([]byte("file")) + "\r\n"
	return map[string]string{
		"PUT /v1/volumes/" + x.volume + "/files/content": msb,
		"POST /v1/volumes":                                      bearer,
		"PATCH /v1/volumes/" + x.volume:                         bearer,
		"POST /v1/volumes/" + x.volume + "/files/rename":        bearer,
		"POST /v1/volumes/" + x.volume + "/files/copy":          bearer,
		"POST /volumes":                                         "X-API-Key: " + w.root + "\r\n",
		"PUT /volumecontent/" + id + "/file?path=/a&force=true": "Authorization: Bearer " + token + "\r\n",
		"PATCH /volumecontent/" + id + "/path?path=/":           "Authorization: Bearer " + token + "\r\n",
	}
}

// TestSlowBody shows that a body that comes too slowly is the client's fault too.
func TestSlowBody(t *testing.T) {
	r := startServer(t, Options{slack: slack}, nil, 0)
	r.createVolumeWithFile(t, "v", 1)
	c := dial(t, r.addr)
	fmt.Fprintf(c, "PUT /vole/v1/volumes/v/content?path=g HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 5\r\n\r\na", r.key)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body struct{ Error struct{ Code string } }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || res.StatusCode != http.StatusRequestTimeout || body.Error.Code != "timeout" {
		t.Errorf("%d %+v %v", res.StatusCode, body, err)
	}
}

// TestEncodedBodies sends compressed content to every route that would store or read it as
// it comes: each refuses it, and stores nothing.
func TestEncodedBodies(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "encoded")
	routes := w.dialectBodies(t, x)
	bearer := "Authorization: Bearer " + w.root + "\r\n"
	routes["PUT /vole/v1/volumes/"+x.volume+"/content?path=/new"] = bearer
	before := w.describeState(t, x)
	for line, h := range routes {
		if status := w.sendRaw(t, line, h+"Content-Encoding: gzip\r\n", "Content-Length: 2\r\n\r\n{}"); status != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d", line, status)
		}
	}
	if after := w.describeState(t, x); after != before {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	req, err := http.NewRequestWithContext(t.Context(), "PUT", w.url+"/vole/v1/volumes/"+x.volume+"/content?path=/new", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.root)
	req.Header.Set("Content-Encoding", "identity")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		t.Errorf("identity: %s", res.Status)
	}
}

// A request that moves no files ends with its time, though its client sends now and then.
func TestSlowBodyEndsInTime(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "v")
	w.core.Options().Timeout = 500 * time.Millisecond
	c := w.sendRequestHead(t, w.root, "PUT "+api.Prefix+"/handles/"+x.handle+"/data?offset=0", "Content-Length: 1000000")
	_ = c.SetReadDeadline(time.Now().Add(answerTimeout))
	_, _ = c.Write([]byte("some"))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	// 408 would be the answer to a slow body, which comes after Options.Grace.
	if res.StatusCode < 400 || res.StatusCode == http.StatusRequestTimeout {
		t.Error(res.Status)
	}
}
