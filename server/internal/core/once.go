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

// do calls fn unless the request was answered before, or is being; then it gives that
// answer.
func (m *onceMap) do(r *Request, key, what string, a *answer, fn func() error) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// A read that waits for the client's next bytes does not look at ctx.
	defer a.body.cutAfter(ctx)()
	r.Request = r.WithContext(ctx)
	k, print := newOnceKey(r.who(), key), digestOf(what)
	for {
		m.mu.Lock()
		have := m.org(r.Who.Org).of[k]
		if have == nil {
			have, err := m.begin(r.Who.Org, k, cancel)
			if err == nil {
				have.what = print
			}
			m.mu.Unlock()
			if err != nil {
				return err
			}
			return m.first(r.Who.Org, have, a, fn)
		}
		wait := have.wait
		m.mu.Unlock()
		if wait != nil {
			select {
			case <-wait.done:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		again, err := m.replay(have, print, a)
		if !again {
			return err
		}
	}
}

// replay gives a request the answer that one before it got. again says that there is none:
// the request before failed in a way that is worth another try.
func (m *onceMap) replay(have *onceAnswer, print [16]byte, a *answer) (again bool, err error) {
	m.mu.Lock()
	x := *have
	m.mu.Unlock()
	switch {
	case x.what != print && !x.early:
		return false, driver.Errorf(driver.ErrInvalid, "this idempotency key was used for another request; make a new one for each")
	case x.status == 0 && x.ended:
		return false, context.Canceled
	case x.status == 0:
		return true, nil
	}
	x.header.restore(a.Header())
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
	r.Body, r.raw = io.NopCloser(bytes.NewReader(b)), b
	return fmt.Sprintf("%s %x", what, sha256.Sum256(b)), nil
}

// first does a request that was not made before, and keeps its answer.
func (m *onceMap) first(org string, have *onceAnswer, a *answer, fn func() error) error {
	a.copy = &answerCopy{most: onceBody}
	defer func() { a.copy = nil }()
	kept := onceAnswer{}
	defer func() { m.settle(org, have, kept) }()
	if err := fn(); err != nil {
		return err
	}
	if a.status != 0 && !a.copy.cut {
		kept.status, kept.header, kept.body = uint16(a.status), packHeader(a.Header()), a.copy.String()
	}
	return nil
}

// end cancels a request that is under way and waits for its end. It reports whether the
// request was done, as far as is known. A request that is still to come, for it was
// overtaken, will be refused.
func (m *onceMap) end(ctx context.Context, org, who, key string) (done bool, err error) {
	k := newOnceKey(who, key)
	m.mu.Lock()
	have := m.org(org).of[k]
	if have == nil {
		have, err = m.begin(org, k, func() {})
		if err != nil {
			m.mu.Unlock()
			return false, err
		}
		have.early, have.ended = true, true
		m.mu.Unlock()
		m.settle(org, have, onceAnswer{})
		return false, nil
	}
	have.ended = true
	wait := have.wait
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

// End cancels the caller's request with that idempotency key, if it is under way, and
// waits for its end. It reports whether the request was done.
func (r *Request) End(key string) (done bool, err error) {
	return r.Core.once.end(r.Context(), r.Who.Org, r.who(), key)
}

// answerCopy is what was written of an answer, unless that is too much.
type answerCopy struct {
	bytes.Buffer
	most int
	cut  bool
}

func (c *answerCopy) add(p []byte) {
	if c.cut = c.cut || c.Len()+len(p) > c.most; !c.cut {
		c.Write(p)
	}
}

// packedHeader is the header of an answer: nil for the usual one of JSON, and of an answer
// without a body.
type packedHeader struct {
	none bool
	of   http.Header
}

var noHeader = &packedHeader{none: true}

// jsonHeader is the header of an answer in JSON. ownHeaders are of one request.
var (
	jsonHeader = map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
	ownHeaders = map[string]bool{http.CanonicalHeaderKey(api.HeaderRequestID): true, http.CanonicalHeaderKey(api.HeaderInstance): true, "Connection": true, "Content-Length": true}
)

// packHeader packs a header, without what is of one request and not of its answer.
func packHeader(h http.Header) *packedHeader {
	h = h.Clone()
	for name := range ownHeaders {
		h.Del(name)
	}
	usual := len(h) == len(jsonHeader)
	for name, v := range jsonHeader {
		usual = usual && h.Get(name) == v
	}
	switch {
	case len(h) == 0:
		return noHeader
	case usual:
		return nil
	}
	return &packedHeader{of: h}
}

func (p *packedHeader) restore(h http.Header) {
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

// size is what a packed header takes, in bytes.
func (p *packedHeader) size() int64 {
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
