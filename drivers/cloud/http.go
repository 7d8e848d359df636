package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// call is one request of the API. It is passed by value: what a layer sets in its copy, such as
// the header, the caller does not see.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	server       *url.URL // where the request goes; nil: to Options.URL

	body   []byte    // of the request, if it is in memory
	stream io.Reader // the body if it is not in memory; it can be read once, so retries end when reading began
	size   int64     // of stream in bytes; -1: unknown

	// repeatable: doing it twice has the effect of doing it once, so every failure is retried.
	repeatable bool
	// keyed: the request carries an idempotency key, by which the server recognises a retry of
	// a change that it has already made and repeats its response.
	keyed bool
	// expectContinue: the body is sent only after the server has agreed to take it.
	expectContinue bool
	// longRunning: the server may need up to maxSlowSilence before it responds.
	longRunning bool
	// unbounded: the response is a stream that goes on as long as the client listens.
	unbounded bool
	// patience is how long an unreachable server is retried; 0: Options.Patience.
	patience time.Duration
}

// sendDiscard makes a request and discards the content of the response.
func (b *Backend) sendDiscard(ctx context.Context, c call) error {
	res, err := b.sendRetrying(ctx, c)
	if err != nil {
		return err
	}
	drainResponse(res)
	return nil
}

// sendJSON makes a request with in as its JSON body, unless in is nil, and decodes the response
// into out.
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
	defer drainResponse(res)
	if err := api.Decode(res.Body, out); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}

// requestJSON is sendJSON for a response that the caller returns.
func requestJSON[T any](ctx context.Context, b *Backend, c call, in any) (out T, err error) {
	err = b.sendJSON(ctx, c, in, &out)
	return out, err
}

// readResponseBytes makes a request whose response is bytes, and reads as many as fit into p. A response
// that breaks off is requested again, so c must be repeatable.
func (b *Backend) readResponseBytes(ctx context.Context, c call, p []byte) (int, error) {
	for try := newBackoff(b.opts.Patience); ; {
		res, err := b.sendRetrying(ctx, c)
		if err != nil {
			return 0, err
		}
		n, err := 0, checkLengthKnown(res)
		if err == nil {
			n, err = fillBuffer(res.Body, p)
		}
		drainResponse(res)
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

// checkLengthKnown refuses a response that ends where the connection ends, as in HTTP/1.0: a
// truncated one could not be told from a whole one.
func checkLengthKnown(res *http.Response) error {
	if res.ContentLength >= 0 || res.ProtoMajor > 1 || res.Uncompressed || len(res.TransferEncoding) > 0 {
		return nil
	}
	return driver.Errorf(driver.ErrUnavailable, "a proxy sends content without its length, so a truncated response would not be noticed; check the proxy before the server")
}

// fillBuffer reads from r until p is full or r ends, which is no error.
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

// drainResponse reads a small rest of a response, so that the connection can be reused, and closes it.
func drainResponse(res *http.Response) {
	if b, ok := res.Body.(*responseBody); ok {
		b.limitDrain()
	}
	_, _ = io.CopyN(io.Discard, res.Body, 256<<10)
	_ = res.Body.Close()
}

// roundTrip makes a request once and returns a response with a status below 300. stream wraps
// c.stream and is nil for a call without one. Errors are an unreachableError or a responseError.
func (b *Backend) roundTrip(ctx context.Context, c call, stream *uploadSource) (*http.Response, error) {
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
		watch.cancelRequest()
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
			// Under its canonical name net/http takes this header for permission to retry the
			// request by itself when a connection breaks, possibly at another server.
			k = strings.ToLower(k)
		}
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+b.opts.Key)
	req.Header.Set("User-Agent", b.opts.UserAgent)
	res, err := b.httpClient.Do(req)
	if err != nil {
		err = watch.timeoutCause(err)
		watch.cancelRequest()
		return nil, unreachable(&u, err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		// No request asks for it. The body is the raw connection now, and reads of it do not
		// obey the context: neither the watchdog nor a signal would end one.
		_ = res.Body.Close()
		watch.cancelRequest()
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
	defer drainResponse(res)
	if res.StatusCode < 300 {
		// Without the header Vole-Instance this is a proxy's page: not a file's content, and not
		// a success.
		return nil, &responseError{status: res.StatusCode, message: "a proxy responds in place of the server at " + u.Host + "; check the URL and the proxy", kind: driver.ErrUnavailable}
	}
	return nil, decodeResponseError(res)
}
