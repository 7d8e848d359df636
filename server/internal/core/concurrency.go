package core

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/volehq/vole/internal/api"
)

// Bounds of concurrent requests of one key.
const (
	maxKeyRequests = 256
	maxKeyStreams  = 500 // streams of events
)

// maxQueueWait is how long a request waits for a slot before it is refused. Many clients with
// small requests at once are ordinary, so short waits are not errors.
const maxQueueWait = 5 * time.Second

// concurrencyLimiter bounds how many requests run at once: on the server, of an organisation,
// and of a key. Further requests wait in one queue, as far as their clients and the memory of
// the server allow it.
type concurrencyLimiter struct {
	maxWait   time.Duration
	maxQueued int // of all; of an organisation half as many

	mu          sync.Mutex // guards what follows
	counts      map[string]int
	queuedByOrg map[string]int   // by organisation
	queue       []*queuedRequest // in order of arrival
}

// concurrencyBound is one limit that a request counts toward. Requests with the same subject
// share it.
type concurrencyBound struct {
	subject string
	limit   int
	refusal *Error // the error when the limit is reached
}

// queuedRequest waits for all of its bounds to have room.
type queuedRequest struct {
	bounds  []concurrencyBound
	org     string
	granted chan struct{} // closed, with mu held, when the slot is counted
}

func newConcurrencyLimiter(wait time.Duration, mostWaiting int) *concurrencyLimiter {
	return &concurrencyLimiter{maxWait: wait, maxQueued: mostWaiting, counts: map[string]int{}, queuedByOrg: map[string]int{}}
}

// acquireSlot counts a request toward all of its bounds, waiting if wait allows it. release must
// be called unless there is an error.
func (g *concurrencyLimiter) acquireSlot(ctx context.Context, org string, wait bool, bounds ...concurrencyBound) (release func(), err error) {
	g.mu.Lock()
	full := g.reachedBound(bounds)
	if full == nil { // nobody in the queue is overtaken: those wait for bounds of their own
		g.addToCounts(bounds, 1)
		g.mu.Unlock()
		return func() { g.releaseSlot(bounds) }, nil
	}
	if !wait || g.queuedByOrg[org] >= g.maxQueued/2 || len(g.queue) >= g.maxQueued {
		g.mu.Unlock()
		return nil, full
	}
	queued := &queuedRequest{bounds: bounds, org: org, granted: make(chan struct{})}
	g.queue = append(g.queue, queued)
	g.queuedByOrg[org]++
	g.mu.Unlock()
	timer := time.NewTimer(g.maxWait)
	defer timer.Stop()
	select {
	case <-queued.granted:
		return func() { g.releaseSlot(bounds) }, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return g.leaveQueue(ctx, queued)
}

// leaveQueue removes a request whose wait has ended. If it was granted a slot at that very
// moment it keeps it.
func (g *concurrencyLimiter) leaveQueue(ctx context.Context, queued *queuedRequest) (release func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, queued); i >= 0 {
		g.removeQueued(i)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if full := g.reachedBound(queued.bounds); full != nil {
			return nil, full
		}
		g.addToCounts(queued.bounds, 1)
	}
	return func() { g.releaseSlot(queued.bounds) }, nil
}

// releaseSlot ends the counting of a request and admits those that now fit.
func (g *concurrencyLimiter) releaseSlot(bounds []concurrencyBound) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addToCounts(bounds, -1)
	g.admitQueued()
}

// admitQueued grants slots in the order of arrival, skipping requests whose own bounds are still
// reached. The caller holds mu, here and below.
func (g *concurrencyLimiter) admitQueued() {
	for i := 0; i < len(g.queue); {
		queued := g.queue[i]
		if g.reachedBound(queued.bounds) != nil {
			i++
			continue
		}
		g.addToCounts(queued.bounds, 1)
		g.removeQueued(i)
		close(queued.granted)
	}
}

// removeQueued takes the ith request out of the queue.
func (g *concurrencyLimiter) removeQueued(i int) {
	queued := g.queue[i]
	g.queue = append(g.queue[:i], g.queue[i+1:]...)
	if g.queuedByOrg[queued.org]--; g.queuedByOrg[queued.org] == 0 {
		delete(g.queuedByOrg, queued.org)
	}
}

// reachedBound returns the refusal of the first bound without room, nil if all have room.
func (g *concurrencyLimiter) reachedBound(bounds []concurrencyBound) *Error {
	for _, b := range bounds {
		if g.counts[b.subject] >= b.limit {
			return b.refusal
		}
	}
	return nil
}

// addToCounts adds n to the counts of all bounds.
func (g *concurrencyLimiter) addToCounts(bounds []concurrencyBound, n int) {
	for _, b := range bounds {
		if g.counts[b.subject] += n; g.counts[b.subject] == 0 {
			delete(g.counts, b.subject)
		}
	}
}

var errServerBusy = &Error{Code: api.CodeUnavailable, Retry: time.Second,
	Message: "the server is at its limit of concurrent requests; try again"}

var errKeyBusy = &Error{Code: api.CodeRateLimited, Retry: time.Second,
	Message: "too many concurrent requests with this key or in its organisation; wait until some have ended"}
