package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHeadOfEveryRoute: HEAD ends with its headers at every route that GET has, the stream of
// events too, and leaves the connection to the next request.
func TestHeadOfEveryRoute(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "head")
	tried := 0
	for _, op := range w.doc.ops {
		if op.method != http.MethodGet || !w.hasRoute(op.id) {
			continue
		}
		req, err := calls[op.id](x).request(t.Context(), w.url, op, w.root)
		if err != nil {
			t.Fatal(err)
		}
		var h strings.Builder
		if err := req.Header.Write(&h); err != nil {
			t.Fatal(err)
		}
		tried++
		headThenGet(t, strings.TrimPrefix(w.url, "http://"), req.URL.RequestURI(), h.String())
	}
	if tried < 10 {
		t.Errorf("only %d routes were tried", tried)
	}
}

// headThenGet sends HEAD and then another request on one connection.
func headThenGet(t *testing.T, addr, uri, headers string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(c)
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		if method == http.MethodGet {
			uri, headers = "/healthz", ""
		}
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, uri, headers)
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Errorf("%s %s: %v", method, uri, err)
			return
		}
		res.Body.Close()
		if res.Close {
			return
		}
	}
}
