// Package native is Vole's own API over HTTP, as server/openapi.yaml describes it.
package native

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/accounts"
	"github.com/volehq/vole/server/internal/core"
)

// Options says how the API behaves.
type Options struct {
	OpenAPI     []byte        // its description, as JSON
	Lease       time.Duration // of sessions
	Advertise   string        // URL that sessions are told to use; "": the one they used
	Metrics     prometheus.Gatherer
	OpenMetrics bool          // metrics need no key
	KeepAudit   time.Duration // how long records of the audit log are kept; 0: for ever
}

// API is the state of the native API: what clients have open.
type API struct {
	core  *core.Core
	opts  Options
	turns core.Turns // of those who replace a file

	mu                   sync.Mutex           // guards what follows
	shares               map[string]*orgShare // by organisation
	sessions             map[string]*session
	sessionsOf           map[string]int // how many a key has, of those that are begun, too
	systems              map[string]*filesystem
	handles              map[string]*handle
	listings             map[string]*listing
	allOpen, allListings int // of all organisations together
	closed               bool
}

// orgShare is what an organisation has of what all of them share. The counts are guarded by
// API.mu.
type orgShare struct {
	open, listings int // file systems and files; listings between two pages
}

// share returns the share of an organisation. The caller holds mu.
func (a *API) share(org string) *orgShare {
	s := a.shares[org]
	if s == nil {
		s = &orgShare{}
		a.shares[org] = s
	}
	return s
}

// New returns an API that serves with c. Close ends it.
func New(c *core.Core, opts Options) *API {
	a := &API{core: c, opts: opts, shares: map[string]*orgShare{},
		sessions: map[string]*session{}, sessionsOf: map[string]int{}, systems: map[string]*filesystem{}, handles: map[string]*handle{}, listings: map[string]*listing{}}
	c.Go(a.tidy)
	c.Go(a.sweep)
	return a
}

// Dialect returns the routes.
func (a *API) Dialect() *core.Dialect {
	d := &core.Dialect{Name: "vole", Prefixes: []string{"/"}, WriteError: writeError}
	d.Routes = append(d.Routes, a.serverRoutes()...)
	d.Routes = append(d.Routes, a.volumeRoutes()...)
	d.Routes = append(d.Routes, a.fileRoutes()...)
	d.Routes = append(d.Routes, a.transferRoutes()...)
	d.Routes = append(d.Routes, a.attachmentRoutes()...)
	d.Routes = append(d.Routes, a.sessionRoutes()...)
	d.Routes = append(d.Routes, a.handleRoutes()...)
	d.Routes = append(d.Routes, a.adminRoutes()...)
	return d
}

func writeError(w http.ResponseWriter, r *core.Request, err error) {
	status, code, message := core.Describe(err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="vole"`)
	}
	_ = core.WriteJSON(w, status, api.ErrorBody{Error: api.Error{Code: code, Message: message, RequestID: r.ID}})
}

// Scopes of routes, by their names in the description.
const (
	read     = accounts.Read
	write    = accounts.Write
	admin    = accounts.Admin
	operator = accounts.Operator
)

// get returns a route that only reads.
func get(path, name string, scope accounts.Scope, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
	return &core.Route{Method: "GET", Path: path, Name: name, Scope: scope, Do: do}
}

// change returns a route that changes something.
func change(method, path, name string, scope accounts.Scope, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
	return &core.Route{Method: method, Path: path, Name: name, Scope: scope, Changes: true, Once: true, Do: do}
}

// grave returns a route whose changes are about more than files: they are in the audit
// log before they are answered.
func grave(method, path, name string, scope accounts.Scope, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
	rt := change(method, path, name, scope, do)
	rt.Grave = true
	return rt
}

func (a *API) serverRoutes() []*core.Route {
	public := func(path, name string, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
		return &core.Route{Method: "GET", Path: path, Name: name, Auth: core.NoAuth, Do: do}
	}
	metrics := get("/metrics", "metrics", operator, a.metrics)
	if a.opts.OpenMetrics {
		metrics.Auth = core.NoAuth
	}
	return []*core.Route{
		public("/healthz", "health", text),
		public("/readyz", "ready", a.ready),
		public("/openapi.json", "openapi", a.openapi),
		metrics,
		get(api.Prefix+"/server", "getServer", read, a.getServer),
		grave("POST", api.Prefix+"/check", "check", admin, whole(a.check)),
		{Method: "POST", Path: api.Prefix + "/cancel", Name: "cancel", Scope: read, Do: a.cancel},
	}
}

func text(w http.ResponseWriter, _ *core.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte("ok\n"))
	return err
}

func (a *API) ready(w http.ResponseWriter, r *core.Request) error {
	if a.core.Draining() {
		return core.ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	o := a.core.Options()
	err := o.Space.Ping(ctx)
	if err == nil {
		err = o.Accounts.Ping(ctx)
	}
	if err != nil {
		message := "the server's database or storage does not answer"
		if f := (*driver.Fault)(nil); errors.As(err, &f) {
			message = string(f.Part) + " unavailable"
		}
		return &core.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Message: message, Err: err}
	}
	return text(w, r)
}

// readyTime is how long a question whether the server is ready waits for the database and
// the blob store.
const readyTime = 3 * time.Second

func (a *API) openapi(w http.ResponseWriter, _ *core.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(a.opts.OpenAPI)
	return err
}

func (a *API) metrics(w http.ResponseWriter, r *core.Request) error {
	promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r.Request)
	return nil
}

func (a *API) getServer(w http.ResponseWriter, r *core.Request) error {
	store, err := r.Store()
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, api.Server{
		Version: a.core.Options().Version, API: api.Version, Instance: a.core.Instance(), Org: r.Who.Org,
		Key: r.Who.KeyID, KeyName: r.Who.KeyName, Scopes: scopes(r.Who.Scopes), Caps: api.FromCaps(store.Caps()),
	})
}

func scopes(s accounts.Scope) []api.Scope {
	list := []api.Scope{}
	for _, name := range s.Strings() {
		list = append(list, api.Scope(name))
	}
	return list
}

func (a *API) check(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	fix := q.Bool("fix")
	if err := q.Err(); err != nil {
		return err
	}
	store, err := r.Store()
	if err != nil {
		return err
	}
	out := api.Findings{Findings: []api.Finding{}}
	err = store.Check(r.Context(), driver.CheckOptions{Fix: fix}, func(f driver.Finding) error {
		if f.Volume == "" || store.Caps().Backend == "local" {
			f.Path = "" // the key of an object, or a place in the operator's home
		}
		out.Findings = append(out.Findings, api.Finding{Code: f.Code, Volume: f.Volume, Path: f.Path, Detail: a.core.Public(f.Detail), Fixed: f.Fixed})
		return nil
	})
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// cancel ends a request that is under way and tells what became of it.
func (a *API) cancel(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	key := q.Required("key")
	if err := q.Err(); err != nil {
		return err
	}
	done, err := r.End(key)
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, api.Outcome{Done: done})
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
