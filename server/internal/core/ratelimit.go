package core

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// rateLimiter bounds how many requests per second a key makes, by a token bucket for each key.
type rateLimiter struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex // guards of
	byKey map[string]*keyLimiter
}

// keyLimiter is the token bucket of one key.
type keyLimiter struct {
	*rate.Limiter
	lastUsed time.Time
}

// newRateLimiter returns a limiter; perSecond 0 means no limit. The default burst is two
// seconds' worth.
func newRateLimiter(perSecond float64, burst int) *rateLimiter {
	if perSecond > 0 && burst <= 0 {
		burst = max(1, int(2*perSecond))
	}
	return &rateLimiter{rate: rate.Limit(perSecond), burst: burst, byKey: map[string]*keyLimiter{}}
}

// allowRequest takes a token for a request of key who, or returns after what time there will be
// one.
func (l *rateLimiter) allowRequest(who string) (wait time.Duration, ok bool) {
	if l.rate <= 0 {
		return 0, true
	}
	now := time.Now()
	l.mu.Lock()
	lim := l.byKey[who]
	if lim == nil {
		lim = &keyLimiter{Limiter: rate.NewLimiter(l.rate, l.burst)}
		l.byKey[who] = lim
	}
	lim.lastUsed = now
	l.mu.Unlock()
	r := lim.ReserveN(now, 1)
	wait = r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait, wait == 0
}

// forgetIdleKeys drops the buckets that must be full again.
func (l *rateLimiter) forgetIdleKeys(now time.Time) {
	if l.rate <= 0 {
		return
	}
	whole := time.Duration(float64(l.burst)/float64(l.rate)*float64(time.Second)) + time.Second
	l.mu.Lock()
	defer l.mu.Unlock()
	for who, lim := range l.byKey {
		if now.Sub(lim.lastUsed) > whole {
			delete(l.byKey, who)
		}
	}
}
