package core

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/budget"
)

// How the memory of a server is divided. A quarter is the budget of requests (NewBudget); the
// rest is for connections, caches, answers to idempotency keys, and uncollected garbage.
const (
	// DefaultMemory is how much memory a server takes at most by default, in bytes.
	DefaultMemory = 512 << 20
	// MinMemory is the smallest accepted limit.
	MinMemory = 128 << 20

	// 1/preAuthPart of the memory is for requests that no organisation's budget has yet.
	preAuthPart = 16

	// One request may wait for a slot per this many bytes of memory.
	queuedRequestMemory = 512 << 10

	maxMemoryWait = 5 * time.Second // of a request for free memory
)

// NewBudget returns the budget for requests of a server with that much memory: a quarter in all,
// an eighth for one organisation.
func NewBudget(memory int64) *budget.Budget {
	return budget.New(memory/4, memory/8, maxMemoryWait)
}

// ReceiveWindow is the HTTP/2 flow-control window of a connection in bytes. A thousand
// connections with full windows take a quarter of the memory.
func ReceiveWindow(memory int64) int { return int(min(max(memory>>12, 64<<10), 1<<20)) }

// MaxGoroutines is how many goroutines a server has at most if its budgets hold: beyond it,
// requests arrive faster than they are handled.
func MaxGoroutines(memory int64) int64 { return memory >> 15 }

const (
	// requestBase is what a request takes by itself, in bytes: goroutine, header, small
	// body and small answer.
	requestBase = 16 << 10
	// smallBodyAllowance is how much of body and answer that covers.
	smallBodyAllowance = 8 << 10
	// streamBase is the buffer that content of files moves through.
	streamBase = smallCopy + 16<<10
)

// requestMemory is the memory that one request has taken from the share of its organisation. It
// may be used by several goroutines of the request.
type requestMemory struct {
	share *budget.Share

	mu        sync.Mutex // guards what follows
	bytes     int64
	allowance int64 // part of the base memory that is not used yet
}

// acquireBuffer waits for n bytes that the request keeps to its end. The allowance that is part
// of the base memory is used up first.
func (h *requestMemory) acquireBuffer(ctx context.Context, n int64) error {
	if n = h.useAllowance(n); n == 0 {
		return nil
	}
	if err := h.share.Acquire(ctx, budget.Buffer, n); err != nil {
		return err
	}
	h.addBytes(n)
	return nil
}

// tryAcquireBuffer is acquireBuffer without waiting, for memory that the request can do without.
func (h *requestMemory) tryAcquireBuffer(n int64) bool {
	if !h.share.Try(budget.Buffer, n) {
		return false
	}
	h.addBytes(n)
	return true
}

// useAllowance returns how many of n bytes the allowance does not cover.
func (h *requestMemory) useAllowance(n int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	use := min(n, h.allowance)
	h.allowance -= use
	return n - use
}

// addBytes notes n more bytes to release at the end.
func (h *requestMemory) addBytes(n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes += n
}

// releaseBytes returns n bytes early.
func (h *requestMemory) releaseBytes(n int64) {
	h.addBytes(-n)
	h.share.Release(n)
}

// releaseAll returns all that the request still has.
func (h *requestMemory) releaseAll() {
	h.mu.Lock()
	n := h.bytes
	h.bytes = 0
	h.mu.Unlock()
	h.share.Release(n)
}

// ReserveMemory waits for n bytes more, which the request keeps to its end. The error is a
// refusal for the client: the budget stayed full for maxMemoryWait.
func (r *Request) ReserveMemory(n int64) error { return r.memory.acquireBuffer(r.Context(), n) }

// TryReserveMemory is ReserveMemory without waiting, for memory that the request can do without.
func (r *Request) TryReserveMemory(n int64) bool { return r.memory.tryAcquireBuffer(n) }

// BorrowMemory waits for n bytes that the request keeps until it calls release.
func (r *Request) BorrowMemory(n int64) (release func(), err error) {
	if err := r.memory.share.Acquire(r.Context(), budget.Buffer, n); err != nil {
		return nil, err
	}
	return func() { r.memory.share.Release(n) }, nil
}

// MemoryShare returns the share of the caller's organisation in the memory budget.
func (r *Request) MemoryShare() *budget.Share { return r.memory.share }

// reserveBaseMemory takes what a request needs to begin with. A request with a body is refused
// at once instead of waiting: HTTP/2 would buffer the body during the wait.
func (c *Core) reserveBaseMemory(r *Request, rt *Route) (*requestMemory, error) {
	h := &requestMemory{share: c.opts.Budget.Share(r.Caller.Org), allowance: smallBodyAllowance}
	class, n := budget.Small, requestMemorySize(r.Request)
	body := r.ContentLength != 0
	if rt.Stream {
		class = budget.Stream
		n += streamBase
	}
	if h.share.Try(class, n) {
		h.bytes = n
		return h, nil
	}
	err := h.share.Refusal(class, n)
	if !body {
		err = h.share.Acquire(r.Context(), class, n)
	}
	if err == nil {
		h.bytes = n
	}
	return h, err
}

// budgetRefusal maps a full budget to the error that clients see: 429 if their own organisation
// fills its share, else 503.
func budgetRefusal(e *budget.Error) *Error {
	x := &Error{Code: api.CodeUnavailable, Message: e.Error(), Retry: budget.Retry}
	if e.Own {
		x.Code = api.CodeRateLimited
	}
	return x
}

// meteredBody accounts for a body that is read into memory.
type meteredBody struct {
	io.ReadCloser
	r *Request
}

// bufferGrowth is how many bytes of memory one byte of a body takes while it is read: io.ReadAll
// doubles its buffer.
const bufferGrowth = 2

func (b meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 32<<10)])
	if herr := b.r.ReserveMemory(int64(n) * bufferGrowth); herr != nil {
		return 0, herr
	}
	return n, err
}

// reserveForJSON takes memory for the values that b decodes to: a few bytes of JSON can make an
// element of a list or a key of a map.
func (r *Request) reserveForJSON(b []byte) error {
	elements := bytes.Count(b, []byte{','}) + bytes.Count(b, []byte{'['}) + bytes.Count(b, []byte{'{'})
	return r.ReserveMemory(int64(len(b)) + 64*int64(elements))
}
