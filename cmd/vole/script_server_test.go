package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/server"
)

// cmd serves a namespace in a directory, or a home, until the script ends:
//
//	server DIR [home|tls]    URL and the first key go to $URL and the file DIR.key,
//	                         the certificate to DIR.pem
//	server stop DIR
//
// Started again, a server has the same address.
func (s *scriptServers) cmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: server DIR [home|tls], or server stop DIR")
	}
	if args[0] == "stop" {
		s.stop(ts, ts.MkAbs(args[1]))
		return
	}
	dir := ts.MkAbs(args[0])
	ctx, cancel := context.WithCancel(context.Background())
	opts := server.Options{Bucket: &bucket.Options{Dir: dir, Database: filepath.Join(dir, "namespace.db"), Maintain: -1}, Version: "test"}
	scheme := "http"
	switch {
	case len(args) == 1:
	case args[1] == "home":
		opts.Home, opts.Bucket = dir, nil
	case args[1] == "tls":
		scheme, opts.TLS = "https", &tls.Config{Certificates: []tls.Certificate{selfSigned(ts, dir+".pem")}}
	}
	srv, err := server.New(ctx, opts)
	ts.Check(err)
	key, err := srv.FirstKey(ctx)
	ts.Check(err)
	if key != "" {
		ts.Check(os.WriteFile(dir+".key", []byte(key+"\n"), 0o600))
	}
	address := s.address[dir]
	if address == "" {
		address = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", address)
	ts.Check(err)
	s.address[dir] = ln.Addr().String()
	ts.Setenv("URL", scheme+"://"+ln.Addr().String())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, ln, 5*time.Second) }()
	s.running[dir] = func() {
		cancel()
		ts.Check(<-done)
		ts.Check(srv.Close())
	}
	ts.Defer(func() { s.stop(ts, dir) })
}

// selfSigned makes a certificate for 127.0.0.1 that nobody trusts, and writes it to a file.
func selfSigned(ts *testscript.TestScript, file string) tls.Certificate {
	cert, err := newSelfSigned(file)
	ts.Check(err)
	return cert
}

func newSelfSigned(file string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// scriptServers are the servers of one script, by directory.
type scriptServers struct {
	running map[string]func()
	address map[string]string
}

func (s *scriptServers) stop(_ *testscript.TestScript, dir string) {
	if stop := s.running[dir]; stop != nil {
		delete(s.running, dir)
		stop()
	}
}

// serversKey is the key of a script's servers among its values.
type serversKey struct{}

func cmdServer(ts *testscript.TestScript, neg bool, args []string) {
	ts.Value(serversKey{}).(*scriptServers).cmd(ts, neg, args)
}

func newScriptServers() *scriptServers {
	return &scriptServers{running: map[string]func(){}, address: map[string]string{}}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 5, time.UTC)
	for s, want := range map[string]string{
		"30d": "2026-03-02T12:00:00Z", "8w": "2026-03-28T12:00:00Z", "12h": "2026-02-01T00:00:00Z",
		"2026-02-01": "2026-02-01T00:00:00Z", "2026-02-01T01:00:00+02:00": "2026-01-31T23:00:00Z",
	} {
		if got, err := parseExpiry(s, now); err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%s: %v, %v; want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"0d", "-1d", "d", "1dd", "1x", "x", "2026-01-31", "999999999w", "1.5d", "0s", "-5h"} {
		if got, err := parseExpiry(s, now); err == nil {
			t.Errorf("%s: %v, want an error", s, got)
		}
	}
}
