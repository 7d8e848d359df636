// Package core is what the APIs of a Vole server share: it authenticates and authorizes callers,
// bounds what they use (requests, memory, time, descriptors), answers retries, and records what
// they change. A [Dialect] is a list of routes with a way to carry the key and to write errors;
// its handlers work on a [Request], through package vole.
//
// A request passes through, in this order: [Core.LimitPreAuth] (memory before the caller is
// known), routeHandler (id, pace of the client, metrics, audit, errors), admitAndHandle (rights,
// slot, memory, idempotency), and the handler, whose changes pass the guard below the Store.
package core

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/server/internal/accounts"
)

// Organisations is where the server finds the volumes of its organisations: the one of a local
// home, or those of a namespace. All methods may be called concurrently.
type Organisations interface {
	// Orgs returns the organisations, sorted.
	Orgs(ctx context.Context) ([]string, error)
	// CreateOrg creates an organisation. ErrExists; ErrUnsupported: there can be only one.
	CreateOrg(ctx context.Context, name string) error
	// RemoveOrg removes an organisation. ErrNoSuch; ErrNotEmpty: it has volumes and force is
	// false; ErrInUse: one of them is attached; ErrUnsupported: there can be only one.
	RemoveOrg(ctx context.Context, name string, force bool) error
	// Org opens an organisation's volumes. ErrNoSuch.
	Org(ctx context.Context, name string) (driver.Backend, error)
	// OpenSession begins a client's session in an organisation, or with resume continues one
	// that another server began for the same key. ErrNotFound: that has ended.
	OpenSession(ctx context.Context, org, session, key string, lease time.Duration, resume bool) (Session, error)
	// Ping returns an error if requests cannot be served now.
	Ping(ctx context.Context) error
	Close() error
}

// Session is a backend whose attachments and drafts belong to one client and end with its
// session.
type Session interface {
	driver.Backend
	SessionLife
}

// SessionLife is what a session does beside being a backend.
type SessionLife interface {
	// Renew extends the lease. ErrClosed: the session has ended.
	Renew(ctx context.Context) error
	// Leave closes the session on this server. It lives on until its lease ends where another
	// server can continue it.
	Leave() error
	// Holds reports whether a live attachment belongs to the session, even if another server
	// made it.
	Holds(ctx context.Context, id string) (bool, error)
	// Detach ends an attachment of the session, even if another server made it.
	Detach(ctx context.Context, id string) error
}

// Options configures a Core. The zero value of each field means its default.
type Options struct {
	Organisations Organisations   // required
	Accounts      *accounts.Store // required
	OIDC          Verifier        // verifies bearer tokens that are not keys; nil: none
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Version       string // of the program

	Timeout     time.Duration  // of requests that move no file content; default 60 s
	MinRate     int64          // minimum of bytes per second, on average, in either direction; default 1 KiB
	Grace       time.Duration  // extra time of a client on top of MinRate; default 30 s
	MaxFile     int64          // most bytes of one file's content; default: no limit
	Rate        float64        // requests per second of one key; default: no limit
	Burst       int            // requests of a key at once; default: two seconds' worth
	Budget      *budget.Budget // of memory for requests; default: that of DefaultMemory
	Memory      int64          // limit of the process; default: DefaultMemory
	Descriptors Descriptors    // default: those of this process
	TrustProxy  bool           // the address of the client is in X-Forwarded-For
	// Redacted lists texts that no message to a client may contain: paths and hosts of the
	// operator.
	Redacted []string
}

// Verifier verifies the tokens of an identity provider.
type Verifier interface {
	// Verify returns the principal of a token. accounts.ErrUnauthenticated.
	Verify(ctx context.Context, token string) (*accounts.Principal, error)
	// Gives returns all rights that tokens can give in an organisation.
	Gives(org string) accounts.Scope
}

// Core serves dialects. It owns the organisations that are open and the goroutines in
// background, which end with lifetime.
type Core struct {
	opts        Options
	log         *slog.Logger
	metrics     *metrics
	instance    string
	audit       *auditor
	rates       *rateLimiter
	concurrency *concurrencyLimiter
	idempotency *idempotencyCache
	rightsWatch *rightsWatcher
	preAuth     *preAuthBudget
	appendLocks KeyedLock // serialize appends to a file, by volume and inode
	Events      *Events

	draining    atomic.Bool
	lifetime    context.Context // ends when the server does
	endLifetime context.CancelFunc

	mu   sync.Mutex      // guards orgs
	orgs map[string]*org // in use, by name

	background sync.WaitGroup
}

// org is an organisation that this server has open. backend is unguarded; store is not.
type org struct {
	name    string
	store   *vole.Store
	backend driver.Backend
	fsCache *fsCache
	log     *slog.Logger
}

// New returns a Core. Close ends it, after the last request.
func New(opts Options) *Core {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Redacted = longestFirst(opts.Redacted)
	opts.Timeout = cmp.Or(opts.Timeout, time.Minute)
	opts.MinRate = cmp.Or(opts.MinRate, 1<<10)
	opts.Grace = cmp.Or(opts.Grace, defaultGrace)
	opts.Memory = cmp.Or(opts.Memory, DefaultMemory)
	opts.Budget = cmp.Or(opts.Budget, NewBudget(DefaultMemory))
	if opts.Descriptors == (Descriptors{}) {
		opts.Descriptors = NewDescriptors(0)
	}
	c := &Core{opts: opts, log: opts.Log, metrics: newMetrics(opts.Metrics), instance: NewToken(), orgs: map[string]*org{},
		rates: newRateLimiter(opts.Rate, opts.Burst), idempotency: newIdempotencyCache(), rightsWatch: newRightsWatcher(), preAuth: newPreAuthBudget(opts.Memory / preAuthPart), concurrency: newConcurrencyLimiter(maxQueueWait, int(opts.Memory/queuedRequestMemory))}
	c.lifetime, c.endLifetime = context.WithCancel(context.Background())
	c.audit = newAuditor(opts.Accounts, c.log)
	c.Events = newEvents(c)
	c.background.Go(c.maintenanceLoop)
	c.background.Go(c.recheckRightsLoop)
	return c
}

// Instance names this process to clients.
func (c *Core) Instance() string { return c.instance }

// Options returns what the core was made with.
func (c *Core) Options() *Options { return &c.opts }

// Lifetime is a context that ends with the server.
func (c *Core) Lifetime() context.Context { return c.lifetime }

// Drain makes the server refuse new sessions, so that clients go to another one, and ends the
// streams of events, which would not end by themselves.
func (c *Core) Drain() {
	c.draining.Store(true)
	c.Events.closeFeeds()
}

// Draining reports whether Drain was called.
func (c *Core) Draining() bool { return c.draining.Load() }

// Close ends what the Core began, in this order: goroutines, streams, the queue of audit
// records, then the organisations. All requests must have ended.
func (c *Core) Close() error {
	c.endLifetime()
	c.Events.closeFeeds()
	c.background.Wait()
	c.audit.flushAndClose()
	c.mu.Lock()
	defer c.mu.Unlock()
	var first error
	for name, o := range c.orgs {
		o.fsCache.evictAll()
		if err := o.store.Close(); err != nil && first == nil {
			first = err
		}
		delete(c.orgs, name)
	}
	return first
}

// Org returns the volumes of an organisation, unfiltered. The Store stays open; callers do not
// close it.
func (c *Core) Org(ctx context.Context, name string) (*vole.Store, error) {
	o, err := c.openOrg(ctx, name)
	if err != nil {
		return nil, err
	}
	return o.store, nil
}

// openOrg returns an organisation from the table, or opens it. Two callers may open it at the
// same time; the second closes its own again.
func (c *Core) openOrg(ctx context.Context, name string) (*org, error) {
	c.mu.Lock()
	o := c.orgs[name]
	c.mu.Unlock()
	if o != nil {
		return o, nil
	}
	b, err := c.opts.Organisations.Org(ctx, name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.orgs[name]; have != nil {
		return have, b.Close()
	}
	o = &org{name: name, backend: b, log: c.log, store: vole.New(c.guardBackend(b))}
	o.fsCache = newFSCache(o, c.opts.Descriptors.OrgListings)
	c.orgs[name] = o
	return o, nil
}

// ForgetOrg closes what this server has open of a removed organisation. Its name may already
// belong to a new one.
func (c *Core) ForgetOrg(name string) {
	c.mu.Lock()
	o := c.orgs[name]
	delete(c.orgs, name)
	c.mu.Unlock()
	if o == nil {
		return
	}
	o.fsCache.evictAll()
	if err := o.store.Close(); err != nil {
		c.log.Warn("cannot close a removed organisation", "org", name, "error", err)
	}
}

// closeRemovedOrgs closes organisations that another server has removed, where the backend can
// tell.
func (c *Core) closeRemovedOrgs(list []*org) {
	for _, o := range list {
		b, ok := o.backend.(interface {
			Removed(ctx context.Context) (bool, error)
		})
		if !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(c.lifetime, time.Second)
		removed, err := b.Removed(ctx)
		cancel()
		if err == nil && removed {
			c.ForgetOrg(o.name)
		}
	}
}

// maintenanceLoop closes idle file systems and drops expired rate limits and answers, every
// maintenanceInterval until the server ends.
func (c *Core) maintenanceLoop() {
	for now := range periodic.Ticks(c.lifetime, maintenanceInterval) {
		c.mu.Lock()
		list := slices.Collect(maps.Values(c.orgs))
		c.mu.Unlock()
		for _, o := range list {
			o.fsCache.evictIdle(now)
		}
		c.closeRemovedOrgs(list)
		c.rates.forgetIdleKeys(now)
		c.idempotency.evictExpired()
	}
}

const maintenanceInterval = 5 * time.Second

// Go runs fn in a goroutine that Close waits for. fn must return when Lifetime ends.
func (c *Core) Go(fn func()) { c.background.Go(fn) }

// Mux returns a router over the routes of all dialects. An unknown path is refused in the
// dialect with the longest matching prefix.
func (c *Core) Mux(dialects ...*Dialect) http.Handler {
	mux := http.NewServeMux()
	for _, d := range dialects {
		for _, rt := range d.Routes {
			mux.Handle(rt.Method+" "+rt.Path, c.routeHandler(d, rt))
		}
		for _, p := range d.Prefixes {
			mux.Handle(p, c.routeHandler(d, &Route{Path: p, Auth: NoAuth, Handle: func(http.ResponseWriter, *Request) error { return ErrNoRoute }}))
		}
	}
	return mux
}
