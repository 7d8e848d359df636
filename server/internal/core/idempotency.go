package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// answerOnce calls fn unless the request was answered before, or is being; then it gives that
// answer.
func (m *idempotencyCache) answerOnce(r *Request, key, what string, a *pacedResponse, fn func() error) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// A read that waits for the client's next bytes does not look at ctx.
	defer a.body.stopReadingAfter(ctx)()
	r.Request = r.WithContext(ctx)
	k, print := hashAnswerKey(r.callerID(), key), shortDigest(what)
	for {
		m.mu.Lock()
		have := m.answersOf(r.Caller.Org).byKey[k]
		if have == nil {
			have, err := m.reserveAnswer(r.Caller.Org, k, cancel)
			if err == nil {
				have.fingerprint = print
			}
			m.mu.Unlock()
			if err != nil {
				return err
			}
			return m.runAndRemember(r.Caller.Org, have, a, fn)
		}
		wait := have.pending
		m.mu.Unlock()
		if wait != nil {
			select {
			case <-wait.done:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		again, err := m.replayAnswer(have, print, a)
		if !again {
			return err
		}
	}
}

// replayAnswer gives a request the answer that one before it got. again says that there is none:
// the request before failed in a way that is worth another try.
func (m *idempotencyCache) replayAnswer(have *cachedAnswer, print [16]byte, a *pacedResponse) (again bool, err error) {
	m.mu.Lock()
	x := *have
	m.mu.Unlock()
	switch {
	case x.fingerprint != print && !x.cancelledEarly:
		return false, driver.Errorf(driver.ErrInvalid, "this idempotency key was used for another request; make a new one for each")
	case x.status == 0 && x.cancelled:
		return false, context.Canceled
	case x.status == 0:
		return true, nil
	}
	x.header.applyTo(a.Header())
	a.WriteHeader(int(x.status))
	_, err = io.WriteString(a, x.body)
	return false, err
}

// fingerprint tells requests apart that have the same idempotency key. A body of JSON is
// read for it and can be read again; content of files is not.
func (r *Request) fingerprint() (string, error) {
	what := r.Method + " " + r.URL.RequestURI()
	if r.route.MaxBody != 0 {
		return what, nil
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return "", errors.Join(err, context.Cause(r.Context()))
	}
	r.Body, r.rawBody = io.NopCloser(bytes.NewReader(b)), b
	return fmt.Sprintf("%s %x", what, sha256.Sum256(b)), nil
}

// runAndRemember does a request that was not made before, and keeps its answer.
func (m *idempotencyCache) runAndRemember(org string, have *cachedAnswer, a *pacedResponse, fn func() error) error {
	a.recorder = &answerRecorder{maxBytes: maxAnswerBody}
	defer func() { a.recorder = nil }()
	kept := cachedAnswer{}
	defer func() { m.storeAnswer(org, have, kept) }()
	if err := fn(); err != nil {
		return err
	}
	if a.status != 0 && !a.recorder.overflowed {
		kept.status, kept.header, kept.body = uint16(a.status), packHeader(a.Header()), a.recorder.String()
	}
	return nil
}

// cancelRequest cancels a request that is under way and waits for its end. It reports whether the
// request was done, as far as is known. A request that is still to come, for it was
// overtaken, will be refused.
func (m *idempotencyCache) cancelRequest(ctx context.Context, org, who, key string) (done bool, err error) {
	k := hashAnswerKey(who, key)
	m.mu.Lock()
	have := m.answersOf(org).byKey[k]
	if have == nil {
		have, err = m.reserveAnswer(org, k, func() {})
		if err != nil {
			m.mu.Unlock()
			return false, err
		}
		have.cancelledEarly, have.cancelled = true, true
		m.mu.Unlock()
		m.storeAnswer(org, have, cachedAnswer{})
		return false, nil
	}
	have.cancelled = true
	wait := have.pending
	m.mu.Unlock()
	if wait != nil {
		wait.cancel()
		select {
		case <-wait.done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return have.status != 0, nil
}

// CancelByKey cancels the caller's request with that idempotency key, if it is under way, and
// waits for its end. It reports whether the request was done.
func (r *Request) CancelByKey(key string) (done bool, err error) {
	return r.Core.idempotency.cancelRequest(r.Context(), r.Caller.Org, r.callerID(), key)
}

// answerRecorder is what was written of an answer, unless that is too much.
type answerRecorder struct {
	bytes.Buffer
	maxBytes   int
	overflowed bool
}

func (c *answerRecorder) record(p []byte) {
	if c.overflowed = c.overflowed || c.Len()+len(p) > c.maxBytes; !c.overflowed {
		c.Write(p)
	}
}

// packedHeader is the header of an answer: nil for the usual one of JSON, and of an answer
// without a body.
type packedHeader struct {
	none bool
	of   http.Header
}

var emptyHeader = &packedHeader{none: true}

// jsonHeader is the header of an answer in JSON. perRequestHeaders are of one request.
var (
	jsonHeader        = map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
	perRequestHeaders = map[string]bool{http.CanonicalHeaderKey(api.HeaderRequestID): true, http.CanonicalHeaderKey(api.HeaderInstance): true, "Connection": true, "Content-Length": true}
)

// packHeader packs a header, without what is of one request and not of its answer.
func packHeader(h http.Header) *packedHeader {
	h = h.Clone()
	for name := range perRequestHeaders {
		h.Del(name)
	}
	usual := len(h) == len(jsonHeader)
	for name, v := range jsonHeader {
		usual = usual && h.Get(name) == v
	}
	switch {
	case len(h) == 0:
		return emptyHeader
	case usual:
		return nil
	}
	return &packedHeader{of: h}
}

func (p *packedHeader) applyTo(h http.Header) {
	switch {
	case p == nil:
		for name, v := range jsonHeader {
			h.Set(name, v)
		}
	case !p.none:
		for name, v := range p.of {
			h[name] = v
		}
	}
}

// memorySize is what a packed header takes, in bytes.
func (p *packedHeader) memorySize() int64 {
	if p == nil || p.none {
		return 0
	}
	n := int64(256)
	for name, v := range p.of {
		n += int64(len(name)) + 64
		for _, s := range v {
			n += int64(len(s)) + 16
		}
	}
	return n
}
