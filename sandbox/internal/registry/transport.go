package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/sandbox/internal/image"
)

// maxAnswer bounds all answers but blobs, whose sizes manifests state.
const maxAnswer = image.MaxJSON

// maxHeader bounds the headers of an answer.
const maxHeader = 64 << 10

// A registry may send nothing, or next to nothing, for so long: others wait for the lock of
// pulls.
const (
	stallTimeout  = time.Minute
	leastProgress = 16 << 10 // bytes
)

// boundedTransport sends requests to registries, which are not trusted: answers that are
// read into memory are bounded, what sends nothing for long is given up, and nothing goes
// unencrypted over a network.
type boundedTransport struct {
	inner http.RoundTripper
	stall time.Duration
	local bool // the registry is one on this host
}

// newTransport returns a transport to the registry of a host.
func newTransport(host string) *boundedTransport {
	t := &http.Transport{
		Proxy:                  proxyFromEnvironment,
		DialContext:            dialRegistry,
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  stallTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // digests are of the bytes sent
	}
	u := url.URL{Host: host}
	return &boundedTransport{t, stallTimeout, isLoopback(u.Hostname())}
}

// proxyFromEnvironment is the proxy that the environment names, which knows nothing of this host.
func proxyFromEnvironment(r *http.Request) (*url.URL, error) {
	if isLoopback(r.URL.Hostname()) {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// dialRegistry connects to a host. A name of this host that a name server has elsewhere is refused.
func dialRegistry(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if host, _, err := net.SplitHostPort(addr); err == nil && isLoopback(host) {
		d.Control = refuseNonLoopback
	}
	return d.DialContext(ctx, network, addr)
}

// refuseNonLoopback is called with the address that a name of this host was resolved to.
func refuseNonLoopback(_, addr string, _ syscall.RawConn) error {
	if at, err := netip.ParseAddrPort(addr); err != nil || !at.Addr().Unmap().IsLoopback() {
		return driver.Errorf(vole.ErrPermission, "%s is not this host", addr)
	}
	return nil
}

// maxRedirects is how many redirects are followed one after another. The client that fetches
// manifests and blobs has no bound of its own, and keeps all that it was sent to.
const maxRedirects = 10

// originalRequest is the request of which redirects made r.
func originalRequest(r *http.Request) (*http.Request, error) {
	for n := 0; r.Response != nil && r.Response.Request != nil; n++ {
		if n == maxRedirects {
			return nil, driver.Errorf(vole.ErrCorrupt, "the registry redirects more than %d times", maxRedirects)
		}
		r = r.Response.Request
	}
	return r, nil
}

// RoundTrip implements http.RoundTripper. It refuses HTTP without TLS except on this host, counts
// redirects, bounds every answer but blobs, and ends bodies that stall.
func (t *boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !(t.local && isLoopback(r.URL.Hostname())) {
		return nil, driver.Errorf(vole.ErrPermission, "unencrypted HTTP to %.255s is refused, as only registries on this host may use it, among themselves", r.URL.Host)
	}
	first, err := originalRequest(r)
	if err != nil {
		return nil, err
	}
	resp, err := t.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = newStallReader(resp.Body, t.stall)
	// Registries redirect to stores, whose paths do not tell blobs from manifests.
	switch what := path.Base(path.Dir(first.URL.Path)); {
	case first.Method != http.MethodGet || resp.StatusCode != http.StatusOK:
		resp.Body = boundAnswer(resp.Body)
	case what == "blobs":
	case what == "manifests":
		if err := bufferManifest(resp); err != nil {
			return nil, err
		}
	default:
		resp.Body = boundAnswer(resp.Body)
	}
	return resp, nil
}

// boundAnswer cuts a body off after the most bytes that an answer may have.
func boundAnswer(body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, maxAnswer), body}
}

// bufferManifest reads the body of an answer, which must be small before anything parses it.
func bufferManifest(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxJSON+1))
	resp.Body.Close()
	if err == nil {
		err = image.CheckJSON(b)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	if err != nil {
		return fmt.Errorf("the manifest: %w", err)
	}
	return nil
}

// isLoopback reports whether a host is this one, by its name alone: addresses that a name
// server has for other names do not count.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// stallReader closes a body of which less than leastProgress came while it was waited for that
// long in all.
type stallReader struct {
	io.ReadCloser
	after   time.Duration
	waited  time.Duration // for what came of the next leastProgress bytes
	came    int
	timer   *time.Timer
	stalled atomic.Bool
}

// newStallReader closes body when it has waited for `after` for too few bytes.
func newStallReader(body io.ReadCloser, after time.Duration) *stallReader {
	s := &stallReader{ReadCloser: body, after: after}
	s.timer = time.AfterFunc(after, func() {
		s.stalled.Store(true)
		body.Close()
	})
	s.timer.Stop()
	return s
}

// Read runs the timer only while it waits for the registry, not while the caller is busy.
func (s *stallReader) Read(p []byte) (int, error) {
	s.timer.Reset(max(s.after-s.waited, 0))
	begun := time.Now()
	n, err := s.ReadCloser.Read(p)
	s.timer.Stop()
	s.waited += time.Since(begun)
	if s.came += n; s.came >= leastProgress {
		s.waited, s.came = 0, 0
	}
	if err != nil && s.stalled.Load() {
		err = driver.Errorf(context.DeadlineExceeded, "the registry has sent next to nothing for %v", s.after)
	}
	return n, err
}

// Close stops the timer, so that it does not close the body again.
func (s *stallReader) Close() error {
	s.timer.Stop()
	return s.ReadCloser.Close()
}

// withoutSecrets takes out of an error what addresses have in them: passwords, and
// signatures of those to which a registry redirects; and the answer that should have had a
// token, which may have one of another kind.
func withoutSecrets(err error) error {
	e := (*url.Error)(nil)
	if !errors.As(err, &e) {
		if text, _, ok := strings.Cut(err.Error(), "no token in bearer response:"); ok {
			return driver.Errorf(vole.ErrUnavailable, "%sno token in the answer of the registry's token server", text)
		}
		return err
	}
	at := "the registry"
	if u, perr := url.Parse(e.URL); perr == nil {
		at = u.Scheme + "://" + u.Host + u.Path
	}
	return fmt.Errorf("%s %.255s: %w", e.Op, at, withoutSecrets(e.Err))
}

// maxMessage bounds the bytes of an error's text, which may contain a registry's answer.
const maxMessage = 1000

// shortError is an error whose text is cut.
type shortError struct{ error }

func (e shortError) Error() string { return fmt.Sprintf("%.*s...", maxMessage, e.error.Error()) }
func (e shortError) Unwrap() error { return e.error }

// shortenError cuts the text of a long error, which still matches what it matched.
func shortenError(err error) error {
	if len(err.Error()) > maxMessage {
		return shortError{err}
	}
	return err
}
