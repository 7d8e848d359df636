package cloud

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// call is one request of the API.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	server       *url.URL // the server; nil: the one of the options

	body   []byte    // what is sent, if it is in memory
	stream io.Reader // what is sent, if it is not: the request is made once
	size   int64     // of stream; -1: unknown

	// repeatable: to do it twice is as good as once, so it is made again whatever happened.
	repeatable bool
	// keyed: it changes something and carries an idempotency key, so that a server that
	// has it already does not do it twice.
	keyed bool
	// expectContinue: the server is asked before the body is sent.
	expectContinue bool
	// longRunning: the server may work on it for long before it answers.
	longRunning bool
	// unbounded: the answer goes on as long as the client listens.
	unbounded bool
	// patience with a server that is away; 0: that of the options.
	patience time.Duration
}

// sendDiscard makes a request whose answer has no content.
func (b *Backend) sendDiscard(ctx context.Context, c call) error {
	res, err := b.sendRetrying(ctx, c)
	if err != nil {
		return err
	}
	drainBody(res)
	return nil
}

// sendJSON makes a request with in as its JSON, if it is not nil, and decodes the answer.
func (b *Backend) sendJSON(ctx context.Context, c call, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		c.body = body
		c.header = setHeader(c.header, "Content-Type", "application/json")
	}
	res, err := b.sendRetrying(ctx, c)
	if err != nil {
		return err
	}
	defer drainBody(res)
	if err := api.Decode(res.Body, out); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}

// readBytes makes a request whose answer is bytes: those that p takes.
func (b *Backend) readBytes(ctx context.Context, c call, p []byte) (int, error) {
	for try := newBackoff(b.opts.Patience); ; {
		res, err := b.sendRetrying(ctx, c)
		if err != nil {
			return 0, err
		}
		n, err := 0, checkLengthKnown(res)
		if err == nil {
			n, err = fillBuffer(res.Body, p)
		}
		drainBody(res)
		if err == nil {
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		err = unreachable(b.baseURL, err)
		if err := try.waitBeforeRetry(ctx, err, 0); err != nil {
			return 0, err
		}
	}
}

// checkLengthKnown returns an error for an answer whose end is that of the connection, as
// HTTP/1.0 has it: of what is missing at its end nothing would be seen.
func checkLengthKnown(res *http.Response) error {
	if res.ContentLength >= 0 || res.ProtoMajor > 1 || res.Uncompressed || len(res.TransferEncoding) > 0 {
		return nil
	}
	return driver.Errorf(driver.ErrUnavailable, "something between sends content without its length; a part that is missing would not be noticed")
}

// fillBuffer fills p, or reads to the end of r.
func fillBuffer(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func setHeader(h http.Header, name, value string) http.Header {
	if h == nil {
		h = http.Header{}
	}
	h.Set(name, value)
	return h
}

// drainBody lets the connection be used again.
func drainBody(res *http.Response) {
	if b, ok := res.Body.(*responseBody); ok {
		b.limitDrain()
	}
	_, _ = io.CopyN(io.Discard, res.Body, 256<<10)
	_ = res.Body.Close()
}

// sendRetrying makes a request, again if need be, and returns the answer if it is a good one.
func (b *Backend) sendRetrying(ctx context.Context, c call) (*http.Response, error) {
	key := ""
	if c.keyed {
		key = uuid.NewString()
		c.header = setHeader(c.header, api.HeaderIdempotencyKey, key)
	}
	if c.expectContinue {
		c.header = setHeader(c.header, "Expect", "100-continue")
	}
	maybe := false // whether it may have been done already
	for try := newBackoff(cmp.Or(c.patience, b.opts.Patience)); ; {
		once := &singleUseReader{r: c.stream}
		res, err := b.roundTrip(ctx, c, once)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return b.resolveCanceled(ctx, c, key)
		}
		if errors.As(err, new(*tls.CertificateVerificationError)) || errors.Is(err, http.ErrSchemeMismatch) {
			return nil, err // to wait makes nobody trust it, or speak TLS
		}
		var r *responseError
		wait := time.Duration(0)
		if errors.As(err, &r) {
			if retriedByServer(r.code) || r.status != http.StatusTooManyRequests && r.status != http.StatusServiceUnavailable && r.status != http.StatusBadGateway {
				return nil, err
			}
			wait = r.retryAfter
		}
		// What a stream has given is gone, even if the server did not want it.
		if c.stream != nil && (!once.preventReading() || !hadNoEffect(err)) {
			return nil, err
		}
		if !c.repeatable && !hadNoEffect(err) {
			// Only the server that had the request knows what became of it.
			had := b.onlyInstance(c.server)
			if !c.keyed || had == "" {
				return nil, outcomeUnknown(err)
			}
			c.header = setHeader(c.header, api.HeaderIfInstance, had)
			maybe = true
		}
		if c.server != nil && hadNoEffect(err) {
			try.shortenTo(unreachablePatience) // others may have the volumes, too
		}
		if maybe {
			err = outcomeUnknown(err) // though it did not get through this time
		}
		if err := try.waitBeforeRetry(ctx, err, wait); err != nil {
			return nil, err
		}
	}
}

// resolveCanceled finds out what became of a request that was given up: a change that is
// reported as cancelled has no effect later.
func (b *Backend) resolveCanceled(ctx context.Context, c call, key string) (*http.Response, error) {
	if key == "" {
		return nil, ctx.Err()
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	var out api.Outcome
	end := call{method: "POST", path: "/cancel", query: url.Values{"key": {key}}, server: c.server, stream: http.NoBody}
	if err := b.sendJSON(soon, end, nil, &out); err != nil || !out.Done {
		return nil, ctx.Err()
	}
	// It was done before it could be cancelled: the server says again how it went.
	c.stream, c.header = nil, c.header.Clone()
	c.header.Del("Expect")
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	res, err := b.roundTrip(late, c, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	res.Body = &cancelBody{res.Body, cancel}
	return res, nil
}

// cancelTimeout is how long a caller that gave up waits for the server's word.
const cancelTimeout = 3 * time.Second

type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelBody) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

func outcomeUnknown(err error) error {
	return driver.Errorf(driver.ErrUnavailable, "the connection broke, and whether the server did what was asked is not known; look, and ask again if need be: %v", err)
}

// backoff is the patience with a server that does not answer.
type backoff struct {
	deadline  time.Time
	pause     time.Duration
	shortened bool // shortenTo was called
}

func newBackoff(patience time.Duration) *backoff {
	return &backoff{deadline: time.Now().Add(patience), pause: 50 * time.Millisecond}
}

// unreachablePatience is how long a server is waited for that is not to be reached where it told
// the client to find it. The session moves to another one then.
const unreachablePatience = 2 * time.Second

// shortenTo lets the patience end by then.
func (t *backoff) shortenTo(d time.Duration) {
	if end := time.Now().Add(d); !t.shortened && end.Before(t.deadline) {
		t.deadline = end
	}
	t.shortened = true
}

// waitBeforeRetry waits before the next try, or returns err when there is to be none.
func (t *backoff) waitBeforeRetry(ctx context.Context, err error, atLeast time.Duration) error {
	pause := max(atLeast, t.pause/2+rand.N(t.pause))
	t.pause = min(2*t.pause, 2*time.Second)
	if time.Now().Add(pause).After(t.deadline) {
		return err
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		// Whoever set the time wants to know what it passed with.
		return fmt.Errorf("%w: %v", ctx.Err(), err)
	case <-timer.C:
		return nil
	}
}

// roundTrip makes a request once. stream gives what is sent of a call that has one.
func (b *Backend) roundTrip(ctx context.Context, c call, stream *singleUseReader) (*http.Response, error) {
	u := *b.baseURL
	if c.server != nil {
		u = *c.server
	}
	u.Path += api.Prefix + c.path
	u.RawQuery = c.query.Encode()
	var body io.Reader
	size := c.size
	switch {
	case c.stream != nil:
		body = stream
	case c.body != nil:
		body, size = bytes.NewReader(c.body), int64(len(c.body))
	}
	watch := b.newWatchdog(ctx, c)
	if body != nil {
		body = &requestBody{body, watch}
	}
	req, err := http.NewRequestWithContext(watch.ctx, c.method, u.String(), body)
	if err != nil {
		watch.endRequest()
		return nil, driver.Errorf(driver.ErrInvalid, "%v", err)
	}
	if body != nil {
		req.ContentLength = size
		if size == 0 && c.body != nil {
			req.Body = http.NoBody
		}
	}
	for k, v := range c.header {
		if k == api.HeaderIdempotencyKey && !c.repeatable {
			// By its canonical name net/http would take it for leave to make the request again
			// by itself when a connection breaks, be it to another server.
			k = strings.ToLower(k)
		}
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+b.opts.Key)
	req.Header.Set("User-Agent", b.opts.UserAgent)
	res, err := b.httpClient.Do(req)
	if err != nil {
		err = watch.timeoutCause(err)
		watch.endRequest()
		return nil, unreachable(&u, err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		// Nobody asked for it. The body is the connection itself now, which waits for the
		// server whatever becomes of the context: neither the watchdog nor a signal ends a read.
		_ = res.Body.Close()
		watch.endRequest()
		return nil, &responseError{status: res.StatusCode, message: describeStatus(res.StatusCode), kind: driver.ErrUnavailable}
	}
	watch.watchResponse(c)
	res.Body = &responseBody{res.Body, watch}
	instance := res.Header.Get(api.HeaderInstance)
	if api.CheckInstance(instance) != nil {
		instance = ""
	}
	b.recordInstance(c.server, instance)
	if res.StatusCode < 300 && instance != "" {
		return res, nil
	}
	defer drainBody(res)
	if res.StatusCode < 300 {
		// A proxy's page is no file's content, and no success.
		return nil, &responseError{status: res.StatusCode, message: "something between answers in the place of the server at " + u.Host, kind: driver.ErrUnavailable}
	}
	return nil, decodeResponseError(res)
}

// recordInstance notes which process answers at an address.
func (b *Backend) recordInstance(at *url.URL, instance string) {
	key := ""
	if at != nil {
		key = at.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if instance == "" {
		return
	}
	if b.recentInstances == nil {
		b.recentInstances = map[string][]string{}
	}
	// The last two are enough to tell whether there are several.
	if list := b.recentInstances[key]; len(list) == 0 || list[len(list)-1] != instance {
		b.recentInstances[key] = append(list[max(0, len(list)-1):], instance)
	}
}

// onlyInstance returns the only process that has answered at an address; "" when there
// were several, as behind a load balancer, or after a restart.
func (b *Backend) onlyInstance(at *url.URL) string {
	key := ""
	if at != nil {
		key = at.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if list := b.recentInstances[key]; len(list) == 1 {
		return list[0]
	}
	return ""
}

// singleUseReader hides what else a reader can do: net/http would close it, or make it anew.
type singleUseReader struct {
	r     io.Reader
	state atomic.Int32 // fresh, begun or stopped
}

const (
	notRead int32 = iota
	readBegun
	readPrevented
)

func (o *singleUseReader) Read(p []byte) (int, error) {
	if o.state.CompareAndSwap(notRead, readBegun); o.state.Load() == readPrevented {
		return 0, context.Canceled
	}
	return o.r.Read(p)
}

// preventReading keeps r from being read. It reports false when that has begun.
func (o *singleUseReader) preventReading() bool {
	return o.state.CompareAndSwap(notRead, readPrevented)
}
