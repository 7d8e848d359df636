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

// What a server of a given size may hold in memory for requests, as parts of it. The rest
// is for connections, caches, answers to idempotency keys, and what the collector has not
// collected yet.
const (
	// DefaultMemory is how much memory a server takes at most, in bytes.
	DefaultMemory = 512 << 20
	// MinMemory is the least that it can be told to take.
	MinMemory = 128 << 20

	// preAuthPart of it is for requests that count in no organisation's budget.
	preAuthPart = 16

	// queuedRequestMemory of it, in bytes, is for each request that waits for others to end.
	queuedRequestMemory = 512 << 10

	maxMemoryWait = 5 * time.Second // that a request waits for room
)

// NewBudget returns the budget of a server that may take that many bytes of memory.
func NewBudget(memory int64) *budget.Budget {
	return budget.New(memory/4, memory/8, maxMemoryWait)
}

// ReceiveWindow is how many bytes of a body HTTP/2 takes before they are read, of each
// connection: a thousand of them are a quarter of the memory.
func ReceiveWindow(memory int64) int { return int(min(max(memory>>12, 64<<10), 1<<20)) }

// MaxGoroutines is how many goroutines a server has at most when it has only requests that its
// budgets let it have.
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

// requestMemory is the memory of one request.
type requestMemory struct {
	share *budget.Share

	mu        sync.Mutex // guards what follows
	bytes     int64
	allowance int64 // that was taken and is not used yet
}

// acquireBuffer waits for n bytes more, which the request holds to its end.
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

// tryAcquireBuffer is take for what can be done without.
func (h *requestMemory) tryAcquireBuffer(n int64) bool {
	if !h.share.Try(budget.Buffer, n) {
		return false
	}
	h.addBytes(n)
	return true
}

func (h *requestMemory) useAllowance(n int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	use := min(n, h.allowance)
	h.allowance -= use
	return n - use
}

func (h *requestMemory) addBytes(n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes += n
}

// releaseBytes returns n bytes before the request's end.
func (h *requestMemory) releaseBytes(n int64) {
	h.addBytes(-n)
	h.share.Release(n)
}

func (h *requestMemory) releaseAll() {
	h.mu.Lock()
	n := h.bytes
	h.bytes = 0
	h.mu.Unlock()
	h.share.Release(n)
}

// ReserveMemory waits for room for n bytes more of what the request holds in memory, to its end.
// The error is for the client: there was none for a while.
func (r *Request) ReserveMemory(n int64) error { return r.memory.acquireBuffer(r.Context(), n) }

// TryReserveMemory is Hold for what can be done without: it does not wait.
func (r *Request) TryReserveMemory(n int64) bool { return r.memory.tryAcquireBuffer(n) }

// BorrowMemory waits for room for n bytes that the request holds until it calls release.
func (r *Request) BorrowMemory(n int64) (release func(), err error) {
	if err := r.memory.share.Acquire(r.Context(), budget.Buffer, n); err != nil {
		return nil, err
	}
	return func() { r.memory.share.Release(n) }, nil
}

// MemoryShare is what the caller's organisation has of the server's memory.
func (r *Request) MemoryShare() *budget.Share { return r.memory.share }

// reserveBaseMemory takes what a request needs to begin with. One that has a body does not wait:
// HTTP/2 would hold what the client sends meanwhile.
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

// budgetRefusal is how a lack of memory appears to clients.
func budgetRefusal(e *budget.Error) *Error {
	x := &Error{Code: api.CodeUnavailable, Message: e.Error(), Retry: budget.Retry}
	if e.Own {
		x.Code = api.CodeRateLimited
	}
	return x
}

// meteredBody is a body that is read into memory: what arrives is held.
type meteredBody struct {
	io.ReadCloser
	r *Request
}

// bufferGrowth is how many bytes one of a body takes while it is read, as buffers grow.
const bufferGrowth = 2

func (b meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 32<<10)])
	if herr := b.r.ReserveMemory(int64(n) * bufferGrowth); herr != nil {
		return 0, herr
	}
	return n, err
}

// reserveForJSON holds what values take that are decoded from JSON: a few bytes of it can make
// an element of a list, a key of a map.
func (r *Request) reserveForJSON(b []byte) error {
	elements := bytes.Count(b, []byte{','}) + bytes.Count(b, []byte{'['}) + bytes.Count(b, []byte{'{'})
	return r.ReserveMemory(int64(len(b)) + 64*int64(elements))
}
