package main

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Bounds of TestServeUntakenAnswers.
const (
	untakenConns   = 500
	untakenStreams = 100 // of each connection: all that the server allows
	untakenTime    = 6 * time.Second
)

// TestServeUntakenAnswers shows that clients of HTTP/2 that take no answer have the server
// hold no more than it may, whether their key is good or not, and that others are served.
func TestServeUntakenAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes 50,000 requests at once")
	}
	t.Parallel() // what it does most of the time is to wait
	for _, x := range []struct{ name, method, path, key string }{
		{"no such key", http.MethodGet, "/vole/v1/volumes", "nokey"},
		{"a key's answers", http.MethodGet, "/vole/v1/volumes/v", ""},
		{"a key's bodies", http.MethodPut, "/vole/v1/volumes/v/content?path=f", ""},
		{"no route", http.MethodGet, "//x", "nokey"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := startServe(t)
			s.must(t, s.root, "POST", "/vole/v1/volumes", `{"name":"v"}`)
			other := s.newOrg(t, "other")
			key := x.key
			if key == "" {
				key = s.root
			}
			var wg sync.WaitGroup
			end := make(chan struct{})
			for range untakenConns {
				wg.Go(func() { s.takeNothing(x.method, x.path, key, end) })
			}
			time.Sleep(untakenTime / 2)
			begin := time.Now()
			s.must(t, other, "GET", "/vole/v1/volumes", "")
			took := time.Since(begin)
			time.Sleep(max(0, untakenTime/2-took))
			peak := s.peak(t)
			close(end)
			wg.Wait()
			t.Logf("%d MiB at most; another organisation's request took %v", peak>>20, took)
			if peak >= memoryBound {
				t.Errorf("the server took %d MiB", peak>>20)
			}
		})
	}
}

// takeNothing makes requests on a connection of HTTP/2 whose window for answers is empty.
func (s *served) takeNothing(method, path, key string, end <-chan struct{}) {
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // its own certificate
	if err != nil {
		return
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	const settings, headers, endStream, endHeaders, initialWindow = 4, 1, 1, 4, 4
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	out = appendFrame(out, settings, 0, 0, []byte{0, initialWindow, 0, 0, 0, 0})
	var block []byte
	for _, h := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "x"}, {":path", path}, {"authorization", "Bearer " + key}} {
		block = append(block, 0) // a literal without an index, both strings as they are
		for _, v := range h {
			block = append(append(block, byte(len(v))), v...)
		}
	}
	flags := byte(endHeaders)
	if method == http.MethodGet {
		flags |= endStream
	}
	if _, err := conn.Write(out); err != nil {
		return
	}
	for i := range uint32(untakenStreams) {
		if _, err := conn.Write(appendFrame(nil, headers, flags, 2*i+1, block)); err != nil {
			return
		}
	}
	<-end
}

// appendFrame appends a frame of HTTP/2.
func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}
