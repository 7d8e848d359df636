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

	"github.com/volehq/vole/server/internal/accounts"
)

const (
	// rightsEvery is how often the rights of requests and sessions are asked for again.
	rightsEvery = 2 * time.Second
	// rightsTime bounds one question.
	rightsTime = 5 * time.Second
	// rightsAtOnce is how many credentials are asked about at the same time.
	rightsAtOnce = 8
)

// credential is what a caller shows, and how.
type credential struct {
	how    Auth
	secret string
}

// credentialOf returns what a request shows.
func credentialOf(r *http.Request, how Auth) (credential, error) {
	if how == HeaderAuth {
		return credential{how, r.Header.Get("X-API-Key")}, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return credential{}, unauthenticated{}
	}
	return credential{how, token}, nil
}

// issued reports whether a credential is a token of the identity provider.
func (c *Core) issued(cred credential) bool {
	return cred.how == BearerAuth && c.opts.OIDC != nil && strings.Count(cred.secret, ".") == 2
}

// authenticate returns whom a credential stands for now.
func (c *Core) authenticate(ctx context.Context, cred credential) (*accounts.Principal, error) {
	switch {
	case cred.how == VolumeAuth:
		who, _, err := c.opts.Accounts.AuthenticateVolume(ctx, cred.secret)
		return who, err
	case c.issued(cred):
		return c.opts.OIDC.Verify(ctx, cred.secret)
	}
	return c.opts.Accounts.Authenticate(ctx, cred.secret)
}

// Rights are what a caller was let in with, for as long as a request or a session lasts.
// They are asked for again every rightsEvery, once for all that share a credential, and
// when less is left of them they end.
type Rights struct {
	c    *Core
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
	r.c.rights.remove(r)
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

// Still returns an error when the caller would not be let in any more. It costs a look
// into the cache of keys, or nothing for tokens of an identity provider, whose signatures
// the watch checks.
func (r *Rights) Still(ctx context.Context) error {
	if why := r.Lost(); why != nil {
		return why
	}
	if r.expired() {
		return errExpired
	}
	if r.c.issued(r.cred) {
		return nil
	}
	return r.compare(r.c.authenticate(ctx, r.cred))
}

func (r *Rights) expired() bool {
	return !r.who.Expires.IsZero() && !time.Now().Before(r.who.Expires)
}

var (
	errExpired  = refusal(http.StatusUnauthorized, "unauthenticated", "the key or token expired while the request was under way")
	errNarrowed = refusal(http.StatusForbidden, "forbidden", "the rights of this key were narrowed while the request was under way; ask again")
)

// compare tells what has become of the rights. A database that does not answer ends
// nothing: a commit needs it too.
func (r *Rights) compare(now *accounts.Principal, err error) error {
	switch {
	case errors.Is(err, accounts.ErrUnauthenticated):
		return err
	case r.expired():
		return errExpired
	case err == nil && narrowed(r.who, now):
		return errNarrowed
	}
	return nil
}

// narrowed reports whether now may less than was could.
func narrowed(was, now *accounts.Principal) bool {
	if now.Org != was.Org || !now.Scopes.Has(was.Scopes) {
		return true
	}
	if now.Volumes == nil {
		return false
	}
	return was.Volumes == nil || slices.ContainsFunc(was.Volumes, func(id string) bool { return !now.Sees(id) })
}

// end tells the owner that the rights are lost.
func (r *Rights) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.released || !r.lost.CompareAndSwap(nil, &why) {
		return
	}
	r.onLoss(why)
}

// rightsWatch asks about the rights that are in use.
type rightsWatch struct {
	wake chan struct{} // asks at once

	mu sync.Mutex // guards of
	of map[credential]map[*Rights]struct{}
}

func newRightsWatch() *rightsWatch {
	return &rightsWatch{wake: make(chan struct{}, 1), of: map[credential]map[*Rights]struct{}{}}
}

// Rights begins a watch over the caller's rights that may outlast the request. Release
// must be called on them, and not by onLoss.
func (r *Request) Rights(onLoss func(why error)) *Rights {
	x := &Rights{c: r.Core, cred: r.cred, who: r.Who, onLoss: onLoss}
	w := r.Core.rights
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[x.cred] == nil {
		w.of[x.cred] = map[*Rights]struct{}{}
	}
	w.of[x.cred][x] = struct{}{}
	return x
}

func (w *rightsWatch) remove(r *Rights) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of[r.cred], r)
	if len(w.of[r.cred]) == 0 {
		delete(w.of, r.cred)
	}
}

// credentials returns those that are in use.
func (w *rightsWatch) credentials() []credential {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]credential, 0, len(w.of))
	for cred := range w.of {
		list = append(list, cred)
	}
	return list
}

// holders returns the rights that rest on a credential.
func (w *rightsWatch) holders(cred credential) []*Rights {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*Rights, 0, len(w.of[cred]))
	for r := range w.of[cred] {
		list = append(list, r)
	}
	return list
}

// RecheckRights has the watch ask now: something was revoked here.
func (c *Core) RecheckRights() {
	select {
	case c.rights.wake <- struct{}{}:
	default:
	}
}

// watchRights asks about all rights in use until the server ends.
func (c *Core) watchRights() {
	tick := time.NewTicker(rightsEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.life.Done():
			return
		case <-tick.C:
		case <-c.rights.wake:
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, rightsAtOnce)
		for _, cred := range c.rights.credentials() {
			slots <- struct{}{}
			wg.Go(func() {
				c.checkRights(cred)
				<-slots
			})
		}
		wg.Wait()
	}
}

// checkRights asks about one credential, for all who have it.
func (c *Core) checkRights(cred credential) {
	ctx, cancel := context.WithTimeout(c.life, rightsTime)
	defer cancel()
	now, err := c.authenticate(ctx, cred)
	for _, r := range c.rights.holders(cred) {
		if why := r.compare(now, err); why != nil {
			r.end(why)
		}
	}
}

// rightsKey is where a request's context has its Rights.
type rightsKey struct{}

// mayStill returns an error when the request that ctx is of lost its rights. What is done
// for no request may be done.
func mayStill(ctx context.Context) error {
	if r, ok := ctx.Value(rightsKey{}).(*Rights); ok {
		return r.Still(ctx)
	}
	return nil
}

// hold lets the request go on for as long as its caller's rights last: when they end, its
// context does, and what waits for the client is cut off.
func (r *Request) hold(a *answer) (release func()) {
	ctx, cancel := context.WithCancelCause(r.Context())
	r.rights = r.Rights(func(why error) {
		cancel(why)
		a.body.cut()
		a.cut()
	})
	r.Request = r.WithContext(context.WithValue(ctx, rightsKey{}, r.rights))
	return func() {
		r.rights.Release()
		cancel(nil)
	}
}

// Still returns an error when the caller would not be let in any more.
func (r *Request) Still() error { return r.rights.Still(r.Context()) }
