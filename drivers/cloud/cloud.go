// Package cloud is the backend whose volumes are behind a Vole server: it implements
// driver.Backend by the server's HTTP API (package server).
//
// # Model
//
// A [Backend] is one organisation, as one API key sees it. It needs nothing on this host, and
// any number of them may be open. Attachments, drafts, open file systems and open files live
// only as long as their holder: they belong to a session at the server. The Backend begins one
// when it needs it, and renews its lease until it is closed. If the process dies or is cut off,
// the session ends when the lease expires.
//
// # Failures
//
// Requests are retried for up to [Options].Patience if they certainly had no effect or are
// idempotent (retry.go). A change carries an idempotency key: a server that has already made it
// repeats its response. If another server responds, and the outcome cannot be known, the error
// says so.
//
// When a server dies, sessions, file systems and files are reopened on the next one: a file by
// its path, if it is still the same inode (remote.go). What was written by handle and not synced
// may be lost then, and the next Sync or Close reports it (dirty.go).
//
// The server is not trusted: responses are bounded and checked (internal/api), and a silent one
// is given up (watchdog.go).
package cloud

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/openset"
	"github.com/volehq/vole/internal/profile"
)

// Options says which server to use, and how.
type Options struct {
	URL string // of the server, http:// or https://
	Key string // secret: an API key, or a token of the server's identity provider
	// CAFile has certificates (PEM) to trust besides the system's. Default: none.
	CAFile string
	// InsecureHTTP allows to send the key unencrypted to a server that is not on this host.
	// Without it such a URL is refused, including one that a server advertises.
	InsecureHTTP bool
	// ReadOnly refuses every change.
	ReadOnly bool
	// Patience is how long a request is retried while the server is unreachable. Default: 15 s.
	// Open gives up after 3 s, and after Patience on a server that accepts the connection and
	// stays silent.
	Patience time.Duration
	// UserAgent names the program to the server. Default: "vole".
	UserAgent string
}

// Backend is an organisation behind a server.
type Backend struct {
	opts       Options
	baseURL    *url.URL
	httpClient *http.Client
	serverInfo api.Server
	// maxSilence is how long a server that has a request may stay silent.
	maxSilence   time.Duration
	closeTimeout time.Duration

	lifetime    context.Context // ends when the Backend is closed
	endLifetime context.CancelFunc
	goroutines  sync.WaitGroup // that Close waits for

	closeTimedOut atomic.Bool // a closing request got no response in time, so further ones wait for less

	open openset.Set // FSes and handles

	mu        sync.Mutex // guards what follows
	closed    bool
	session   *session   // nil: none was needed yet
	sessionMu sync.Mutex // held while a session is begun; taken before mu

	recentInstances map[string][]string // by address: the last two processes that responded there
}

// Open connects to the server and reads what it and the key can do. Errors match ErrUnavailable
// if the server is unreachable, ErrUnsupported if it is not a Vole server, and ErrPermission if
// it refuses the key.
func Open(ctx context.Context, opts Options) (*Backend, error) {
	base, err := profile.ServerURL(opts.URL, opts.InsecureHTTP, nil)
	if err != nil {
		return nil, err
	}
	if opts.Key == "" || strings.ContainsFunc(opts.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, driver.Errorf(driver.ErrInvalid, "the API key is empty, or has characters that no key has")
	}
	opts.Patience = cmp.Or(opts.Patience, 15*time.Second)
	opts.UserAgent = cmp.Or(opts.UserAgent, "vole")
	transport, err := newTransport(opts.CAFile)
	if err != nil {
		return nil, err
	}
	b := &Backend{opts: opts, baseURL: base, maxSilence: defaultMaxSilence, closeTimeout: defaultCloseTimeout}
	b.httpClient = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	b.lifetime, b.endLifetime = context.WithCancel(context.Background())
	if err := b.probeServer(ctx); err != nil {
		b.endLifetime()
		b.httpClient.CloseIdleConnections()
		return nil, err
	}
	return b, nil
}

// newTransport returns a transport that no other Backend shares, so that Close leaves no
// connection open.
func newTransport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: dialServer,
		// Bodies are contents of files, which rarely compress.
		DisableCompression:    true,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		// A hostile server could otherwise make the client hold megabytes of headers.
		MaxResponseHeaderBytes: 256 << 10,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, MaxReadFrameSize: 1 << 20, MaxReceiveBufferPerStream: 8 << 20, MaxReceiveBufferPerConnection: 32 << 20},
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, driver.Errorf(driver.ErrInvalid, "%s has no certificate in PEM form", caFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// dialServer connects to a server. It accepts only loopback addresses for localhost, whatever a
// name server says, since keys are sent there unencrypted.
func dialServer(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	if host, _, err := net.SplitHostPort(address); err == nil && strings.EqualFold(host, "localhost") {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(address); err != nil || !at.Addr().Unmap().IsLoopback() {
				return fmt.Errorf("localhost has the address %s, which is not on this host", address)
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, address)
}

// openPatience is how long Open retries an unreachable server: nothing is lost yet, and the URL
// may be mistyped.
const openPatience = 3 * time.Second

// probeServer reads the description of the server and checks that this client can use it.
func (b *Backend) probeServer(ctx context.Context) error {
	var s api.Server
	soon, cancel := context.WithTimeout(ctx, b.opts.Patience)
	defer cancel()
	err := b.sendJSON(soon, call{method: "GET", path: "/server", repeatable: true, patience: min(b.opts.Patience, openPatience)}, nil, &s)
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		err = &unreachableError{b.baseURL.Host, fmt.Errorf("nothing came within %v", b.opts.Patience)}
	}
	var refused *responseError
	switch {
	case errors.As(err, &refused) && refused.code == "":
		return driver.Errorf(driver.ErrUnsupported, "%s answers, but not as a Vole server (HTTP %d); check the URL", b.baseURL, refused.status)
	case err != nil:
		return err
	case s.API < 1 || s.Caps.Backend == "":
		return driver.Errorf(driver.ErrUnsupported, "%s answers, but not as a Vole server; check the URL", b.baseURL)
	case s.API < api.Version:
		return driver.Errorf(driver.ErrUnsupported, "the server at %s speaks version %d of the API and this program needs %d; update the server", b.baseURL, s.API, api.Version)
	}
	b.serverInfo = s
	return nil
}

// Server describes the server and the key as of Open.
func (b *Backend) Server() api.Server { return b.serverInfo }

// Caps implements driver.Backend.
func (b *Backend) Caps() driver.Caps {
	c := b.serverInfo.Caps.Driver()
	c.ReadOnly = b.opts.ReadOnly
	return c
}

// checkOpen returns an error if ctx has ended or the Backend is closed.
func (b *Backend) checkOpen(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.isClosed() {
		return driver.ErrClosed
	}
	return nil
}

// preferErrClosed returns err, or ErrClosed if it came about because the Backend was closed under the
// request.
func (b *Backend) preferErrClosed(ctx context.Context, err error) error {
	if err != nil && b.checkOpen(ctx) == driver.ErrClosed {
		return driver.ErrClosed
	}
	return err
}

func (b *Backend) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// checkWritable is checkOpen for what changes volumes.
func (b *Backend) checkWritable(ctx context.Context) error {
	if err := b.checkOpen(ctx); err != nil {
		return err
	}
	if b.opts.ReadOnly {
		return driver.Errorf(driver.ErrReadOnly, "the volumes are open for reading only")
	}
	return nil
}

// defaultCloseTimeout bounds a closing request to a server that does not respond. After one has
// timed out, the others, one for each file, file system and session, wait for a 30th of it.
const defaultCloseTimeout = 30 * time.Second

// sendClosing makes a request that closes something, regardless of the contexts of callers.
func (b *Backend) sendClosing(c call) error {
	wait := b.closeTimeout
	if b.closeTimedOut.Load() {
		wait /= 30
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := b.sendDiscard(ctx, c)
	if ctx.Err() != nil {
		b.closeTimedOut.Store(true)
	}
	return err
}

// Close implements driver.Backend. It closes the handles, which reports writes that were lost,
// stops the renewal and ends the session, which closes the rest.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	s := b.session
	b.mu.Unlock()
	// Operations under way are not waited for: each has a context of its own.
	noWait, cancel := context.WithCancel(context.Background())
	cancel()
	errs := []error{b.open.Close(noWait)}
	b.endLifetime()
	b.goroutines.Wait()
	if s != nil {
		errs = append(errs, b.sendClosing(call{method: "DELETE", path: "/sessions/" + s.id, server: s.server, repeatable: true}))
	}
	b.httpClient.CloseIdleConnections()
	return errors.Join(errs...)
}
