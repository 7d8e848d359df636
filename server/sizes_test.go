package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/volehq/vole/internal/api"
)

// A body of another length than the client announced is refused, and replaces nothing.
func TestAnnouncedSize(t *testing.T) {
	w := startTestServer(t)
	x := w.makeFixture(t, w.root, "sizes")
	line := "PUT " + api.Prefix + "/volumes/" + x.volume + "/content?path=announced"
	head := "Authorization: Bearer " + w.root + "\r\n"
	for _, c := range []struct {
		size  string
		rest  string
		want  int
		whole bool
	}{
		{"", "Content-Length: 5\r\n\r\nright", http.StatusOK, true},
		{"&size=5", "Content-Length: 5\r\n\r\nright", http.StatusOK, true},
		{"&size=5", "Transfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n", http.StatusOK, true},
		{"", "Vole-Size-Hint: 9\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n", http.StatusOK, true},
		{"", "Vole-Size-Hint: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n", http.StatusOK, true},
		{"&size=0", "Content-Length: 5\r\n\r\nwrong", http.StatusBadRequest, true},
		{"&size=9", "Content-Length: 5\r\n\r\nwrong", http.StatusBadRequest, true},
		{"&size=9", "Transfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n0\r\n\r\n", http.StatusBadRequest, true},
		{"&size=4", "Transfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n0\r\n\r\n", http.StatusBadRequest, true},
		{"&size=0", "Transfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n0\r\n\r\n", http.StatusBadRequest, true},
		{"", "Content-Length: 9\r\n\r\nwrong", http.StatusBadRequest, false},
		{"", "Transfer-Encoding: chunked\r\n\r\n5\r\nwrong\r\n", http.StatusBadRequest, false},
	} {
		send := w.sendRaw
		if c.whole {
			send = w.sendWhole
		}
		if got := send(t, line+c.size, head, c.rest); got != c.want {
			t.Errorf("%s %q: %d, want %d", c.size, c.rest, got, c.want)
		}
		if got := w.callOperation(t, w.operation(t, "readFile"), apiCall{path: map[string]string{"volume": x.volume}, query: url.Values{"path": {"announced"}}}, w.root); got.body != "right" {
			t.Fatalf("%s %q: the file is %d %q", c.size, c.rest, got.status, got.body)
		}
	}
}

// sendWhole is sendRaw for a request that is complete: whoever ends the connection's half
// then seems to be gone.
func (w *testServer) sendWhole(t *testing.T, line, headers, rest string) int {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\n%s%s", line, headers, rest)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	res.Body.Close()
	return res.StatusCode
}
