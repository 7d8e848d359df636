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
	core         *core.Core
	opts         Options
	replaceLocks core.KeyedLock // of those who replace a file

	mu                      sync.Mutex           // guards what follows
	usages                  map[string]*orgUsage // by organisation
	sessions                map[string]*session
	sessionsByKey           map[string]int // how many a key has, of those that are begun, too
	filesystems             map[string]*sessionFS
	handles                 map[string]*sessionHandle
	listings                map[string]*listing
	openTotal, listingTotal int // of all organisations together
	closed                  bool
}

// orgUsage is what an organisation has of what all of them share. The counts are guarded by
// API.mu.
type orgUsage struct {
	openCount, listingCount int // file systems and files; listings between two pages
}

// usageOf returns the share of an organisation. The caller holds mu.
func (a *API) usageOf(org string) *orgUsage {
	s := a.usages[org]
	if s == nil {
		s = &orgUsage{}
		a.usages[org] = s
	}
	return s
}

// New returns an API that serves with c. Close ends it.
func New(c *core.Core, opts Options) *API {
	a := &API{core: c, opts: opts, usages: map[string]*orgUsage{},
		sessions: map[string]*session{}, sessionsByKey: map[string]int{}, filesystems: map[string]*sessionFS{}, handles: map[string]*sessionHandle{}, listings: map[string]*listing{}}
	c.Go(a.reapLoop)
	c.Go(a.sweepLoop)
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
	readScope     = accounts.Read
	writeScope    = accounts.Write
	adminScope    = accounts.Admin
	operatorScope = accounts.Operator
)

// readRoute returns a route that only reads.
func readRoute(path, name string, scope accounts.Scope, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
	return &core.Route{Method: "GET", Path: path, Name: name, Scope: scope, Handle: do}
}

// changeRoute returns a route that changes something.
func changeRoute(method, path, name string, scope accounts.Scope, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
	return &core.Route{Method: method, Path: path, Name: name, Scope: scope, Changes: true, Idempotent: true, Handle: do}
}

// auditFirstRoute returns a route whose changes are about more than files: they are in the audit
// log before they are answered.
func auditFirstRoute(method, path, name string, scope accounts.Scope, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
	rt := changeRoute(method, path, name, scope, do)
	rt.AuditFirst = true
	return rt
}

func (a *API) serverRoutes() []*core.Route {
	public := func(path, name string, do func(w http.ResponseWriter, r *core.Request) error) *core.Route {
		return &core.Route{Method: "GET", Path: path, Name: name, Auth: core.NoAuth, Handle: do}
	}
	metrics := readRoute("/metrics", "metrics", operatorScope, a.serveMetrics)
	if a.opts.OpenMetrics {
		metrics.Auth = core.NoAuth
	}
	return []*core.Route{
		public("/healthz", "health", writeOK),
		public("/readyz", "ready", a.serveReadiness),
		public("/openapi.json", "openapi", a.serveOpenAPI),
		metrics,
		readRoute(api.Prefix+"/server", "getServer", readScope, a.getServer),
		auditFirstRoute("POST", api.Prefix+"/check", "check", adminScope, requireAllVolumes(a.checkVolumes)),
		{Method: "POST", Path: api.Prefix + "/cancel", Name: "cancel", Scope: readScope, Handle: a.cancelRequest},
	}
}

func writeOK(w http.ResponseWriter, _ *core.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte("ok\n"))
	return err
}

func (a *API) serveReadiness(w http.ResponseWriter, r *core.Request) error {
	if a.core.Draining() {
		return core.ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	o := a.core.Options()
	err := o.Organisations.Ping(ctx)
	if err == nil {
		err = o.Accounts.Ping(ctx)
	}
	if err != nil {
		message := "the server's database or storage does not answer"
		if f := (*driver.Fault)(nil); errors.As(err, &f) {
			message = string(f.Part) + " unavailable"
		}
		return &core.Error{Code: api.CodeUnavailable, Message: message, Err: err}
	}
	return writeOK(w, r)
}

// readyTimeout is how long a question whether the server is ready waits for the database and
// the blob store.
const readyTimeout = 3 * time.Second

func (a *API) serveOpenAPI(w http.ResponseWriter, _ *core.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(a.opts.OpenAPI)
	return err
}

func (a *API) serveMetrics(w http.ResponseWriter, r *core.Request) error {
	promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r.Request)
	return nil
}

func (a *API) getServer(w http.ResponseWriter, r *core.Request) error {
	store, err := r.Store()
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, api.Server{
		Version: a.core.Options().Version, API: api.Version, Instance: a.core.Instance(), Org: r.Caller.Org,
		Key: r.Caller.KeyID, KeyName: r.Caller.KeyName, Scopes: apiScopes(r.Caller.Scopes), Caps: api.FromCaps(store.Caps()),
	})
}

func apiScopes(s accounts.Scope) []api.Scope {
	list := []api.Scope{}
	for _, name := range s.Strings() {
		list = append(list, api.Scope(name))
	}
	return list
}

func (a *API) checkVolumes(w http.ResponseWriter, r *core.Request) error {
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
		out.Findings = append(out.Findings, api.Finding{Code: f.Code, Volume: f.Volume, Path: f.Path, Detail: a.core.Redact(f.Detail), Fixed: f.Fixed})
		return nil
	})
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// cancelRequest ends a request that is under way and tells what became of it.
func (a *API) cancelRequest(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	key := q.Required("key")
	if err := q.Err(); err != nil {
		return err
	}
	done, err := r.CancelByKey(key)
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusOK, api.Outcome{Done: done})
}

func writeNoContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
