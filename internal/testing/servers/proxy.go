package servers

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Fault describes how a [Proxy] disturbs one request. The zero Fault forwards it faithfully.
type Fault struct {
	// Delay holds the request back before anything else. What is forwarded then is
	// forwarded even if the client has gone away by then: a late request.
	Delay time.Duration
	// Status is answered, with an S3 error as the body, and nothing is forwarded.
	Status int
	// AfterForward forwards the request first and answers Status (500 when it is 0)
	// whatever the server said: the client cannot know whether it was done.
	AfterForward bool
	// Drop closes the connection without an answer, and forwards nothing.
	Drop bool
	// DropAfter forwards the request and closes the connection without an answer.
	DropAfter bool
	// HalfBody sends half of the response's body and closes the connection.
	HalfBody bool
	// Short takes some bytes off the end of the body, and off Content-Length: the
	// response is well-formed. A HEAD request gets the wrong length.
	Short bool
	// Flip inverts a bit in the middle of the response's body.
	Flip bool
}

// Proxy is an HTTP server before an S3 server, which misbehaves as it is told. It keeps
// the Host header, so that signatures stay valid. Clients may retry by themselves: each
// attempt is a request of its own here.
type Proxy struct {
	backend *url.URL
	url     string
	server  *http.Server
	to      *http.Transport
	closing chan struct{}
	once    sync.Once
	mu      sync.Mutex
	fault   func(*http.Request) Fault
}

// NewProxy starts a proxy before backend, the base URL of a server. It is closed when
// the test ends; with a nil t the caller closes it, and a failure to start panics.
func NewProxy(t testing.TB, backend string) *Proxy {
	p, err := newProxy(backend)
	switch {
	case err != nil && t == nil:
		panic(err)
	case err != nil:
		t.Fatal(err)
	case t != nil:
		t.Cleanup(p.Close)
	}
	return p
}

func newProxy(backend string) (*Proxy, error) {
	u, err := url.Parse(backend)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		backend: u, url: "http://" + l.Addr().String(), closing: make(chan struct{}),
		to: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute},
	}
	p.server = &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

// URL returns the base URL of the proxy.
func (p *Proxy) URL() string { return p.url }

// Set makes f say what happens to each request from now on. f is called by many
// goroutines at once and must not read the body. With a nil f nothing goes wrong.
func (p *Proxy) Set(f func(r *http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Close cuts all connections and waits for no request. It may be called twice.
func (p *Proxy) Close() {
	p.once.Do(func() {
		close(p.closing)
		_ = p.server.Close()
		p.to.CloseIdleConnections()
	})
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	f := p.fault
	p.mu.Unlock()
	var fault Fault
	if f != nil {
		fault = f(r)
	}
	if fault.Delay > 0 && !p.holdRequest(r, fault.Delay) {
		panic(http.ErrAbortHandler) // a plain return would be the answer 200
	}
	switch {
	case fault.Drop:
		panic(http.ErrAbortHandler)
	case fault.Status != 0 && !fault.AfterForward && !fault.DropAfter:
		_, _ = io.Copy(io.Discard, r.Body) // a client that still sends may miss the answer
		writeS3Error(w, r, fault.Status)
		return
	}
	resp, err := p.forwardRequest(r, fault.Delay > 0)
	if err != nil {
		writeS3Error(w, r, http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	switch {
	case fault.DropAfter:
		_, _ = io.Copy(io.Discard, resp.Body)
		panic(http.ErrAbortHandler)
	case fault.AfterForward:
		_, _ = io.Copy(io.Discard, resp.Body)
		writeS3Error(w, r, cmp.Or(fault.Status, http.StatusInternalServerError))
	default:
		respondWithFault(w, r, resp, fault)
	}
}

// holdRequest reads the request's body, which is lost once the client is gone, and delays the
// request. It returns false when there is nothing to forward.
func (p *Proxy) holdRequest(r *http.Request, d time.Duration) bool {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	select {
	case <-time.After(d):
		return true
	case <-p.closing:
		return false
	}
}

// forwardRequest sends the request on and returns the response.
func (p *Proxy) forwardRequest(r *http.Request, late bool) (*http.Response, error) {
	ctx := r.Context()
	if late {
		ctx = context.WithoutCancel(ctx)
	}
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host = p.backend.Scheme, p.backend.Host
	out.Host = r.Host // as signed
	out.RequestURI = ""
	if out.ContentLength == 0 {
		out.Body = http.NoBody // else the transport would send it in chunks
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // the transport adds none of its own
	}
	out.Header.Del("Connection")
	return p.to.RoundTrip(out)
}

// respondWithFault passes the response on, damaged as fault says.
func respondWithFault(w http.ResponseWriter, r *http.Request, resp *http.Response, fault Fault) {
	header := w.Header()
	for name, values := range resp.Header {
		header[name] = values
	}
	header.Del("Connection")
	length := resp.ContentLength
	if !fault.HalfBody && !fault.Short && !fault.Flip {
		w.WriteHeader(resp.StatusCode)
		if n, err := io.Copy(w, resp.Body); err != nil || r.Method != http.MethodHead && length >= 0 && n != length {
			panic(http.ErrAbortHandler) // pass a cut on
		}
		return
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if r.Method != http.MethodHead {
		length = int64(len(body))
	}
	if fault.Flip && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	if fault.Short {
		length -= min(7, length)
		body = body[:min(int64(len(body)), length)]
	}
	if length >= 0 && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		header.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	w.WriteHeader(resp.StatusCode)
	if fault.HalfBody {
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
}

// writeS3Error sends an S3 error.
func writeS3Error(w http.ResponseWriter, r *http.Request, status int) {
	code, ok := map[int]string{
		http.StatusForbidden:          "AccessDenied",
		http.StatusNotFound:           "NoSuchKey",
		http.StatusConflict:           "ConditionalRequestConflict",
		http.StatusPreconditionFailed: "PreconditionFailed",
		http.StatusTooManyRequests:    "SlowDown",
		http.StatusServiceUnavailable: "SlowDown",
	}[status]
	if !ok {
		code = "InternalError"
	}
	body := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
		"<Error><Code>%s</Code><Message>a fault of the test's proxy</Message></Error>", code)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, body)
	}
}
