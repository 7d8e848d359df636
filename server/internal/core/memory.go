package core

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"time"

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

	// arrivalsPart of it is for requests that count in no organisation's budget.
	arrivalsPart = 16

	// waitingPart of it, in bytes, is for each request that waits for others to end.
	waitingPart = 512 << 10

	memoryWait = 5 * time.Second // that a request waits for room
)

// NewBudget returns the budget of a server that may take that many bytes of memory.
func NewBudget(memory int64) *budget.Budget {
	return budget.New(memory/4, memory/8, memoryWait)
}

// ReceiveWindow is how many bytes of a body HTTP/2 takes before they are read, of each
// connection: a thousand of them are a quarter of the memory.
func ReceiveWindow(memory int64) int { return int(min(max(memory>>12, 64<<10), 1<<20)) }

// Busy is how many goroutines a server has at most when it has only requests that its
// budgets let it have.
func Busy(memory int64) int64 { return memory >> 15 }

const (
	// requestBase is what a request takes by itself, in bytes: goroutine, header, small
	// body and small answer.
	requestBase = 16 << 10
	// requestSmall is how much of body and answer that covers.
	requestSmall = 8 << 10
	// streamBase is the buffer that content of files moves through.
	streamBase = copyLeast + 16<<10
)

// held is the memory of one request.
type held struct {
	share *budget.Share

	mu   sync.Mutex // guards what follows
	n    int64
	free int64 // that was taken and is not used yet
}

// take waits for n bytes more, which the request holds to its end.
func (h *held) take(ctx context.Context, n int64) error {
	if n = h.useFree(n); n == 0 {
		return nil
	}
	if err := h.share.Acquire(ctx, budget.Buffer, n); err != nil {
		return err
	}
	h.add(n)
	return nil
}

// try is take for what can be done without.
func (h *held) try(n int64) bool {
	if !h.share.Try(budget.Buffer, n) {
		return false
	}
	h.add(n)
	return true
}

func (h *held) useFree(n int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	use := min(n, h.free)
	h.free -= use
	return n - use
}

func (h *held) add(n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n += n
}

// give returns n bytes before the request's end.
func (h *held) give(n int64) {
	h.add(-n)
	h.share.Release(n)
}

func (h *held) end() {
	h.mu.Lock()
	n := h.n
	h.n = 0
	h.mu.Unlock()
	h.share.Release(n)
}

// Hold waits for room for n bytes more of what the request holds in memory, to its end.
// The error is for the client: there was none for a while.
func (r *Request) Hold(n int64) error { return r.held.take(r.Context(), n) }

// TryHold is Hold for what can be done without: it does not wait.
func (r *Request) TryHold(n int64) bool { return r.held.try(n) }

// Lend waits for room for n bytes that the request holds until it calls release.
func (r *Request) Lend(n int64) (release func(), err error) {
	if err := r.held.share.Acquire(r.Context(), budget.Buffer, n); err != nil {
		return nil, err
	}
	return func() { r.held.share.Release(n) }, nil
}

// Share is what the caller's organisation has of the server's memory.
func (r *Request) Share() *budget.Share { return r.held.share }

// admitMemory takes what a request needs to begin with. One that has a body does not wait:
// HTTP/2 would hold what the client sends meanwhile.
func (c *Core) admitMemory(r *Request, rt *Route) (*held, error) {
	h := &held{share: c.opts.Budget.Share(r.Who.Org), free: requestSmall}
	class, n := budget.Small, requestSize(r.Request)
	body := r.ContentLength != 0
	if rt.Stream {
		class = budget.Stream
		n += streamBase
	}
	if h.share.Try(class, n) {
		h.n = n
		return h, nil
	}
	err := h.share.Refusal(class, n)
	if !body {
		err = h.share.Acquire(r.Context(), class, n)
	}
	if err == nil {
		h.n = n
	}
	return h, err
}

// noRoom is how a lack of memory appears to clients.
func noRoom(e *budget.Error) *Error {
	x := &Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: e.Error(), Retry: budget.Retry}
	if e.Own {
		x.Status, x.Code = http.StatusTooManyRequests, "rate_limited"
	}
	return x
}

// meteredBody is a body that is read into memory: what arrives is held.
type meteredBody struct {
	io.ReadCloser
	r *Request
}

// memoryOfBody is how many bytes one of a body takes while it is read, as buffers grow.
const memoryOfBody = 2

func (b meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 32<<10)])
	if herr := b.r.Hold(int64(n) * memoryOfBody); herr != nil {
		return 0, herr
	}
	return n, err
}

// holdJSON holds what values take that are decoded from JSON: a few bytes of it can make
// an element of a list, a key of a map.
func (r *Request) holdJSON(b []byte) error {
	elements := bytes.Count(b, []byte{','}) + bytes.Count(b, []byte{'['}) + bytes.Count(b, []byte{'{'})
	return r.Hold(int64(len(b)) + 64*int64(elements))
}
