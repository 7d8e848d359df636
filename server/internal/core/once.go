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
	"sync"
	"time"

	"github.com/volehq/vole/driver"
)

// onceMap remembers the answers to requests with an idempotency key, so that a request
// that is sent again is not done again.
type onceMap struct {
	mu    sync.Mutex // guards what follows
	of    map[onceKey]*onceAnswer
	order []onceKey // oldest first; some may be gone, and those that took long come late
	size  int       // bytes of all
}

type onceKey struct{ who, key string }

// onceAnswer is the answer to a request, whole when done is closed.
type onceAnswer struct {
	what   string // of Request.fingerprint
	done   chan struct{}
	cancel context.CancelFunc
	at     time.Time
	ended  bool // it was cancelled, perhaps before it came; guarded by the map's mu
	status int  // 0: there is none that is worth keeping
	header http.Header
	body   []byte
}

const (
	onceKept = 10 * time.Minute // longer than clients try
	onceMost = 50_000           // answers; the oldest make room
	onceBody = 64 << 10         // bytes of one
	onceSize = 128 << 20        // bytes of all
)

func newOnceMap() *onceMap { return &onceMap{of: map[onceKey]*onceAnswer{}} }

// do calls fn unless the request was answered before, or is being; then it gives that
// answer.
func (m *onceMap) do(r *Request, key, what string, a *answer, fn func() error) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// What waits for the client's next bytes does not look at ctx. When the handler has
	// returned, the connection is not the request's any more.
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		a.body.cut()
	})
	defer func() {
		if !stop() {
			<-cut
		}
	}()
	r.Request = r.WithContext(ctx)
	k := onceKey{r.who(), key}
	for {
		m.mu.Lock()
		have := m.of[k]
		if have == nil {
			have = m.add(k, &onceAnswer{what: what, done: make(chan struct{}), cancel: cancel, at: time.Now()})
			m.mu.Unlock()
			return m.first(k, have, a, fn)
		}
		ended := have.ended
		m.mu.Unlock()
		if have.what != what && have.what != "" {
			return driver.Errorf(driver.ErrInvalid, "this idempotency key was used for another request; make a new one for each")
		}
		select {
		case <-have.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if have.status == 0 && ended {
			return context.Canceled
		}
		if have.status == 0 {
			continue // it failed in a way that is worth another try
		}
		maps.Copy(a.Header(), have.header)
		a.WriteHeader(have.status)
		_, err := a.Write(have.body)
		return err
	}
}

// add puts an answer that is to come into the map. The caller holds mu.
func (m *onceMap) add(k onceKey, x *onceAnswer) *onceAnswer {
	m.of[k] = x
	m.size += len(k.key) + len(x.what) + onceBase
	m.order = append(m.order, k)
	m.drop(x.at.Add(-onceKept))
	return x
}

// fingerprint tells requests apart that have the same idempotency key. A body of JSON is
// read for it and can be read again; content of files is not.
func (r *Request) fingerprint() (string, error) {
	what := r.Method + " " + r.URL.RequestURI()
	if r.route.MaxBody != 0 {
		return what, nil
	}
	b, err := io.ReadAll(r.Body)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", errors.Join(err, context.Cause(r.Context()))
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	return fmt.Sprintf("%s %x", what, sha256.Sum256(b)), nil
}

func (m *onceMap) first(k onceKey, have *onceAnswer, a *answer, fn func() error) error {
	a.copy = &bytes.Buffer{}
	kept := false
	defer func() {
		m.mu.Lock()
		if kept {
			m.size += len(have.body)
		} else if !have.ended {
			m.remove(k, have)
		}
		m.mu.Unlock()
		close(have.done)
	}()
	if err := fn(); err != nil {
		return err
	}
	if a.status != 0 && a.copy.Len() <= onceBody {
		have.status, have.header, have.body = a.status, a.Header().Clone(), a.copy.Bytes()
		kept = true
	}
	a.copy = nil
	return nil
}

// end cancels a request that is under way and waits for its end. It reports whether the
// request was done, as far as is known. A request that is still to come, for it was
// overtaken, will be refused.
func (m *onceMap) end(ctx context.Context, who, key string) (done bool, err error) {
	k := onceKey{who, key}
	m.mu.Lock()
	have := m.of[k]
	if have == nil {
		have = m.add(k, &onceAnswer{done: make(chan struct{}), cancel: func() {}, at: time.Now()})
		close(have.done)
	}
	have.ended = true
	m.mu.Unlock()
	have.cancel()
	select {
	case <-have.done:
		return have.status != 0, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// End cancels the caller's request with that idempotency key, if it is under way, and
// waits for its end. It reports whether the request was done.
func (r *Request) End(key string) (done bool, err error) {
	return r.Core.once.end(r.Context(), r.who(), key)
}

func (m *onceMap) forget(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(now.Add(-onceKept))
}

// onceBase is about what an answer takes beside its key, URL and body.
const onceBase = 1 << 10

// remove takes an answer out of the map. The caller holds mu.
func (m *onceMap) remove(k onceKey, x *onceAnswer) {
	delete(m.of, k)
	m.size -= len(k.key) + len(x.what) + len(x.body) + onceBase
}

// drop removes the oldest answers: those of before that time, and those that are too many.
// What is still under way is put off. The caller holds mu.
func (m *onceMap) drop(before time.Time) {
	for range len(m.order) {
		k := m.order[0]
		x := m.of[k]
		if x != nil && !x.at.Before(before) && len(m.of) <= onceMost && m.size <= onceSize {
			return
		}
		m.order = m.order[1:]
		if x == nil {
			continue
		}
		select {
		case <-x.done:
			m.remove(k, x)
		default:
			m.order = append(m.order, k)
		}
	}
}
