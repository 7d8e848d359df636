package main

import (
	"bytes"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer is a buffer that goroutines of net/http may write to.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// What a server sends unasked behind an answer does not get to standard error, whose lines
// are the command's own.
func TestUnaskedAnswer(t *testing.T) {
	const answer = `{"api":2,"caps":{"backend":"local","dir":true},"instance":"i","key":"k","org":"o","scopes":["read"],"version":"1","volumes":[]}`
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nVole-Instance: i\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%sUNASKED", len(answer), answer)
		time.Sleep(50 * time.Millisecond) // for the client to see it before the end
	}))
	defer hs.Close()
	t.Setenv("VOLE_URL", hs.URL)
	t.Setenv("VOLE_API_KEY", "k")
	var logged lockedBuffer
	was := log.Writer()
	log.SetOutput(&logged)
	t.Cleanup(func() { log.SetOutput(was) })
	var out, errs bytes.Buffer
	if code := runCommandLine([]string{"ls"}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Errorf("%d, %s", code, errs.String())
	}
	if text := logged.String() + errs.String(); strings.Contains(text, "UNASKED") {
		t.Errorf("%q", text)
	}
}
