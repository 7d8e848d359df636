package core

import (
	"context"
	"errors"
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
	// rightsInterval is how often the rights of requests and sessions are asked for again.
	rightsInterval = 2 * time.Second
	// rightsTimeout bounds one question.
	rightsTimeout = 5 * time.Second
	// rightsConcurrency is how many credentials are asked about at the same time.
	rightsConcurrency = 8
)

// credential is what a caller shows, and how.
type credential struct {
	auth   Auth
	secret string
}

// credentialOf returns what a request shows.
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

// isProviderToken reports whether a credential is a token of the identity provider.
func (c *Core) isProviderToken(cred credential) bool {
	return cred.auth == BearerAuth && c.opts.OIDC != nil && strings.Count(cred.secret, ".") == 2
}

// authenticate returns whom a credential stands for now.
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

// Rights are what a caller was let in with, for as long as a request or a session lasts.
// They are asked for again every rightsInterval, once for all that share a credential, and
// when less is left of them they end.
type Rights struct {
	core *Core
	cred credential
	who  *accounts.Principal

	lost atomic.Pointer[error] // why they ended; nil: they have not

	mu       sync.Mutex // held while onLoss runs; guards released
	released bool
	onLoss   func(why error) // called once, and not after Release
}

// Release ends the watch over the rights. onLoss does not run after it.
func (r *Rights) Release() {
	r.mu.Lock()
	r.released = true
	r.mu.Unlock()
	r.core.rightsWatch.unwatch(r)
}

// Lost returns why the rights ended, nil if they have not.
func (r *Rights) Lost() error {
	if why := r.lost.Load(); why != nil {
		return *why
	}
	return nil
}

// Expires is when the rights end at the latest; zero: never.
func (r *Rights) Expires() time.Time { return r.who.Expires }

// Reauthorize returns an error when the caller would not be let in any more. It costs a look
// into the cache of keys, or nothing for tokens of an identity provider, whose signatures
// the watch checks.
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

func (r *Rights) isExpired() bool {
	return !r.who.Expires.IsZero() && !time.Now().Before(r.who.Expires)
}

var (
	errExpired  = newRefusal(api.CodeUnauthenticated, "the key or token expired while the request was under way")
	errNarrowed = newRefusal(api.CodeForbidden, "the rights of this key were narrowed while the request was under way; ask again")
)

// whyLost tells what has become of the rights. A database that does not answer ends
// nothing: a commit needs it too.
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

// rightsNarrowed reports whether now may less than was could.
func rightsNarrowed(was, now *accounts.Principal) bool {
	if now.Org != was.Org || !now.Scopes.Has(was.Scopes) {
		return true
	}
	if now.Volumes == nil {
		return false
	}
	return was.Volumes == nil || slices.ContainsFunc(was.Volumes, func(id string) bool { return !now.Sees(id) })
}

// reportLoss tells the owner that the rights are lost.
func (r *Rights) reportLoss(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.released || !r.lost.CompareAndSwap(nil, &why) {
		return
	}
	r.onLoss(why)
}

// rightsWatcher asks about the rights that are in use.
type rightsWatcher struct {
	wake chan struct{} // asks at once

	mu           sync.Mutex // guards of
	byCredential map[credential]map[*Rights]struct{}
}

func newRightsWatcher() *rightsWatcher {
	return &rightsWatcher{wake: make(chan struct{}, 1), byCredential: map[credential]map[*Rights]struct{}{}}
}

// WatchRights begins a watch over the caller's rights that may outlast the request. Release
// must be called on them, and not by onLoss.
func (r *Request) WatchRights(onLoss func(why error)) *Rights {
	x := &Rights{core: r.Core, cred: r.credential, who: r.Caller, onLoss: onLoss}
	w := r.Core.rightsWatch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byCredential[x.cred] == nil {
		w.byCredential[x.cred] = map[*Rights]struct{}{}
	}
	w.byCredential[x.cred][x] = struct{}{}
	return x
}

func (w *rightsWatcher) unwatch(r *Rights) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byCredential[r.cred], r)
	if len(w.byCredential[r.cred]) == 0 {
		delete(w.byCredential, r.cred)
	}
}

// watchedCredentials returns those that are in use.
func (w *rightsWatcher) watchedCredentials() []credential {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]credential, 0, len(w.byCredential))
	for cred := range w.byCredential {
		list = append(list, cred)
	}
	return list
}

// rightsByCredential returns the rights that rest on a credential.
func (w *rightsWatcher) rightsByCredential(cred credential) []*Rights {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*Rights, 0, len(w.byCredential[cred]))
	for r := range w.byCredential[cred] {
		list = append(list, r)
	}
	return list
}

// RecheckRights has the watch ask now: something was revoked here.
func (c *Core) RecheckRights() {
	select {
	case c.rightsWatch.wake <- struct{}{}:
	default:
	}
}

// recheckRightsLoop asks about all rights in use until the server ends.
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

// recheckCredential asks about one credential, for all who have it.
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

// rightsKey is where a request's context has its Rights.
type rightsKey struct{}

// reauthorize returns an error when the request that ctx is of lost its rights. What is done
// for no request may be done.
func reauthorize(ctx context.Context) error {
	if r, ok := ctx.Value(rightsKey{}).(*Rights); ok {
		return r.Reauthorize(ctx)
	}
	return nil
}

// cancelOnLostRights lets the request go on for as long as its caller's rights last: when they end, its
// context does, and what waits for the client is cut off.
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

// Reauthorize returns an error when the caller would not be let in any more.
func (r *Request) Reauthorize() error { return r.rights.Reauthorize(r.Context()) }
