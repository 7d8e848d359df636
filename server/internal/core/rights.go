package core

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
)

const (
	// rightsInterval is how often the rights of requests and sessions are checked again. Two
	// seconds are also how long accounts caches a key.
	rightsInterval = 2 * time.Second
	// rightsTimeout bounds one check.
	rightsTimeout = 5 * time.Second
	// rightsConcurrency is how many credentials are checked at the same time.
	rightsConcurrency = 8
)

// credential is a secret and the way the request carried it. It is comparable: the rights of all
// requests with the same credential are checked together.
type credential struct {
	auth   Auth
	secret string
}

// credentialOf extracts the credential of a request as the route's Auth demands.
func credentialOf(r *http.Request, how Auth) (credential, error) {
	if how == HeaderAuth {
		return credential{how, r.Header.Get("X-API-Key")}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return credential{}, noCredential{}
	}
	return credential{how, token}, nil
}

// isProviderToken reports whether a credential is a JWT of the identity provider: keys have no
// dots, JWTs have two.
func (c *Core) isProviderToken(cred credential) bool {
	return cred.auth == BearerAuth && c.opts.OIDC != nil && strings.Count(cred.secret, ".") == 2
}

// authenticate returns the principal that a credential stands for now.
func (c *Core) authenticate(ctx context.Context, cred credential) (*accounts.Principal, error) {
	switch {
	case cred.auth == VolumeAuth:
		who, _, err := c.opts.Accounts.AuthenticateVolume(ctx, cred.secret)
		return who, err
	case c.isProviderToken(cred):
		return c.opts.OIDC.Verify(ctx, cred.secret)
	}
	return c.opts.Accounts.Authenticate(ctx, cred.secret)
}

// Rights are the rights that a request or session was admitted with. The watch of the server
// asks for them again every rightsInterval, once for all that share a credential, and when they
// have shrunk or ended it calls onLoss.
//
// Locks: mu is held while onLoss runs, so onLoss must not call Release.
type Rights struct {
	core *Core
	cred credential
	who  *accounts.Principal

	lost atomic.Pointer[error] // why they ended; nil while they last

	mu       sync.Mutex // held while onLoss runs; guards released
	released bool
	onLoss   func(why error) // called once, and not after Release
}

// Release ends the watch. When it returns, onLoss neither runs nor will run.
func (r *Rights) Release() {
	r.mu.Lock()
	r.released = true
	r.mu.Unlock()
	r.core.rightsWatch.unwatch(r)
}

// Lost returns why the rights ended, or nil.
func (r *Rights) Lost() error {
	if why := r.lost.Load(); why != nil {
		return *why
	}
	return nil
}

// Expires returns when the rights end at the latest, zero for never.
func (r *Rights) Expires() time.Time { return r.who.Expires }

// Reauthorize returns an error if the caller would no longer be admitted. It costs a lookup in
// the cache of keys. Tokens of an identity provider are not verified again here (a signature
// costs more); the watch does that.
func (r *Rights) Reauthorize(ctx context.Context) error {
	if why := r.Lost(); why != nil {
		return why
	}
	if r.isExpired() {
		return errExpired
	}
	if r.core.isProviderToken(r.cred) {
		return nil
	}
	return r.whyLost(r.core.authenticate(ctx, r.cred))
}

// isExpired reports whether the credential has passed its expiry.
func (r *Rights) isExpired() bool {
	return !r.who.Expires.IsZero() && !time.Now().Before(r.who.Expires)
}

var (
	errExpired  = newRefusal(api.CodeUnauthenticated, "the key or token expired during the request")
	errNarrowed = newRefusal(api.CodeForbidden, "the rights of this key were reduced during the request; repeat it")
)

// whyLost compares the result of a new authentication with the rights at admission and returns
// why they are lost, nil if they are not. A database that does not answer ends nothing: no
// change can commit without it either.
func (r *Rights) whyLost(now *accounts.Principal, err error) error {
	switch {
	case errors.Is(err, accounts.ErrUnauthenticated):
		return err
	case r.isExpired():
		return errExpired
	case err == nil && rightsNarrowed(r.who, now):
		return errNarrowed
	}
	return nil
}

// rightsNarrowed reports whether now lacks a scope or a volume that was had, or belongs to
// another organisation.
func rightsNarrowed(was, now *accounts.Principal) bool {
	if now.Org != was.Org || !now.Scopes.Has(was.Scopes) {
		return true
	}
	if now.Volumes == nil {
		return false
	}
	return was.Volumes == nil || slices.ContainsFunc(was.Volumes, func(id string) bool { return !now.Sees(id) })
}

// reportLoss calls onLoss, once and not after Release.
func (r *Rights) reportLoss(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.released || !r.lost.CompareAndSwap(nil, &why) {
		return
	}
	r.onLoss(why)
}

// rightsWatcher holds the rights in use, by credential. Core.recheckRightsLoop checks them.
type rightsWatcher struct {
	wake chan struct{} // has room for one: starts a round now

	mu           sync.Mutex // guards of
	byCredential map[credential]map[*Rights]struct{}
}

func newRightsWatcher() *rightsWatcher {
	return &rightsWatcher{wake: make(chan struct{}, 1), byCredential: map[credential]map[*Rights]struct{}{}}
}

// WatchRights begins to watch the caller's rights, perhaps beyond the end of the request. The
// caller must call Release on them, but not from onLoss.
func (r *Request) WatchRights(onLoss func(why error)) *Rights {
	rights := &Rights{core: r.Core, cred: r.credential, who: r.Caller, onLoss: onLoss}
	w := r.Core.rightsWatch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byCredential[rights.cred] == nil {
		w.byCredential[rights.cred] = map[*Rights]struct{}{}
	}
	w.byCredential[rights.cred][rights] = struct{}{}
	return rights
}

// unwatch removes rights from the table.
func (w *rightsWatcher) unwatch(r *Rights) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byCredential[r.cred], r)
	if len(w.byCredential[r.cred]) == 0 {
		delete(w.byCredential, r.cred)
	}
}

// watchedCredentials returns a snapshot of the credentials in use.
func (w *rightsWatcher) watchedCredentials() []credential {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.byCredential))
}

// rightsByCredential returns a snapshot of the rights that rest on a credential.
func (w *rightsWatcher) rightsByCredential(cred credential) []*Rights {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.byCredential[cred]))
}

// RecheckRights makes the watch check now instead of at its next tick. Handlers call it after a
// revocation.
func (c *Core) RecheckRights() {
	select {
	case c.rightsWatch.wake <- struct{}{}:
	default:
	}
}

// recheckRightsLoop checks all rights in use every rightsInterval until the server ends, at most
// rightsConcurrency credentials at once. It owns the goroutines of one round and waits for them.
func (c *Core) recheckRightsLoop() {
	tick := time.NewTicker(rightsInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.lifetime.Done():
			return
		case <-tick.C:
		case <-c.rightsWatch.wake:
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, rightsConcurrency)
		for _, cred := range c.rightsWatch.watchedCredentials() {
			slots <- struct{}{}
			wg.Go(func() {
				c.recheckCredential(cred)
				<-slots
			})
		}
		wg.Wait()
	}
}

// recheckCredential authenticates one credential again and tells all that hold rights by it.
func (c *Core) recheckCredential(cred credential) {
	ctx, cancel := context.WithTimeout(c.lifetime, rightsTimeout)
	defer cancel()
	now, err := c.authenticate(ctx, cred)
	for _, r := range c.rightsWatch.rightsByCredential(cred) {
		if why := r.whyLost(now, err); why != nil {
			r.reportLoss(why)
		}
	}
}

// rightsKey is the key under which the context of a request has its Rights.
type rightsKey struct{}

// reauthorize returns an error if the request that ctx belongs to has lost its rights. Work that
// belongs to no request, such as sweeps, is always allowed.
func reauthorize(ctx context.Context) error {
	if r, ok := ctx.Value(rightsKey{}).(*Rights); ok {
		return r.Reauthorize(ctx)
	}
	return nil
}

// cancelOnLostRights ties the request to the rights of its caller: when they end, its context is
// canceled and its connection stops in both directions. release ends the watch before the
// handler returns, since the connection is not the request's after that.
func (r *Request) cancelOnLostRights(a *pacedResponse) (release func()) {
	ctx, cancel := context.WithCancelCause(r.Context())
	r.rights = r.WatchRights(func(why error) {
		cancel(why)
		a.body.stopReading()
		a.stopSending()
	})
	r.Request = r.WithContext(context.WithValue(ctx, rightsKey{}, r.rights))
	return func() {
		r.rights.Release()
		cancel(nil)
	}
}

// Reauthorize returns an error if the caller would no longer be admitted.
func (r *Request) Reauthorize() error { return r.rights.Reauthorize(r.Context()) }
