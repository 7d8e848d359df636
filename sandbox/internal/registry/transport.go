package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/sandbox/internal/image"
)

// maxAnswer bounds all answers but blobs, whose sizes manifests state.
const maxAnswer = image.MaxJSON

// stallTimeout is how long a registry may send nothing.
const stallTimeout = time.Minute

// boundedTransport sends requests to registries, which are not trusted: answers that are
// read into memory are bounded, what sends nothing for long is given up, and nothing goes
// unencrypted over a network.
type boundedTransport struct {
	inner http.RoundTripper
	stall time.Duration
}

func newTransport() *boundedTransport {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: stallTimeout,
		DisableCompression:    true, // digests are of what is sent
	}
	return &boundedTransport{t, stallTimeout}
}

func (t *boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !isLoopback(r.URL.Hostname()) {
		return nil, driver.Errorf(vole.ErrPermission, "unencrypted HTTP to %s is refused, as only registries on this host may use it", r.URL.Host)
	}
	resp, err := t.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = newStallReader(resp.Body, t.stall)
	switch {
	case strings.Contains(r.URL.Path, "/blobs/") || resp.StatusCode/100 == 3:
	case strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet && resp.StatusCode == http.StatusOK:
		if err := readManifest(resp); err != nil {
			return nil, err
		}
	default:
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, nil
}

// readManifest reads the body of an answer, which must be small before anything parses it.
func readManifest(resp *http.Response) error {
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

// isLoopback reports whether a host is this one, by its name alone: what a name server says
// of other names does not count.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// stallReader closes a body of which nothing comes for long.
type stallReader struct {
	io.ReadCloser
	after   time.Duration
	timer   *time.Timer
	stalled atomic.Bool
}

func newStallReader(body io.ReadCloser, after time.Duration) *stallReader {
	s := &stallReader{ReadCloser: body, after: after}
	s.timer = time.AfterFunc(after, func() {
		s.stalled.Store(true)
		body.Close()
	})
	s.timer.Stop()
	return s
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.timer.Reset(s.after)
	n, err := s.ReadCloser.Read(p)
	s.timer.Stop()
	if err != nil && s.stalled.Load() {
		err = driver.Errorf(context.DeadlineExceeded, "the registry has sent nothing for %v", s.after)
	}
	return n, err
}

func (s *stallReader) Close() error {
	s.timer.Stop()
	return s.ReadCloser.Close()
}

// withoutSecrets takes out of an error what addresses have in them: passwords, and
// signatures of those to which a registry redirects.
func withoutSecrets(err error) error {
	e := (*url.Error)(nil)
	if !errors.As(err, &e) {
		return err
	}
	at := "the registry"
	if u, perr := url.Parse(e.URL); perr == nil {
		at = u.Scheme + "://" + u.Host + u.Path
	}
	return fmt.Errorf("%s %s: %w", e.Op, at, withoutSecrets(e.Err))
}
