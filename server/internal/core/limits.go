package core

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits bounds how many requests a key makes.
type limits struct {
	rate  rate.Limit
	burst int

	mu sync.Mutex // guards of
	of map[string]*limit
}

type limit struct {
	*rate.Limiter
	used time.Time
}

func newLimits(perSecond float64, burst int) *limits {
	if perSecond > 0 && burst <= 0 {
		burst = max(1, int(2*perSecond))
	}
	return &limits{rate: rate.Limit(perSecond), burst: burst, of: map[string]*limit{}}
}

// take reports whether who may make one more request now, and else when.
func (l *limits) take(who string) (wait time.Duration, ok bool) {
	if l.rate <= 0 {
		return 0, true
	}
	now := time.Now()
	l.mu.Lock()
	lim := l.of[who]
	if lim == nil {
		lim = &limit{Limiter: rate.NewLimiter(l.rate, l.burst)}
		l.of[who] = lim
	}
	lim.used = now
	l.mu.Unlock()
	r := lim.ReserveN(now, 1)
	wait = r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait, wait == 0
}

// forget drops the limits of keys that have not been used for so long that their
// allowance is whole again.
func (l *limits) forget(now time.Time) {
	if l.rate <= 0 {
		return
	}
	whole := time.Duration(float64(l.burst)/float64(l.rate)*float64(time.Second)) + time.Second
	l.mu.Lock()
	defer l.mu.Unlock()
	for who, lim := range l.of {
		if now.Sub(lim.used) > whole {
			delete(l.of, who)
		}
	}
}
