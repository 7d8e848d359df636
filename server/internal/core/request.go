package core

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/server/internal/accounts"
)

// Auth says which credential a route accepts and where the request carries it.
type Auth int

const (
	BearerAuth Auth = iota // Authorization: Bearer, a key or a token of the identity provider
	HeaderAuth             // X-API-Key: a key
	VolumeAuth             // Authorization: Bearer, a token for one volume
	NoAuth
)

// Dialect is one HTTP API of the server: its routes and the form of its errors.
type Dialect struct {
	Name     string
	Routes   []*Route
	Prefixes []string // unknown paths below these are refused in this dialect
	// WriteError writes an error as clients of this dialect expect it.
	WriteError func(w http.ResponseWriter, r *Request, err error)
}

// Route describes one operation: how it is reached, who may call it, what bounds apply to it,
// and the function that carries it out. Routes are data, so that tests can compare them with
// openapi.yaml.
type Route struct {
	Method, Path string // pattern of http.ServeMux
	Name         string // of the operation, for logs, metrics and the audit log
	Auth         Auth
	Scope        accounts.Scope // required of the caller
	Changes      bool           // gets an audit record
	AuditFirst   bool           // the audit record is durable before the answer; for changes beyond files
	Stream       bool           // moves file content: bounded by Options.MinRate instead of Timeout
	Endless      bool           // a stream of events; ends only with the client or the server
	MaxBody      int64          // most bytes of the body; 0: api.MaxJSON; negative: any, for content of files, which MaxFile bounds
	DecodesBody  bool           // handles compressed bodies; others refuse Content-Encoding
	OwnsBuffer   bool           // accounts for the memory of its body itself
	Idempotent   bool           // answers a repeated Idempotency-Key from the cache
	// AnyServer disables the check of If-Instance: the route itself prevents a second effect of
	// a request that another server may have carried out.
	AnyServer bool
	Handle    func(w http.ResponseWriter, r *Request) error
}

// Request is a request whose caller is authenticated and has the scope of the route. Handlers
// receive it after admission; it belongs to one goroutine, that of the handler.
type Request struct {
	*http.Request
	Core   *Core
	Caller *accounts.Principal // nil where NoAuth
	ID     string

	Audit   accounts.AuditRecord // handlers set the volume, path and detail that they act on
	Changes bool                 // record this request, on a route that is not recorded in general

	clientCtx  context.Context // of the connection; ends when the client disconnects
	route      *Route
	org        *org
	credential credential
	rights     *Rights // nil where NoAuth
	memory     *requestMemory
	release    func() // returns slot and memory; nil: the request got none
	rawBody    []byte // the whole body, if it was read; else nil
}

// NewToken returns 128 random bits in hex. Hex needs no escaping in URLs and spells no words by
// chance.
func NewToken() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// routeHandler wraps a route with all that every request needs: an id, the pace of its client,
// metrics, recovery from panics, the audit record and the error in the form of the dialect. The
// deferred function runs once, after the handler, whether it returned or panicked; the order
// matters: outcome and audit record first (nothing is answered before them where AuditFirst is
// set, since small answers are still in net/http's buffer), then the release of memory and
// slots.
func (c *Core) routeHandler(d *Dialect, rt *Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		start := time.Now()
		id := requestIDOf(hr)
		r := &Request{Request: hr.WithContext(WithRequestID(hr.Context(), id)), Core: c, ID: id, clientCtx: hr.Context(), route: rt}
		a := &pacedResponse{ResponseWriter: w, control: http.NewResponseController(w), http2: hr.ProtoMajor == 2, ctx: hr.Context(),
			pace: clientPace{minRate: c.opts.MinRate, grace: c.opts.Grace}}
		a.Header().Set(api.HeaderRequestID, r.ID)
		a.Header().Set(api.HeaderInstance, c.instance)
		c.metrics.inFlight.Inc()
		defer func() {
			c.metrics.inFlight.Dec()
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				c.log.ErrorContext(r.Context(), "panic", "route", rt.Name, "panic", p, "stack", string(debug.Stack()))
				c.failRequest(d, a, r, errors.New("panic"))
			}
			a.extendForFinalFlush()
			c.recordMetricsAndAudit(d, rt, a, r, start)
			if r.release != nil {
				defer r.release()
			}
			if a.aborted {
				panic(http.ErrAbortHandler)
			}
			a.flushSmallAnswer(hr)
		}()
		if err := c.admitAndHandle(a, r, rt); err != nil {
			if r.rights != nil && r.rights.Lost() != nil {
				err = r.rights.Lost() // the cause; err is its consequence
			}
			c.failRequest(d, a, r, a.body.causeOf(err))
		}
	})
}

// maxIdempotencyKey is the longest accepted idempotency key, in bytes.
const maxIdempotencyKey = 128

// requestIDOf returns the id that the client or a proxy set in the header, if it is short and
// printable, or a new one.
func requestIDOf(r *http.Request) string {
	id := r.Header.Get(api.HeaderRequestID)
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return NewToken()
	}
	return id
}

// failRequest writes an error answer. If part of the answer is already sent it marks the
// response as aborted instead, and routeHandler then closes the connection. If the client is
// still sending its body, the error is written first and the rest of the body is read for a
// moment: closing at once would reset the connection and lose the answer.
func (c *Core) failRequest(dia *Dialect, a *pacedResponse, r *Request, err error) {
	if e := (*budget.Error)(nil); errors.As(err, &e) {
		err = budgetRefusal(e)
	}
	d := c.describeRedacted(err)
	c.logFailure(a, r, d)
	// Tenants can read their audit log, so it gets the redacted message too.
	r.Audit.Detail = strings.TrimSpace(r.Audit.Detail + " " + d.message)
	var own *Error
	if errors.As(err, &own) && own.Retry > 0 {
		a.Header().Set("Retry-After", RetryAfterSeconds(own.Retry))
	}
	if a.status != 0 {
		// The status is already sent: only a broken connection tells the client.
		a.aborted = true
		return
	}
	if a.body == nil || !a.body.partlyRead() {
		dia.WriteError(a, r, d)
		return
	}
	// The client is still sending. Without full duplex, closing now would lose the answer.
	a.Header().Set("Connection", "close")
	_ = a.control.EnableFullDuplex()
	dia.WriteError(a, r, d)
	_ = a.control.Flush()
	a.body.discardRest()
}

// logFailure logs a failed request under the id that its client got: as an error if no client
// can cause it, as a warning if the server lacks something, and at debug level if the client
// erred, gave up, or was refused for load (there may be many of those).
func (c *Core) logFailure(a *pacedResponse, r *Request, d *describedError) {
	level := slog.LevelError
	own := (*Error)(nil)
	switch {
	case d.status < http.StatusInternalServerError, r.clientCtx.Err() != nil:
		level = slog.LevelDebug
	case errors.As(d.err, &own) && own.Err == nil && (own.httpStatus() == http.StatusServiceUnavailable || own.httpStatus() == http.StatusInsufficientStorage):
		level = slog.LevelDebug // refused for load: there may be many
	case errors.Is(d.err, driver.ErrQuota), errors.Is(d.err, driver.ErrUnsupported):
		level = slog.LevelInfo
	case d.status != http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	c.log.Log(context.WithoutCancel(r.Context()), level, "request failed", "route", r.route.Name, "status", d.status, "code", d.code,
		"begun", a.status != 0, "error", d.err)
}

// recordMetricsAndAudit counts the request in the metrics, writes its audit record if it changed
// something, and logs it at debug level.
func (c *Core) recordMetricsAndAudit(d *Dialect, rt *Route, a *pacedResponse, r *Request, start time.Time) {
	took := time.Since(start)
	c.metrics.observeRequest(d.Name, rt.Name, a.status, took, a.pace.bytesMoved)
	if (rt.Changes || r.Changes) && r.Caller != nil && !r.refusedForLoad(a.status) {
		c.writeAuditRecord(rt, a, r)
	}
	org := ""
	if r.Caller != nil {
		org = r.Caller.Org
	}
	c.log.DebugContext(r.Context(), "request", "dialect", d.Name, "route", rt.Name, "org", org, "status", a.status, "took", took, "addr", r.ClientAddr())
}

// refusedForLoad reports whether the request was refused before it got a slot, because of a rate
// or load limit. It had no effect, and a record of each would cost more than the request itself.
func (r *Request) refusedForLoad(status int) bool {
	return r.release == nil && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable)
}

// admitAndHandle is the one path of every request: it authorizes the caller, takes a slot and
// memory, bounds body and time, watches the caller's rights, and runs the handler, behind the
// idempotency cache if the request has a key.
//
// Order: authorization precedes all that costs memory, and the body is paced from the start,
// because net/http itself reads what a handler leaves of a body.
func (c *Core) admitAndHandle(a *pacedResponse, r *Request, rt *Route) error {
	// A copy: net/http inspects the body of its own request to see whether the client still
	// waits for 100 Continue.
	r.Request = r.WithContext(r.Context())
	a.body = newPacedBody(a, r.Request)
	r.Body = a.body
	if err := c.admitCaller(a, r, rt); err != nil {
		return err
	}
	if err := refuseContentEncoding(r, rt); err != nil {
		return err
	}
	if r.Caller != nil {
		release, err := c.acquireSlotAndMemory(a, r, rt)
		if err != nil {
			return err
		}
		r.release = release
		defer r.cancelOnLostRights(a)()
	}
	limit := rt.MaxBody
	if limit == 0 {
		limit = api.MaxJSON
	}
	if limit > 0 {
		r.Body = http.MaxBytesReader(a.ResponseWriter, r.Body, limit)
	}
	if r.memory != nil && !rt.Stream && !rt.OwnsBuffer {
		r.Body = meteredBody{r.Body, r}
	}
	if !rt.Stream && !rt.Endless {
		ctx, cancel := context.WithTimeout(r.Context(), c.opts.Timeout)
		defer cancel()
		defer a.body.stopReadingAfter(ctx)() // a blocked read does not see ctx
		r.Request = r.WithContext(ctx)
	}
	if key := r.Header.Get(api.HeaderIdempotencyKey); rt.Idempotent && key != "" {
		if len(key) > maxIdempotencyKey {
			return invalidRequest("the header %s has %d bytes; the limit is %d", api.HeaderIdempotencyKey, len(key), maxIdempotencyKey)
		}
		fingerprint, err := r.fingerprint()
		if err != nil {
			return err
		}
		return c.idempotency.answerOnce(r, key, fingerprint, a, func() error { return rt.Handle(a, r) })
	}
	return rt.Handle(a, r)
}

// acquireSlotAndMemory takes a place in the concurrency limits (server, organisation, key) and
// the base memory of the request. release returns both.
func (c *Core) acquireSlotAndMemory(a *pacedResponse, r *Request, rt *Route) (release func(), err error) {
	d := &c.opts.Descriptors
	bounds := []concurrencyBound{
		{"", d.Requests, errServerBusy}, {"org " + r.Caller.Org, d.OrgRequests, errKeyBusy}, {"key " + r.CallerID(), d.KeyRequests, errKeyBusy},
	}
	if rt.Endless {
		bounds = []concurrencyBound{{"endless org " + r.Caller.Org, d.OrgStreams, errKeyBusy}, {"endless key " + r.CallerID(), maxKeyStreams, errKeyBusy}}
	}
	releaseSlot, err := c.concurrency.acquireSlot(r.Context(), r.Caller.Org, !rt.Endless && r.cheapToQueue(), bounds...)
	if err != nil {
		return nil, err
	}
	return c.moveToOrgBudget(a, r, rt, releaseSlot)
}

// cheapToQueue reports whether the request holds little while it waits for a slot. HTTP/2
// buffers the body of a waiting request; HTTP/1 leaves it in the socket.
func (r *Request) cheapToQueue() bool {
	return r.ProtoMajor == 1 || r.ContentLength >= 0 && r.ContentLength <= smallBodyAllowance
}

// moveToOrgBudget takes the base memory of a request that has a slot, and moves its accounting
// from the pre-authentication budget to that of its organisation. releaseSlot runs at once if
// there is no memory, else as part of release.
func (c *Core) moveToOrgBudget(a *pacedResponse, r *Request, rt *Route, releaseSlot func()) (release func(), err error) {
	if r.memory, err = c.reserveBaseMemory(r, rt); err != nil {
		releaseSlot()
		return nil, err
	}
	a.memory = r.memory
	endOnConn := preAuthRequestOf(r.Request).markAdmitted() // from now on the organisation's budget has it
	if r.Method == http.MethodGet && a.http2 {
		_ = r.Body.Close() // it is never read, and HTTP/2 would buffer it
	}
	return func() { r.memory.releaseAll(); releaseSlot(); endOnConn() }, nil
}

// admitCaller authenticates the caller, applies the rate of its key and checks the scope of
// the route. It refuses with outcome_unknown a retry that was meant for another server
// (If-Instance): only that server knows whether the first try had an effect.
func (c *Core) admitCaller(a *pacedResponse, r *Request, rt *Route) error {
	if rt.Auth == NoAuth {
		return nil
	}
	cred, err := credentialOf(r.Request, rt.Auth)
	if err != nil {
		return err
	}
	who, err := c.authenticate(r.Context(), cred)
	if err != nil {
		return &notStarted{err}
	}
	r.Caller, r.credential = who, cred
	if wait, ok := c.rates.allowRequest(r.CallerID()); !ok {
		a.Header().Set("Retry-After", RetryAfterSeconds(wait))
		return ErrRateLimited
	}
	if !who.Scopes.Has(rt.Scope) {
		return NeedsScope(rt.Scope)
	}
	if c.draining.Load() && !rt.Stream {
		a.Header().Set("Connection", "close") // the client shall reconnect, to another server
	}
	if want := r.Header.Get(api.HeaderIfInstance); want != "" && want != c.instance && !rt.AnyServer {
		return newRefusal(api.CodeOutcomeUnknown,
			"another server had this request, and it is unknown whether it was carried out; check, and repeat it if need be")
	}
	return nil
}

// noCredential is the error for a request without a credential. It matches
// accounts.ErrUnauthenticated.
type noCredential struct{}

func (noCredential) Error() string { return "no API key: send the header Authorization: Bearer KEY" }
func (noCredential) Unwrap() error { return accounts.ErrUnauthenticated }

// ClientAddr returns the IP address of the client: of the connection, or with Options.TrustProxy
// the last one in X-Forwarded-For.
func (r *Request) ClientAddr() string {
	if r.Core.opts.TrustProxy {
		// The last entry is the proxy's own; a client can send any others.
		list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if last := strings.TrimSpace(list[len(list)-1]); last != "" {
			return last
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Operation returns the name of the route.
func (r *Request) Operation() string { return r.route.Name }

// RetryAfterSeconds returns the value of a Retry-After header: whole seconds, rounded up, and
// one at least.
func RetryAfterSeconds(d time.Duration) string {
	return strconv.Itoa(max(1, int((d+time.Second-1)/time.Second)))
}
