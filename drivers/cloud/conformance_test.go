package cloud_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/conformance"
	"github.com/volehq/vole/drivers/bucket"
	"github.com/volehq/vole/drivers/cloud"
	"github.com/volehq/vole/internal/testing/servers"
	"github.com/volehq/vole/server"
)

func TestMain(m *testing.M) {
	runAsServer()
	os.Exit(servers.Main(m))
}

// engines are what the servers serve in these tests.
var engines = []struct {
	name   string
	groups []string // nil: all
	fresh  func(t *testing.T) server.Options
}{
	{"Local", nil, func(t *testing.T) server.Options {
		return server.Options{Home: filepath.Join(t.TempDir(), "home")}
	}},
	// HTTP/2, as every https:// URL has it: what streams, waits, breaks off or comes at once,
	// and the devices that this server allows.
	{"LocalTLS", []string{
		"Caps", "Attach", "Lease", "Read", "Write", "Open", "File", "Unlinked", "Meta", "Race", "Concurrent", "Context", "Closed",
		"Quota", "Random",
	}, func(t *testing.T) server.Options {
		cert, _ := testCertificate(t)
		return server.Options{Home: filepath.Join(t.TempDir(), "home"), AllowDevices: true, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}
	}},
	{"SQLite", nil, func(t *testing.T) server.Options {
		return server.Options{Bucket: &bucket.Options{Dir: filepath.Join(t.TempDir(), "namespace")}}
	}},
	{"PostgreSQL", nil, func(t *testing.T) server.Options {
		s3 := servers.S3(t)
		return server.Options{Bucket: &bucket.Options{Database: servers.PG(t), Conns: 8, S3: &bucket.S3{
			Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, PathStyle: true,
		}}}
	}},
}

// testCertificate returns the certificate of the servers of these tests, and its file.
func testCertificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	certOnce.Do(func() {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		theCert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		theCertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, theCertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return theCert, file
}

var (
	certOnce   sync.Once
	theCert    tls.Certificate
	theCertPEM []byte
)

// testServer is a server in this process.
type testServer struct {
	url, key, ca string
}

// startServer starts a server that ends after the test.
func startServer(t *testing.T, opts server.Options) testServer {
	t.Helper()
	// Not the test's context: stores are checked while the test is being cleaned up.
	s, err := server.New(context.Background(), opts)
	if err != nil {
		t.Fatalf("server: %v", err)
	}
	key, err := s.FirstKey(context.Background())
	if err != nil {
		t.Fatalf("first key: %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln, 5*time.Second) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close the server: %v", err)
		}
	})
	r := testServer{url: "http://" + ln.Addr().String(), key: key}
	if opts.TLS != nil {
		_, r.ca = testCertificate(t)
		r.url = "https://" + ln.Addr().String()
	}
	return r
}

func (r testServer) open(t *testing.T, readOnly bool) *vole.Store {
	t.Helper()
	b, err := cloud.Open(context.Background(), cloud.Options{URL: r.url, Key: r.key, CAFile: r.ca, ReadOnly: readOnly})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return vole.New(b)
}

// storeServers remembers the server of each store that the suite opened.
type storeServers struct {
	mu sync.Mutex // guards of
	of map[*vole.Store]testServer
}

func (c *storeServers) open(t *testing.T, r testServer, readOnly bool) *vole.Store {
	t.Helper()
	s := r.open(t, readOnly)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[s] = r
	return s
}

func (c *storeServers) server(s *vole.Store) testServer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[s]
}

// serverPerTest returns the server of each test of the suite. Of a namespace, which costs more to
// open than most tests take, it is one for all, and an organisation each: a home has only one.
func serverPerTest(t *testing.T, fresh func(t *testing.T) server.Options) func(t *testing.T) testServer {
	opts := fresh(t)
	if opts.Bucket == nil {
		return func(t *testing.T) testServer { return startServer(t, fresh(t)) }
	}
	shared := startServer(t, opts)
	var orgs atomic.Int64
	return func(t *testing.T) testServer {
		t.Helper()
		b, err := cloud.Open(t.Context(), cloud.Options{URL: shared.url, Key: shared.key})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		key, err := b.CreateOrg(t.Context(), fmt.Sprintf("org-%d", orgs.Add(1)))
		if err != nil {
			t.Fatal(err)
		}
		return testServer{url: shared.url, key: key.Secret}
	}
}

func TestConformance(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			c := &storeServers{of: map[*vole.Store]testServer{}}
			server := serverPerTest(t, e.fresh)
			conformance.Run(t, conformance.Harness{
				Groups:   e.groups,
				Open:     func(t *testing.T) *vole.Store { return c.open(t, server(t), false) },
				Another:  func(t *testing.T, s *vole.Store) *vole.Store { return c.open(t, c.server(s), false) },
				ReadOnly: func(t *testing.T, s *vole.Store) *vole.Store { return c.open(t, c.server(s), true) },
			})
		})
	}
}
