package core

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Bounds of requests of one key that are under way.
const (
	mostRequests = 256
	mostEndless  = 500 // streams of events
)

// gateWait is how long a request waits for others to end before it is refused: many clients
// with small requests at once are ordinary.
const gateWait = 5 * time.Second

// gates bounds how many requests are under way at once: in all, of an organisation, and of
// a key. Those beyond wait, as far as there is room for that.
type gates struct {
	wait        time.Duration
	mostWaiting int // of all; of an organisation half as many

	mu      sync.Mutex // guards what follows
	of      map[string]int
	waiting map[string]int // by organisation
	queue   []*gateWaiter  // in the order in which they came
}

// gateBound is the most requests that have a name in common.
type gateBound struct {
	who  string
	most int
	full *Error // when there are as many
}

type gateWaiter struct {
	bounds  []gateBound
	org     string
	granted chan struct{} // closed with mu held
}

func newGates(wait time.Duration, mostWaiting int) *gates {
	return &gates{wait: wait, mostWaiting: mostWaiting, of: map[string]int{}, waiting: map[string]int{}}
}

// enter counts a request, if need be after waiting for others to end. leave must be called
// unless there is an error.
func (g *gates) enter(ctx context.Context, org string, wait bool, bounds ...gateBound) (leave func(), err error) {
	g.mu.Lock()
	full := g.full(bounds)
	if full == nil { // who waits has other bounds, which are reached
		g.add(bounds, 1)
		g.mu.Unlock()
		return func() { g.leave(bounds) }, nil
	}
	if !wait || g.waiting[org] >= g.mostWaiting/2 || len(g.queue) >= g.mostWaiting {
		g.mu.Unlock()
		return nil, full
	}
	w := &gateWaiter{bounds: bounds, org: org, granted: make(chan struct{})}
	g.queue = append(g.queue, w)
	g.waiting[org]++
	g.mu.Unlock()
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case <-w.granted:
		return func() { g.leave(bounds) }, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return g.giveUp(ctx, w)
}

// giveUp takes a waiter out of the queue, unless its turn came at the last moment.
func (g *gates) giveUp(ctx context.Context, w *gateWaiter) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range g.queue {
		if x == w {
			g.dequeue(i)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if full := g.full(w.bounds); full != nil {
				return nil, full
			}
			g.add(w.bounds, 1)
			break
		}
	}
	return func() { g.leave(w.bounds) }, nil
}

func (g *gates) leave(bounds []gateBound) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.add(bounds, -1)
	g.grant()
}

// grant lets those in who fit, in the order in which they came. The caller holds mu, here
// and below.
func (g *gates) grant() {
	for i := 0; i < len(g.queue); {
		w := g.queue[i]
		if g.full(w.bounds) != nil {
			i++
			continue
		}
		g.add(w.bounds, 1)
		g.dequeue(i)
		close(w.granted)
	}
}

func (g *gates) dequeue(i int) {
	w := g.queue[i]
	g.queue = append(g.queue[:i], g.queue[i+1:]...)
	if g.waiting[w.org]--; g.waiting[w.org] == 0 {
		delete(g.waiting, w.org)
	}
}

// full returns the error of the first bound that is reached.
func (g *gates) full(bounds []gateBound) *Error {
	for _, b := range bounds {
		if g.of[b.who] >= b.most {
			return b.full
		}
	}
	return nil
}

func (g *gates) add(bounds []gateBound, n int) {
	for _, b := range bounds {
		if g.of[b.who] += n; g.of[b.who] == 0 {
			delete(g.of, b.who)
		}
	}
}

var errAllAtOnce = &Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Retry: time.Second,
	Message: "the server has as many requests under way as it may; try again"}

var errAtOnce = &Error{Status: http.StatusTooManyRequests, Code: "rate_limited", Retry: time.Second,
	Message: "too many requests with this key are under way; wait for some of them to end"}
