package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole/drivers/bucket"
)

// runningServer is a server that serves, and what a client of it needs.
type runningServer struct {
	*Server
	key  string
	addr string
	stop func() // begins to drain
	done chan error
}

func (r *runningServer) url(path string) string { return "http://" + r.addr + path }

// startServer serves on ln, or on a port of its own when that is nil.
func startServer(t *testing.T, opts Options, ln net.Listener, grace time.Duration) *runningServer {
	t.Helper()
	opts.Bucket = &bucket.Options{Dir: t.TempDir(), Maintain: -1}
	opts.Log = slog.New(slog.DiscardHandler)
	s, err := New(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	r := &runningServer{Server: s, done: make(chan error, 1)}
	if r.key, err = s.FirstKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ln == nil {
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	r.addr = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- s.Serve(ctx, ln, grace)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

// request makes a request with the key and returns the status and the body.
func (r *runningServer) request(t *testing.T, c *http.Client, key, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// createVolumeWithFile makes a volume with a file of that many bytes.
func (r *runningServer) createVolumeWithFile(t *testing.T, name string, size int) {
	t.Helper()
	if resp, b := r.request(t, http.DefaultClient, r.key, "POST", r.url("/vole/v1/volumes"), strings.NewReader(`{"name":"`+name+`"}`)); resp.StatusCode != http.StatusCreated {
		t.Fatal(b)
	}
	url := r.url("/vole/v1/volumes/" + name + "/content?path=f")
	if resp, b := r.request(t, http.DefaultClient, r.key, "PUT", url, bytes.NewReader(make([]byte, size))); resp.StatusCode != http.StatusOK {
		t.Fatal(b)
	}
}

const slack = 300 * time.Millisecond

// dial opens a connection that ends with the test.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// awaitClose checks that the server ends a connection soon while the client goes on sending
// a byte now and then.
func awaitClose(t *testing.T, c net.Conn) {
	t.Helper()
	start := time.Now()
	go func() {
		for range 1200 {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := io.Copy(io.Discard, c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Fatal("the connection is still open")
	}
	if took := time.Since(start); took < slack/2 {
		t.Errorf("closed after %v already", took)
	}
}

// Clients that send a byte now and then do not keep a connection.
func TestSlowClients(t *testing.T) {
	r := startServer(t, Options{slack: slack}, nil, time.Second)
	r.createVolumeWithFile(t, "v", 1)
	auth := "Host: x\r\nAuthorization: Bearer " + r.key + "\r\n"
	for name, head := range map[string]string{
		"nothing":                  "",
		"headers":                  "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ",
		"body":                     "PUT /vole/v1/volumes/v/content?path=g HTTP/1.1\r\n" + auth + "Content-Length: 1000000\r\n\r\n",
		"body of JSON":             "POST /vole/v1/volumes HTTP/1.1\r\n" + auth + "Content-Length: 1000\r\n\r\n{",
		"body without a key":       "PUT /vole/v1/volumes/v/content?path=g HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"body of no route":         "POST /nonsense HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"body of the wrong method": "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"preface of HTTP/2":        "PRI * HTTP/2.0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, r.addr)
			if _, err := io.WriteString(c, head); err != nil {
				t.Fatal(err)
			}
			awaitClose(t, c)
		})
	}
}

// A client that does not take its answer is cut off, and holds nobody else up.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Bytes that the kernel takes count as taken by the client, and earn it time.
	r := startServer(t, Options{slack: slack}, smallBufferListener{ln}, time.Second)
	const size = 4 << 20
	r.createVolumeWithFile(t, "v", size)
	c := dial(t, r.addr)
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(c, "GET /vole/v1/volumes/v/content?path=f HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", r.key)
	// The metrics count a request when it has ended.
	for end := time.Now().Add(2 * time.Minute); !strings.Contains(r.metrics(t), `vole_http_requests_total{dialect="vole",route="readFile"`); {
		if time.Now().After(end) {
			t.Fatal("the request is still under way")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !strings.Contains(r.metrics(t), "\nvole_http_requests_in_flight 1\n") { // that for the metrics itself
		t.Error("the metrics count the request as under way")
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	n, _ := io.Copy(io.Discard, c)
	if n >= size {
		t.Error("the answer came whole")
	}
}

// smallBufferListener accepts connections for which the kernel keeps little that is not taken.
type smallBufferListener struct{ net.Listener }

func (l smallBufferListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(4096)
	}
	return c, err
}

// metrics returns what the server tells Prometheus.
func (r *runningServer) metrics(t *testing.T) string {
	t.Helper()
	_, text := r.request(t, http.DefaultClient, r.key, "GET", r.url("/metrics"), nil)
	return text
}

// A client that is slow but keeps up gets all, and so does one whose request takes long
// for reasons that are not its own: the time of requests counts only for who is waited for.
func TestSteadyClients(t *testing.T) {
	r := startServer(t, Options{slack: slack}, nil, time.Second)
	r.createVolumeWithFile(t, "v", 1)
	for name, proto := range map[string]*http.Transport{"HTTP/1": {}, "HTTP/2": h2c()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer proto.CloseIdleConnections()
			c := &http.Client{Transport: proto}
			body := &steady{n: 20, every: 100 * time.Millisecond} // at 10 KiB/s
			resp, b := r.request(t, c, r.key, "PUT", r.url("/vole/v1/volumes/v/content?path="+name), body)
			if resp.StatusCode != http.StatusOK {
				t.Fatal(resp.StatusCode, b)
			}
			// Events rest for longer than any slack.
			ctx, cancel := context.WithTimeout(t.Context(), answerTimeout)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", r.url("/vole/v1/events"), nil)
			req.Header.Set("Authorization", "Bearer "+r.key)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			time.Sleep(4 * slack)
			r.request(t, c, r.key, "DELETE", r.url("/vole/v1/volumes/v/files?path="+name), nil)
			for lines := bufio.NewScanner(resp.Body); ; {
				if !lines.Scan() {
					t.Fatal("the stream of events ended: ", lines.Err())
				}
				if strings.HasPrefix(lines.Text(), "event: ") {
					break
				}
			}
		})
	}
}

// steady gives a KiB now and then.
type steady struct {
	n     int
	every time.Duration
}

func (s *steady) Read(p []byte) (int, error) {
	if s.n == 0 {
		return 0, io.EOF
	}
	s.n--
	time.Sleep(s.every)
	return copy(p, make([]byte, 1024)), nil
}

func h2c() *http.Transport {
	tr := &http.Transport{Protocols: &http.Protocols{}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return tr
}

func TestTooLarge(t *testing.T) {
	r := startServer(t, Options{MaxFile: 1000}, nil, time.Second)
	r.createVolumeWithFile(t, "v", 1000)
	req, _ := http.NewRequest("GET", r.url("/healthz"), nil)
	req.Header.Set("X", strings.Repeat("x", 100<<10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("large headers: %d", resp.StatusCode)
	}
	for name, c := range map[string]struct {
		method, path string
		body         io.Reader
	}{
		"file":                {"PUT", "/vole/v1/volumes/v/content?path=g", bytes.NewReader(make([]byte, 1001))},
		"file without length": {"PUT", "/vole/v1/volumes/v/content?path=g", io.LimitReader(zero{}, 1001)},
		"JSON":                {"POST", "/vole/v1/volumes", strings.NewReader(`{"name":"` + strings.Repeat("x", 20<<20) + `"}`)},
	} {
		if resp, b := r.request(t, http.DefaultClient, r.key, c.method, r.url(c.path), c.body); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", name, resp.StatusCode, b)
		}
	}
	if resp, _ := r.request(t, http.DefaultClient, r.key, "GET", r.url("/vole/v1/volumes/v/stat?path=g"), nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a file that is too large: %d", resp.StatusCode)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Who asks too often is told when to come again; others are not held up.
func TestRateOfKeys(t *testing.T) {
	r := startServer(t, Options{Rate: 0.5, Burst: 5}, nil, time.Second)
	other, b := r.request(t, http.DefaultClient, r.key, "POST", r.url("/vole/v1/keys"), strings.NewReader(`{"name":"k","scopes":["read"]}`))
	if other.StatusCode != http.StatusCreated {
		t.Fatal(b)
	}
	_, rest, _ := strings.Cut(b, `"secret":"`)
	key, _, _ := strings.Cut(rest, `"`)
	var mu sync.Mutex
	count := map[int]int{}
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			resp, b := r.request(t, http.DefaultClient, r.key, "GET", r.url("/vole/v1/volumes"), nil)
			if resp.StatusCode == http.StatusTooManyRequests {
				after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
				if err != nil || after < 1 || after > 3 || !strings.Contains(b, `"rate_limited"`) {
					t.Errorf("Retry-After %q: %s", resp.Header.Get("Retry-After"), b)
				}
			}
			mu.Lock()
			count[resp.StatusCode]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if count[200] < 3 || count[200] > 5 || count[200]+count[429] != 30 {
		t.Errorf("answers: %v", count)
	}
	for range 5 {
		if resp, b := r.request(t, http.DefaultClient, key, "GET", r.url("/vole/v1/volumes"), nil); resp.StatusCode != http.StatusOK {
			t.Errorf("another key: %d %s", resp.StatusCode, b)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	r := startServer(t, Options{}, ln, time.Second)
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.addr)
	}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	if resp, b := r.request(t, c, r.key, "POST", "http://x/vole/v1/volumes", strings.NewReader(`{"name":"v"}`)); resp.StatusCode != http.StatusCreated {
		t.Fatal(b)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // records are written behind
		_, b := r.request(t, c, r.key, "GET", "http://x/vole/v1/audit", nil)
		if strings.Contains(b, "createVolume") {
			break
		}
		if time.Now().After(end) {
			t.Fatal(b)
		}
	}
}

// HTTP/2 over TLS, 1.2 at least.
func TestTLSVersions(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir, "a.example")
	cert, err := LoadCertificate(filepath.Join(dir, "crt"), filepath.Join(dir, "key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := startServer(t, Options{TLS: cert.Config()}, nil, time.Second)
	for most, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: most, NextProtos: []string{"h2", "http/1.1"}})
		if (err == nil) != ok {
			t.Errorf("at most %s: %v", tls.VersionName(most), err)
		}
		if err == nil {
			if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
				t.Errorf("%s speaks %q", tls.VersionName(most), p)
			}
			c.Close()
		}
	}
}
