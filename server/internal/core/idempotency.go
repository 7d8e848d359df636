package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// answerOnce runs fn unless a request with the same key of the same caller was answered before;
// then it repeats that answer. If that one is still running it waits for it. A request with the
// same key but another fingerprint is refused.
//
// The context of r is replaced by one that cancelRequest can end.
func (m *idempotencyCache) answerOnce(r *Request, key, what string, a *pacedResponse, fn func() error) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// A blocked read of the body does not see ctx.
	defer a.body.stopReadingAfter(ctx)()
	r.Request = r.WithContext(ctx)
	k, fingerprint := hashAnswerKey(r.CallerID(), key), shortDigest(what)
	for {
		m.mu.Lock()
		have := m.answersOf(r.Caller.Org).byKey[k]
		if have == nil {
			have, err := m.reserveAnswer(r.Caller.Org, k, cancel)
			if err == nil {
				have.fingerprint = fingerprint
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
		retry, err := m.replayAnswer(have, fingerprint, a)
		if !retry {
			return err
		}
	}
}

// replayAnswer writes the answer that the first request got. retry means that it has none worth
// keeping, because it failed in a way that another try may mend.
func (m *idempotencyCache) replayAnswer(have *cachedAnswer, fingerprint [16]byte, a *pacedResponse) (retry bool, err error) {
	m.mu.Lock()
	answer := *have
	m.mu.Unlock()
	switch {
	case answer.fingerprint != fingerprint && !answer.cancelledEarly:
		return false, driver.Errorf(driver.ErrInvalid, "this idempotency key was used for another request; use a new key for each request")
	case answer.status == 0 && answer.cancelled:
		return false, context.Canceled
	case answer.status == 0:
		return true, nil
	}
	answer.header.applyTo(a.Header())
	a.WriteHeader(int(answer.status))
	_, err = io.WriteString(a, answer.body)
	return false, err
}

// fingerprint identifies what a request asks for: method, URI and, if the body is JSON, its
// hash. The body can be read again afterwards. Content of files is not hashed: it would have to
// be buffered.
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

// runAndRemember runs a request that is new and keeps its answer, if it succeeded and fits into
// maxAnswerBody.
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

// cancelRequest cancels a running request, waits for its end, and reports whether it was carried
// out. If the request has not arrived yet (it was overtaken on another connection), an entry is
// left that refuses it when it comes.
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

// CancelByKey cancels the caller's request with that idempotency key, if it is running, waits
// for its end, and reports whether it was carried out.
func (r *Request) CancelByKey(key string) (done bool, err error) {
	return r.Core.idempotency.cancelRequest(r.Context(), r.Caller.Org, r.CallerID(), key)
}

// answerRecorder keeps a copy of an answer's body, unless it becomes too long.
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

// packedHeader is the header of a kept answer in little memory: nil stands for that of every JSON
// answer.
type packedHeader http.Header

// emptyHeader is that of every answer without one.
var emptyHeader = packedHeader{}

// jsonHeader is the header of every JSON answer. perRequestHeaders belong to one request and are
// not repeated with its answer.
var (
	jsonHeader        = map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
	perRequestHeaders = map[string]bool{http.CanonicalHeaderKey(api.HeaderRequestID): true, http.CanonicalHeaderKey(api.HeaderInstance): true, "Connection": true, "Content-Length": true}
)

// packHeader packs a header without perRequestHeaders.
func packHeader(h http.Header) packedHeader {
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
	return packedHeader(h)
}

// applyTo sets the packed fields in h.
func (p packedHeader) applyTo(h http.Header) {
	if p == nil {
		setJSONHeader(h)
	}
	maps.Copy(h, http.Header(p))
}

// memorySize estimates the memory of a packed header, in bytes.
func (p packedHeader) memorySize() int64 {
	if len(p) == 0 {
		return 0
	}
	n := int64(256)
	for name, v := range p {
		n += int64(len(name)) + 64
		for _, s := range v {
			n += int64(len(s)) + 16
		}
	}
	return n
}
