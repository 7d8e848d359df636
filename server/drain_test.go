package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
)

// A server that is to end is not ready, begins nothing new and finishes what is under way.
func TestDrain(t *testing.T) {
	endDelay := make(chan struct{})
	r := startServer(t, Options{DrainDelay: time.Hour, endDrainDelay: endDelay}, nil, answerTimeout)
	r.createVolumeWithFile(t, "v", 1)
	// An upload and a stream of events are under way.
	pr, pw := io.Pipe()
	status := make(chan int, 1)
	go func() {
		resp, _ := r.request(t, http.DefaultClient, r.key, "PUT", r.url("/vole/v1/volumes/v/content?path=g"), pr)
		status <- resp.StatusCode
	}()
	if _, err := pw.Write([]byte("first ")); err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("GET", r.url("/vole/v1/events"), nil)
	req.Header.Set("Authorization", "Bearer "+r.key)
	events, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()

	r.stop()
	for ready := 200; ready != http.StatusServiceUnavailable; time.Sleep(10 * time.Millisecond) {
		resp, _ := r.request(t, http.DefaultClient, r.key, "GET", r.url("/readyz"), nil)
		ready = resp.StatusCode
	}
	if _, err := io.Copy(io.Discard, events.Body); err != nil {
		t.Errorf("the stream of events: %v", err)
	}
	// In the delay requests are answered, but nothing begins that lasts.
	if resp, b := r.request(t, http.DefaultClient, r.key, "GET", r.url("/vole/v1/volumes/v"), nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a request in the delay: %s", b)
	}
	if resp, b := r.request(t, http.DefaultClient, r.key, "POST", r.url("/vole/v1/sessions"), nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a session in the delay: %d %s", resp.StatusCode, b)
	}
	if resp, _ := r.request(t, http.DefaultClient, r.key, "GET", r.url("/vole/v1/events"), nil); resp.StatusCode != http.StatusOK {
		t.Errorf("events in the delay: %d", resp.StatusCode)
	}
	close(endDelay)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", r.addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			c.Close()
		}
		if time.Now().After(end) {
			t.Fatal("new connections are still accepted")
		}
	}
	select {
	case err := <-r.done:
		t.Fatal("ended with an upload under way:", err)
	default:
	}
	if _, err := pw.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	if got := <-status; got != http.StatusOK {
		t.Errorf("the upload: %d", got)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	store, err := r.core.Org(t.Context(), DefaultOrg)
	if err != nil {
		t.Fatal(err)
	}
	v, err := store.Get(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := f.ReadFile(t.Context(), "g"); err != nil || string(b) != "first second" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// What does not end in time is broken off, and Close waits for nothing of it.
func TestDrainIsBounded(t *testing.T) {
	r := startServer(t, Options{}, nil, 200*time.Millisecond)
	r.createVolumeWithFile(t, "v", 1)
	pr, pw := io.Pipe()
	defer pw.Close()
	req, _ := http.NewRequest("PUT", r.url("/vole/v1/volumes/v/content?path=g"), pr)
	req.Header.Set("Authorization", "Bearer "+r.key)
	failed := make(chan error, 1)
	go func() {
		_, err := http.DefaultClient.Do(req)
		failed <- err
	}()
	if _, err := pw.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	pw.Close()
	if <-failed == nil {
		t.Error("the upload succeeded")
	}
}

// writePair writes a certificate for a name, and its key.
func writePair(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	crt, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"crt": {Type: "CERTIFICATE", Bytes: crt}, "key": {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A new certificate is shown to new connections; those that are there go on. A broken
// pair changes nothing.
func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	writePair(t, dir, "old.example")
	var logged logBuffer
	cert, err := LoadCertificate(crt, key, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	hup := make(chan os.Signal)
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() { cert.Watch(ctx, 20*time.Millisecond, hup); close(watched) }()
	t.Cleanup(func() { stop(); <-watched })
	r := startServer(t, Options{TLS: cert.Config()}, nil, time.Second)
	shown := func() string {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	becomes := func(name string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); shown() != name; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s is shown, not %s", shown(), name)
			}
		}
	}
	becomes("old.example")
	old, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()

	for what, content := range map[string]string{"no PEM": "nonsense", "another key": ""} {
		if content == "" {
			writePair(t, t.TempDir(), "x")
			other := t.TempDir()
			writePair(t, other, "x")
			b, _ := os.ReadFile(filepath.Join(other, "key"))
			content = string(b)
		}
		if err := os.WriteFile(key, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		hup <- syscall.SIGHUP
		hup <- syscall.SIGHUP // the first one has been heeded
		if got := shown(); got != "old.example" {
			t.Errorf("%s: %s is shown", what, got)
		}
	}
	if text := logged.String(); !strings.Contains(text, "level=ERROR") || strings.Contains(text, "nonsense") {
		t.Errorf("the log: %s", text)
	}
	writePair(t, dir, "new.example")
	becomes("new.example")
	if _, err := io.WriteString(old, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(old); err != nil || !strings.Contains(string(b), "200 OK") {
		t.Errorf("the connection that was there: %q, %v", b, err)
	}
	if err := os.Remove(crt); err != nil {
		t.Fatal(err)
	}
	hup <- syscall.SIGHUP
	becomes("new.example")
	if _, err := LoadCertificate(key, key, slog.New(slog.DiscardHandler)); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a pair that is none: %v", err)
	}
}
