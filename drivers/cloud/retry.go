package cloud

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// sendRetrying makes a request and retries it while that is safe and c's patience lasts. It
// returns only successful responses.
//
// A retry is safe if the request certainly had no effect, or if it is repeatable. Any other is
// retried only with an idempotency key, and only at the very process that got the first try
// (If-Instance): another one does not know what became of it. If that cannot be known at all,
// the error says so (outcomeUnknown).
func (b *Backend) sendRetrying(ctx context.Context, c call) (*http.Response, error) {
	key := ""
	if c.keyed {
		key = uuid.NewString()
		c.header = setHeader(c.header, api.HeaderIdempotencyKey, key)
	}
	if c.expectContinue {
		c.header = setHeader(c.header, "Expect", "100-continue")
	}
	mayBeDone := false // an earlier try may have had its effect
	for try := newBackoff(cmp.Or(c.patience, b.opts.Patience)); ; {
		once := newUploadSource(c.stream)
		res, err := b.roundTrip(ctx, c, once)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return b.resolveCanceled(ctx, c, key)
		}
		if errors.As(err, new(*tls.CertificateVerificationError)) || errors.Is(err, http.ErrSchemeMismatch) {
			return nil, err // waiting changes neither trust nor protocol
		}
		var r *responseError
		wait := time.Duration(0)
		if errors.As(err, &r) {
			if retriedByServer(r.code) || r.status != http.StatusTooManyRequests && r.status != http.StatusServiceUnavailable && r.status != http.StatusBadGateway {
				return nil, err
			}
			wait = r.retryAfter
		}
		// Bytes that were read from a stream are gone, even if the server refused them.
		if c.stream != nil && (!once.preventReading() || !hadNoEffect(err)) {
			return nil, err
		}
		if !c.repeatable && !hadNoEffect(err) {
			// Only the process that got the request knows its outcome.
			had := b.onlyInstance(c.server)
			if !c.keyed || had == "" {
				return nil, outcomeUnknown(err)
			}
			c.header = setHeader(c.header, api.HeaderIfInstance, had)
			mayBeDone = true
		}
		if c.server != nil && hadNoEffect(err) {
			try.shortenTo(unreachablePatience) // other servers may serve the same volumes
		}
		if mayBeDone {
			err = outcomeUnknown(err) // even if this try certainly had no effect
		}
		if err := try.waitBeforeRetry(ctx, err, wait); err != nil {
			return nil, err
		}
	}
}

// resolveCanceled finds out the outcome of a request whose context ended: a change that is
// reported as canceled must not take effect later. It asks the server to cancel the key; if the
// change was already made, it fetches the response again and returns that.
func (b *Backend) resolveCanceled(ctx context.Context, c call, key string) (*http.Response, error) {
	if key == "" {
		return nil, ctx.Err()
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	var out api.Outcome
	end := call{method: "POST", path: "/cancel", query: url.Values{"key": {key}}, server: c.server, stream: http.NoBody}
	if err := b.sendJSON(soon, end, nil, &out); err != nil || !out.Done {
		return nil, ctx.Err()
	}
	// The change was made before it could be canceled. The server repeats its response.
	c.stream, c.header = nil, c.header.Clone()
	c.header.Del("Expect")
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	res, err := b.roundTrip(late, c, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	res.Body = &cancelBody{res.Body, cancel}
	return res, nil
}

// cancelTimeout bounds each of the two requests of resolveCanceled.
const cancelTimeout = 3 * time.Second

// cancelBody is a response body that releases the context of its request when closed.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelBody) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// outcomeUnknown wraps the error of a change that may or may not have been made.
func outcomeUnknown(err error) error {
	return driver.Errorf(driver.ErrUnavailable, "the connection broke, and whether the server made the change is not known; check, and repeat it if need be: %v", err)
}

// backoff spaces the retries of one request: pauses with jitter double from 50 ms to 2 s, until
// the deadline.
type backoff struct {
	deadline  time.Time
	pause     time.Duration
	shortened bool // shortenTo was called
}

func newBackoff(patience time.Duration) *backoff {
	return &backoff{deadline: time.Now().Add(patience), pause: 50 * time.Millisecond}
}

// unreachablePatience is how long a server is retried that cannot be reached at the address it
// advertised. After that withRemote begins a session at another server.
const unreachablePatience = 2 * time.Second

// shortenTo moves the deadline to d from now, if that is earlier. Only the first call counts.
func (t *backoff) shortenTo(d time.Duration) {
	if end := time.Now().Add(d); !t.shortened && end.Before(t.deadline) {
		t.deadline = end
	}
	t.shortened = true
}

// waitBeforeRetry pauses before the next try, at least for atLeast. It returns err instead if the
// deadline would pass, and the error of ctx if that ends.
func (t *backoff) waitBeforeRetry(ctx context.Context, err error, atLeast time.Duration) error {
	pause := max(atLeast, t.pause/2+rand.N(t.pause))
	t.pause = min(2*t.pause, 2*time.Second)
	if time.Now().Add(pause).After(t.deadline) {
		return err
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		// The caller that set the deadline should learn what the time was spent on.
		return fmt.Errorf("%w: %v", ctx.Err(), err)
	case <-timer.C:
		return nil
	}
}

// recordInstance notes which server process responded at an address; nil is Options.URL.
func (b *Backend) recordInstance(at *url.URL, instance string) {
	key := ""
	if at != nil {
		key = at.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if instance == "" {
		return
	}
	if b.recentInstances == nil {
		b.recentInstances = map[string][]string{}
	}
	// The last two are enough for onlyInstance to see that there are several.
	if list := b.recentInstances[key]; len(list) == 0 || list[len(list)-1] != instance {
		b.recentInstances[key] = append(list[max(0, len(list)-1):], instance)
	}
}

// onlyInstance returns the only process that has ever responded at an address. It returns "" if
// there were several, as behind a load balancer or after a restart.
func (b *Backend) onlyInstance(at *url.URL) string {
	key := ""
	if at != nil {
		key = at.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if list := b.recentInstances[key]; len(list) == 1 {
		return list[0]
	}
	return ""
}
