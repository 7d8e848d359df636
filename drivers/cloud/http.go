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
	at           *url.URL // the server; nil: the one of the options

	body   []byte    // what is sent, if it is in memory
	stream io.Reader // what is sent, if it is not: the request is made once
	size   int64     // of stream; -1: unknown

	// again: to do it twice is as good as once, so it is made again whatever happened.
	again bool
	// once: it changes something and carries an idempotency key, so that a server that
	// has it already does not do it twice.
	once bool
	// wait: the server is asked before the body is sent.
	wait bool
	// slow: the server may work on it for long before it answers.
	slow bool
	// endless: the answer goes on as long as the client listens.
	endless bool
	// patience with a server that is away; 0: that of the options.
	patience time.Duration
}

// do makes a request whose answer has no content.
func (b *Backend) do(ctx context.Context, c call) error {
	res, err := b.send(ctx, c)
	if err != nil {
		return err
	}
	drain(res)
	return nil
}

// json makes a request with in as its JSON, if it is not nil, and decodes the answer.
func (b *Backend) json(ctx context.Context, c call, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		c.body = body
		c.header = withHeader(c.header, "Content-Type", "application/json")
	}
	res, err := b.send(ctx, c)
	if err != nil {
		return err
	}
	defer drain(res)
	if err := api.Decode(res.Body, out); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}

// bytes makes a request whose answer is bytes: those that p takes.
func (b *Backend) bytes(ctx context.Context, c call, p []byte) (int, error) {
	for try := newTrial(b.opts.Patience); ; {
		res, err := b.send(ctx, c)
		if err != nil {
			return 0, err
		}
		n, err := 0, endsBlindly(res)
		if err == nil {
			n, err = readTo(res.Body, p)
		}
		drain(res)
		if err == nil {
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		err = away(b.base, err)
		if err := try.wait(ctx, err, 0); err != nil {
			return 0, err
		}
	}
}

// endsBlindly returns an error for an answer whose end is that of the connection, as
// HTTP/1.0 has it: of what is missing at its end nothing would be seen.
func endsBlindly(res *http.Response) error {
	if res.ContentLength >= 0 || res.ProtoMajor > 1 || res.Uncompressed || len(res.TransferEncoding) > 0 {
		return nil
	}
	return driver.Errorf(driver.ErrUnavailable, "something between sends content without its length; a part that is missing would not be noticed")
}

// readTo fills p, or reads to the end of r.
func readTo(r io.Reader, p []byte) (n int, err error) {
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

func withHeader(h http.Header, name, value string) http.Header {
	if h == nil {
		h = http.Header{}
	}
	h.Set(name, value)
	return h
}

// drain lets the connection be used again.
func drain(res *http.Response) {
	if b, ok := res.Body.(*answerBody); ok {
		b.hurry()
	}
	_, _ = io.CopyN(io.Discard, res.Body, 256<<10)
	_ = res.Body.Close()
}

// send makes a request, again if need be, and returns the answer if it is a good one.
func (b *Backend) send(ctx context.Context, c call) (*http.Response, error) {
	key := ""
	if c.once {
		key = uuid.NewString()
		c.header = withHeader(c.header, api.HeaderIdempotencyKey, key)
	}
	if c.wait {
		c.header = withHeader(c.header, "Expect", "100-continue")
	}
	maybe := false // whether it may have been done already
	for try := newTrial(cmp.Or(c.patience, b.opts.Patience)); ; {
		once := &onceReader{r: c.stream}
		res, err := b.roundTrip(ctx, c, once)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return b.canceled(ctx, c, key)
		}
		if errors.As(err, new(*tls.CertificateVerificationError)) || errors.Is(err, http.ErrSchemeMismatch) {
			return nil, err // to wait makes nobody trust it, or speak TLS
		}
		var r *refusal
		wait := time.Duration(0)
		if errors.As(err, &r) {
			if patient[r.code] || r.status != http.StatusTooManyRequests && r.status != http.StatusServiceUnavailable && r.status != http.StatusBadGateway {
				return nil, err
			}
			wait = r.wait
		}
		// What a stream has given is gone, even if the server did not want it.
		if c.stream != nil && (!once.stop() || !unsent(err)) {
			return nil, err
		}
		if !c.again && !unsent(err) {
			// Only the server that had the request knows what became of it.
			had := b.theInstance(c.at)
			if !c.once || had == "" {
				return nil, unknown(err)
			}
			c.header = withHeader(c.header, api.HeaderIfInstance, had)
			maybe = true
		}
		if c.at != nil && unsent(err) {
			try.atMost(awayPatience) // others may have the volumes, too
		}
		if maybe {
			err = unknown(err) // though it did not get through this time
		}
		if err := try.wait(ctx, err, wait); err != nil {
			return nil, err
		}
	}
}

// canceled finds out what became of a request that was given up: a change that is
// reported as cancelled has no effect later.
func (b *Backend) canceled(ctx context.Context, c call, key string) (*http.Response, error) {
	if key == "" {
		return nil, ctx.Err()
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelWait)
	defer cancel()
	var out api.Outcome
	end := call{method: "POST", path: "/cancel", query: url.Values{"key": {key}}, at: c.at, stream: http.NoBody}
	if err := b.json(soon, end, nil, &out); err != nil || !out.Done {
		return nil, ctx.Err()
	}
	// It was done before it could be cancelled: the server says again how it went.
	c.stream, c.header = nil, c.header.Clone()
	c.header.Del("Expect")
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelWait)
	res, err := b.roundTrip(late, c, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	res.Body = &cancelBody{res.Body, cancel}
	return res, nil
}

// cancelWait is how long a caller that gave up waits for the server's word.
const cancelWait = 3 * time.Second

type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelBody) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

func unknown(err error) error {
	return driver.Errorf(driver.ErrUnavailable, "the connection broke, and whether the server did what was asked is not known; look, and ask again if need be: %v", err)
}

// trial is the patience with a server that does not answer.
type trial struct {
	until time.Time
	pause time.Duration
	short bool // atMost was called
}

func newTrial(patience time.Duration) *trial {
	return &trial{until: time.Now().Add(patience), pause: 50 * time.Millisecond}
}

// awayPatience is how long a server is waited for that is not to be reached where it told
// the client to find it. The session moves to another one then.
const awayPatience = 2 * time.Second

// atMost lets the patience end by then.
func (t *trial) atMost(d time.Duration) {
	if end := time.Now().Add(d); !t.short && end.Before(t.until) {
		t.until = end
	}
	t.short = true
}

// wait waits before the next try, or returns err when there is to be none.
func (t *trial) wait(ctx context.Context, err error, atLeast time.Duration) error {
	pause := max(atLeast, t.pause/2+rand.N(t.pause))
	t.pause = min(2*t.pause, 2*time.Second)
	if time.Now().Add(pause).After(t.until) {
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
func (b *Backend) roundTrip(ctx context.Context, c call, stream *onceReader) (*http.Response, error) {
	u := *b.base
	if c.at != nil {
		u = *c.at
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
		body = &sentBody{body, watch}
	}
	req, err := http.NewRequestWithContext(watch.ctx, c.method, u.String(), body)
	if err != nil {
		watch.end()
		return nil, driver.Errorf(driver.ErrInvalid, "%v", err)
	}
	if body != nil {
		req.ContentLength = size
		if size == 0 && c.body != nil {
			req.Body = http.NoBody
		}
	}
	for k, v := range c.header {
		if k == api.HeaderIdempotencyKey && !c.again {
			// By its canonical name net/http would take it for leave to make the request again
			// by itself when a connection breaks, be it to another server.
			k = strings.ToLower(k)
		}
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+b.opts.Key)
	req.Header.Set("User-Agent", b.opts.UserAgent)
	res, err := b.client.Do(req)
	if err != nil {
		err = watch.cause(err)
		watch.end()
		return nil, away(&u, err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		// Nobody asked for it. The body is the connection itself now, which waits for the
		// server whatever becomes of the context: neither the watchdog nor a signal ends a read.
		_ = res.Body.Close()
		watch.end()
		return nil, &refusal{status: res.StatusCode, message: statusMessage(res.StatusCode), kind: driver.ErrUnavailable}
	}
	watch.answered(c)
	res.Body = &answerBody{res.Body, watch}
	instance := res.Header.Get(api.HeaderInstance)
	if api.CheckInstance(instance) != nil {
		instance = ""
	}
	b.noteInstance(c.at, instance)
	if res.StatusCode < 300 && instance != "" {
		return res, nil
	}
	defer drain(res)
	if res.StatusCode < 300 {
		// A proxy's page is no file's content, and no success.
		return nil, &refusal{status: res.StatusCode, message: "something between answers in the place of the server at " + u.Host, kind: driver.ErrUnavailable}
	}
	return nil, refused(res)
}

// noteInstance notes which process answers at an address.
func (b *Backend) noteInstance(at *url.URL, instance string) {
	key := ""
	if at != nil {
		key = at.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if instance == "" {
		return
	}
	if b.instances == nil {
		b.instances = map[string][]string{}
	}
	// The last two are enough to tell whether there are several.
	if list := b.instances[key]; len(list) == 0 || list[len(list)-1] != instance {
		b.instances[key] = append(list[max(0, len(list)-1):], instance)
	}
}

// theInstance returns the only process that has answered at an address; "" when there
// were several, as behind a load balancer, or after a restart.
func (b *Backend) theInstance(at *url.URL) string {
	key := ""
	if at != nil {
		key = at.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if list := b.instances[key]; len(list) == 1 {
		return list[0]
	}
	return ""
}

// onceReader hides what else a reader can do: net/http would close it, or make it anew.
type onceReader struct {
	r     io.Reader
	state atomic.Int32 // fresh, begun or stopped
}

const (
	fresh int32 = iota
	begun
	stopped
)

func (o *onceReader) Read(p []byte) (int, error) {
	if o.state.CompareAndSwap(fresh, begun); o.state.Load() == stopped {
		return 0, context.Canceled
	}
	return o.r.Read(p)
}

// stop keeps r from being read. It reports false when that has begun.
func (o *onceReader) stop() bool { return o.state.CompareAndSwap(fresh, stopped) }
