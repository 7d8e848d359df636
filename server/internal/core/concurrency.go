package core

import (
	"context"
	"sync"
	"time"

	"github.com/volehq/vole/internal/api"
)

// Bounds of requests of one key that are under way.
const (
	maxKeyRequests = 256
	maxKeyStreams  = 500 // streams of events
)

// maxQueueWait is how long a request waits for others to end before it is refused: many clients
// with small requests at once are ordinary.
const maxQueueWait = 5 * time.Second

// concurrencyLimiter bounds how many requests are under way at once: in all, of an organisation, and of
// a key. Those beyond wait, as far as there is room for that.
type concurrencyLimiter struct {
	maxWait   time.Duration
	maxQueued int // of all; of an organisation half as many

	mu          sync.Mutex // guards what follows
	counts      map[string]int
	queuedByOrg map[string]int   // by organisation
	queue       []*queuedRequest // in the order in which they came
}

// concurrencyBound is the most requests that have a name in common.
type concurrencyBound struct {
	subject string
	limit   int
	refusal *Error // when there are as many
}

type queuedRequest struct {
	bounds  []concurrencyBound
	org     string
	granted chan struct{} // closed with mu held
}

func newConcurrencyLimiter(wait time.Duration, mostWaiting int) *concurrencyLimiter {
	return &concurrencyLimiter{maxWait: wait, maxQueued: mostWaiting, counts: map[string]int{}, queuedByOrg: map[string]int{}}
}

// acquireSlot counts a request, if need be after waiting for others to end. leave must be called
// unless there is an error.
func (g *concurrencyLimiter) acquireSlot(ctx context.Context, org string, wait bool, bounds ...concurrencyBound) (leave func(), err error) {
	g.mu.Lock()
	full := g.reachedBound(bounds)
	if full == nil { // who waits has other bounds, which are reached
		g.addToCounts(bounds, 1)
		g.mu.Unlock()
		return func() { g.releaseSlot(bounds) }, nil
	}
	if !wait || g.queuedByOrg[org] >= g.maxQueued/2 || len(g.queue) >= g.maxQueued {
		g.mu.Unlock()
		return nil, full
	}
	w := &queuedRequest{bounds: bounds, org: org, granted: make(chan struct{})}
	g.queue = append(g.queue, w)
	g.queuedByOrg[org]++
	g.mu.Unlock()
	timer := time.NewTimer(g.maxWait)
	defer timer.Stop()
	select {
	case <-w.granted:
		return func() { g.releaseSlot(bounds) }, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return g.leaveQueue(ctx, w)
}

// leaveQueue takes a waiter out of the queue, unless its turn came at the last moment.
func (g *concurrencyLimiter) leaveQueue(ctx context.Context, w *queuedRequest) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range g.queue {
		if x == w {
			g.removeQueued(i)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if full := g.reachedBound(w.bounds); full != nil {
				return nil, full
			}
			g.addToCounts(w.bounds, 1)
			break
		}
	}
	return func() { g.releaseSlot(w.bounds) }, nil
}

func (g *concurrencyLimiter) releaseSlot(bounds []concurrencyBound) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addToCounts(bounds, -1)
	g.admitQueued()
}

// admitQueued lets those in who fit, in the order in which they came. The caller holds mu, here
// and below.
func (g *concurrencyLimiter) admitQueued() {
	for i := 0; i < len(g.queue); {
		w := g.queue[i]
		if g.reachedBound(w.bounds) != nil {
			i++
			continue
		}
		g.addToCounts(w.bounds, 1)
		g.removeQueued(i)
		close(w.granted)
	}
}

func (g *concurrencyLimiter) removeQueued(i int) {
	w := g.queue[i]
	g.queue = append(g.queue[:i], g.queue[i+1:]...)
	if g.queuedByOrg[w.org]--; g.queuedByOrg[w.org] == 0 {
		delete(g.queuedByOrg, w.org)
	}
}

// reachedBound returns the error of the first bound that is reached.
func (g *concurrencyLimiter) reachedBound(bounds []concurrencyBound) *Error {
	for _, b := range bounds {
		if g.counts[b.subject] >= b.limit {
			return b.refusal
		}
	}
	return nil
}

func (g *concurrencyLimiter) addToCounts(bounds []concurrencyBound, n int) {
	for _, b := range bounds {
		if g.counts[b.subject] += n; g.counts[b.subject] == 0 {
			delete(g.counts, b.subject)
		}
	}
}

var errServerBusy = &Error{Code: api.CodeUnavailable, Retry: time.Second,
	Message: "the server has as many requests under way as it may; try again"}

var errKeyBusy = &Error{Code: api.CodeRateLimited, Retry: time.Second,
	Message: "too many requests with this key are under way; wait for some of them to end"}
