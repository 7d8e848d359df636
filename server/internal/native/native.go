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

// Options configures the API.
type Options struct {
	OpenAPI     []byte        // its description, as JSON
	Lease       time.Duration // of sessions
	Advertise   string        // URL that sessions are told to use; "": the one they used
	Metrics     prometheus.Gatherer
	OpenMetrics bool          // metrics need no key
	KeepAudit   time.Duration // how long records of the audit log are kept; 0: for ever
}

// API is the state of the native API: what clients have open on this server. One mutex guards
// all tables; no backend is called with it held. Lock order: API.mu before session.mu.
type API struct {
	core         *core.Core
	opts         Options
	replaceLocks core.KeyedLock // serialize the replacements of a file; see newCheckedBody

	mu                      sync.Mutex           // guards what follows
	usages                  map[string]*orgUsage // by organisation
	sessions                map[string]*session
	sessionsByKey           map[string]int     // sessions of a key, including those that are just starting
	opened                  map[string]*opened // file systems and files
	listings                map[string]*listing
	openTotal, listingTotal int // of all organisations together
	closed                  bool
}

// orgUsage is how much of the server's descriptors an organisation has taken. API.mu guards the
// counts.
type orgUsage struct {
	openCount, listingCount int // file systems, files and attachments; parked listings
}

// usageOf returns the usage of an organisation. The caller holds mu.
func (a *API) usageOf(org string) *orgUsage {
	s := a.usages[org]
	if s == nil {
		s = &orgUsage{}
		a.usages[org] = s
	}
	return s
}

// New returns an API on c and starts its background loops. Close ends the sessions, c.Close the
// loops.
func New(c *core.Core, opts Options) *API {
	a := &API{core: c, opts: opts, usages: map[string]*orgUsage{},
		sessions: map[string]*session{}, sessionsByKey: map[string]int{}, opened: map[string]*opened{}, listings: map[string]*listing{}}
	c.Go(a.reapLoop)
	c.Go(a.sweepLoop)
	return a
}

// Dialect returns the routes of openapi.yaml.
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

// writeError answers with an error as openapi.yaml describes it.
func writeError(w http.ResponseWriter, r *core.Request, err error) {
	status, code, message := core.Describe(err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="vole"`)
	}
	_ = core.WriteJSON(w, status, api.ErrorBody{Error: api.Error{Code: code, Message: message, RequestID: r.ID}})
}

// Scopes of routes.
const (
	readScope     = accounts.Read
	writeScope    = accounts.Write
	adminScope    = accounts.Admin
	operatorScope = accounts.Operator
)

// handler carries out the requests of a route.
type handler = func(w http.ResponseWriter, r *core.Request) error

// withBody returns a handler of requests whose body is a T as JSON.
func withBody[T any](do func(w http.ResponseWriter, r *core.Request, in T) error) handler {
	return func(w http.ResponseWriter, r *core.Request) error {
		var in T
		if err := r.ReadJSON(&in, false); err != nil {
			return err
		}
		return do(w, r, in)
	}
}

// readRoute returns a route that changes nothing.
func readRoute(path, name string, scope accounts.Scope, do handler) *core.Route {
	return &core.Route{Method: "GET", Path: path, Name: name, Scope: scope, Handle: do}
}

// changeRoute returns a route whose requests are recorded in the audit log and answered once for
// each idempotency key.
func changeRoute(method, path, name string, scope accounts.Scope, do handler) *core.Route {
	return &core.Route{Method: method, Path: path, Name: name, Scope: scope, Changes: true, Idempotent: true, Handle: do}
}

// auditFirstRoute returns a route for changes that concern more than files: their audit record
// is durable before the answer.
func auditFirstRoute(method, path, name string, scope accounts.Scope, do handler) *core.Route {
	rt := changeRoute(method, path, name, scope, do)
	rt.AuditFirst = true
	return rt
}

// serverRoutes are the routes about the server itself. Health, readiness and the description
// need no key.
func (a *API) serverRoutes() []*core.Route {
	public := func(path, name string, do handler) *core.Route {
		return &core.Route{Method: "GET", Path: path, Name: name, Auth: core.NoAuth, Handle: do}
	}
	// Metrics show figures of all organisations, so they need an operator's key unless the
	// operator opens them.
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

// writeOK answers /healthz: the process runs.
func writeOK(w http.ResponseWriter, _ *core.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte("ok\n"))
	return err
}

// serveReadiness answers /readyz: 503 while the server drains, and if database or storage do not
// answer in time. The message names the part, not its address.
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
		// The cause goes to the log; anyone may ask for readiness.
		message := "the server's database or storage does not answer"
		if f := (*driver.Fault)(nil); errors.As(err, &f) {
			message = string(f.Part) + " unavailable"
		}
		return &core.Error{Code: api.CodeUnavailable, Message: message, Err: err}
	}
	return writeOK(w, r)
}

// readyTimeout bounds how long /readyz waits for the database and the blob store.
const readyTimeout = 3 * time.Second

// serveOpenAPI answers with the description of the API.
func (a *API) serveOpenAPI(w http.ResponseWriter, _ *core.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(a.opts.OpenAPI)
	return err
}

// serveMetrics answers with the metrics in Prometheus' text format.
func (a *API) serveMetrics(w http.ResponseWriter, r *core.Request) error {
	promhttp.HandlerFor(a.opts.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r.Request)
	return nil
}

// getServer answers with the version and capabilities of the server and the rights of the
// caller's key.
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

// apiScopes returns the wire form of scopes.
func apiScopes(s accounts.Scope) []api.Scope {
	list := []api.Scope{}
	for _, name := range s.Strings() {
		list = append(list, api.Scope(name))
	}
	return list
}

// checkVolumes checks the organisation for damage and, with fix, repairs it. Findings are
// redacted: paths of a home and keys of blobs belong to the operator.
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
			// Without a volume the path is the key of an object; in a home it is a path of the
			// operator's host.
			f.Path = ""
		}
		out.Findings = append(out.Findings, api.Finding{Code: f.Code, Volume: f.Volume, Path: f.Path, Detail: a.core.Redact(f.Detail), Fixed: f.Fixed})
		return nil
	})
	return core.AnswerJSON(w, http.StatusOK, out, err)
}

// cancelRequest ends the caller's request with an idempotency key and reports whether it was
// carried out. Clients call it before they give a change up, so that nothing happens later.
func (a *API) cancelRequest(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	key := q.Required("key")
	if err := q.Err(); err != nil {
		return err
	}
	done, err := r.CancelByKey(key)
	return core.AnswerJSON(w, http.StatusOK, api.Outcome{Done: done}, err)
}
