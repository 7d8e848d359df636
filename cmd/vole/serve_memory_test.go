package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Bounds of TestServeMemory: what a server with its defaults is to stay below, and what is
// done to it.
const (
	memoryBound     = 512 << 20
	slowKeys        = 10 // of three organisations
	slowConnections = 1000
	heldConnections = 850     // at one instant: some were just refused, and come again
	slowStreams     = 4       // requests on each connection of HTTP/2
	allStreams      = 100     // on the first one of each key
	slowBody        = 1 << 20 // bytes that come quickly
	slowTime        = 8 * time.Second
	slowPause       = 4 * time.Second // before a request that was refused is made again
)

// TestServeMemory shows that a few keys cannot have a server hold more memory than it may:
// they hold a thousand connections on which each kind of request is slow, by HTTP/1 and
// HTTP/2, and another key is served meanwhile.
func TestServeMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it moves some GiB")
	}
	s := startServe(t)
	orgs := []string{s.root, s.newOrg(t, "two"), s.newOrg(t, "three")}
	other := s.newOrg(t, "other")
	for _, key := range append(orgs, other) {
		s.must(t, key, "POST", "/vole/v1/volumes", `{"name":"v"}`)
		s.must(t, key, "PUT", "/vole/v1/volumes/v/content?path=big", strings.Repeat("0123456789abcdef", 1<<20))
	}
	for i := range 1000 {
		if i%10 == 0 {
			s.must(t, orgs[0], "PUT", fmt.Sprintf("/vole/v1/volumes/v/content?path=%s%d", strings.Repeat("n", 240), i), "")
		}
	}
	var keys []string
	for i := range slowKeys {
		body := s.must(t, orgs[i%len(orgs)], "POST", "/vole/v1/keys", fmt.Sprintf(`{"name":"k%d","scopes":["write"]}`, i))
		var k struct{ Secret string }
		if err := json.Unmarshal(body, &k); err != nil || k.Secret == "" {
			t.Fatalf("%v: %s", err, body)
		}
		keys = append(keys, k.Secret)
	}
	attack := &slowClients{addr: s.addr, end: make(chan struct{})}
	for i := range slowConnections {
		key, kind := keys[i%len(keys)], i/len(keys)%len(slowKinds())
		if i%2 == 0 {
			attack.wg.Go(func() { attack.http1(key, slowKinds()[kind]) })
		} else {
			streams := slowStreams
			if i < 2*len(keys) {
				streams = allStreams
			}
			attack.wg.Go(func() { attack.http2(key, kind, streams) })
		}
	}
	start, slowest, connections := time.Now(), time.Duration(0), 0
	for n := 0; time.Since(start) < slowTime || n < 10 || connections < heldConnections && time.Since(start) < time.Minute; n++ {
		for _, x := range []struct{ method, path, body string }{
			{"GET", "/vole/v1/volumes/v/stat?path=big", ""}, {"PUT", "/vole/v1/volumes/v/content?path=small", "small"},
			{"GET", "/vole/v1/volumes/v/content?path=small", ""}, {"GET", "/vole/v1/volumes/v/entries?path=/", ""},
		} {
			begin := time.Now()
			s.must(t, other, x.method, x.path, x.body)
			slowest = max(slowest, time.Since(begin))
		}
		connections = max(connections, s.sockets(t))
		time.Sleep(100 * time.Millisecond)
	}
	peak := s.peak(t)
	close(attack.end)
	if n := attack.held.Load(); n < slowConnections/2 {
		t.Errorf("only %d requests were held", n)
	}
	if connections < heldConnections {
		t.Errorf("the server had only %d connections at once", connections)
	}
	t.Logf("%d MiB at most; %d connections at once; %d requests were held, %d refused; the other key's slowest took %v", peak>>20, connections, attack.held.Load(), attack.refused.Load(), slowest)
	if peak >= memoryBound {
		t.Errorf("the server took %d MiB", peak>>20)
	}
}

// served is a `vole serve` in a process of its own.
type served struct {
	addr, root string
	pid        int
	client     *http.Client
}

func startServe(t *testing.T, args ...string) *served {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeSelfSigned(t, cert, key)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	first := filepath.Join(dir, "key")
	cmd := exec.Command(self)
	cmd.Args = append([]string{"vole", "serve", "--dir", filepath.Join(dir, "d"), "--listen", addr, "--tls-cert", cert, "--tls-key", key, "--first-key-file", first}, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "VOLE_CONFIG="+filepath.Join(dir, "config.json"), "GOGC=100")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the server's log:\n%s", log.String())
		}
	})
	s := &served{addr: addr, pid: cmd.Process.Pid, client: &http.Client{Timeout: 30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} // its own certificate
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		res, err := s.client.Get("https://" + addr + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("the server does not start: %v\n%s", err, log.String())
		}
	}
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	s.root = strings.TrimSpace(string(b))
	return s
}

// writeSelfSigned writes a certificate and its key.
func writeSelfSigned(t *testing.T, certFile, keyFile string) {
	t.Helper()
	cert, err := newSelfSigned(certFile)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// must makes a request that has to succeed.
func (s *served) must(t *testing.T, key, method, path, body string) []byte {
	t.Helper()
	req, err := http.NewRequest(method, "https://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %.200s %v", method, path, res.StatusCode, b, err)
	}
	return b
}

func (s *served) newOrg(t *testing.T, name string) string {
	t.Helper()
	var k struct{ Secret string }
	if err := json.Unmarshal(s.must(t, s.root, "POST", "/vole/v1/orgs", `{"name":"`+name+`"}`), &k); err != nil {
		t.Fatal(err)
	}
	return k.Secret
}

var peakLine = regexp.MustCompile(`VmHWM:\s*(\d+) kB`)

// peak is the most memory that the server had.
func (s *served) peak(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("there is no /proc here")
	}
	if err != nil {
		t.Fatal(err)
	}
	m := peakLine.FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmHWM in %s", b)
	}
	_, _ = fmt.Sscan(string(m[1]), &n)
	return n << 10
}

// sockets counts the sockets that the server has open, the one it listens on included.
func (s *served) sockets(t *testing.T) (n int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.pid)
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("there is no /proc here")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if target, err := os.Readlink(filepath.Join(dir, file.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// slowKind is a request that a client makes slowly: what it sends at once, and then byte
// by byte; and, if read is set, it does not read the answer but a little.
type slowKind struct {
	name, method, path string
	body               []byte
	length             int64 // of the body
}

// slowKinds are made when they are needed: this binary is also the vole of all scripts, which
// would make them each time it starts.
var slowKinds = sync.OnceValue(func() []slowKind {
	return []slowKind{
		{name: "put", method: "PUT", path: "content?path=f%d", body: bytes.Repeat([]byte("x"), slowBody), length: 64 << 20},
		{name: "stat", method: "POST", path: "stat", body: []byte(`{"paths":["` + strings.Repeat("a", slowBody)), length: 8 << 20},
		{name: "tar", method: "PUT", path: "archive?path=d%d", body: tarOf(slowBody), length: 64 << 20},
		{name: "get", method: "GET", path: "content?path=big"},
		{name: "list", method: "GET", path: "entries?path=/"},
		{name: "events", method: "GET", path: "../../events"},
	}
})

// tarOf is the beginning of an archive with one large file.
func tarOf(n int) []byte {
	head := make([]byte, 512)
	copy(head, "file")
	copy(head[100:], "0000644\x000000000\x000000000\x00"+fmt.Sprintf("%011o\x00", 60<<20)+"00000000000\x00        0")
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(head, make([]byte, n)...)
}

// slowClients hold requests until end is closed.
type slowClients struct {
	addr          string
	end           chan struct{}
	wg            sync.WaitGroup
	held, refused atomic.Int64
	n             atomic.Int64
}

func (c *slowClients) url(kind slowKind) string {
	if strings.Contains(kind.path, "%d") {
		return "/vole/v1/volumes/v/" + fmt.Sprintf(kind.path, c.n.Add(1))
	}
	if kind.name == "events" {
		return "/vole/v1/events"
	}
	return "/vole/v1/volumes/v/" + kind.path
}

// ended reports whether the test is over.
func (c *slowClients) ended() bool {
	select {
	case <-c.end:
		return true
	default:
		return false
	}
}

func (c *slowClients) pause() {
	select {
	case <-c.end:
	case <-time.After(slowPause):
	}
}

// http1 makes requests of a kind on one connection after the other.
func (c *slowClients) http1(key string, kind slowKind) {
	for !c.ended() {
		conn, err := tls.Dial("tcp", c.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n", kind.method, c.url(kind), key)
		if kind.length > 0 {
			head += fmt.Sprintf("Content-Length: %d\r\n", kind.length)
		}
		_, _ = io.WriteString(conn, head+"\r\n")
		_, _ = conn.Write(kind.body)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			c.readLittle(bufio.NewReaderSize(conn, 512))
		}()
		c.dribble(conn, gone, kind)
		conn.Close()
		<-gone
		c.pause()
	}
}

// readLittle reads a status, and a byte of the answer now and then.
func (c *slowClients) readLittle(r *bufio.Reader) {
	line, err := r.ReadString('\n')
	if err == nil {
		if !strings.HasPrefix(line, "HTTP/1.1 2") {
			c.refused.Add(1)
			return
		}
		c.held.Add(1)
	}
	for err == nil && !c.ended() {
		_, err = r.ReadByte()
		time.Sleep(50 * time.Millisecond)
	}
}

// dribble sends a byte now and then until the connection or the test ends.
func (c *slowClients) dribble(w io.Writer, gone chan struct{}, kind slowKind) {
	if kind.length > 0 {
		c.held.Add(1)
	}
	for {
		select {
		case <-c.end:
			return
		case <-gone:
			return
		case <-time.After(500 * time.Millisecond):
		}
		if kind.length > 0 {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
		}
	}
}

// http2 makes requests of all kinds on one connection, at once.
func (c *slowClients) http2(key string, first, streams int) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxConnsPerHost: 1}
	defer tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range streams {
		kind := slowKinds()[(first+i)%len(slowKinds())]
		wg.Go(func() {
			for !c.ended() {
				c.stream(tr, key, kind)
			}
		})
	}
	wg.Wait()
}

func (c *slowClients) stream(tr *http.Transport, key string, kind slowKind) {
	var body io.Reader
	ended := make(chan struct{})
	defer close(ended)
	if kind.length > 0 {
		r, w := io.Pipe()
		body = r
		go func() {
			_, _ = w.Write(kind.body)
			c.dribble(w, ended, kind)
			w.Close()
		}()
	}
	req, _ := http.NewRequest(kind.method, "https://"+c.addr+c.url(kind), body)
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := tr.RoundTrip(req)
	if err != nil {
		c.pause()
		return
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		c.refused.Add(1)
		c.pause()
		return
	}
	c.held.Add(1)
	one := make([]byte, 1)
	for !c.ended() {
		if _, err := res.Body.Read(one); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
