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

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/server/internal/accounts"
)

// Auth says how a route's caller is known.
type Auth int

const (
	BearerAuth Auth = iota // Authorization: Bearer, a key or a token of the identity provider
	HeaderAuth             // X-API-Key: a key
	VolumeAuth             // Authorization: Bearer, a token for one volume
	NoAuth
)

// Dialect is one way to speak to a server.
type Dialect struct {
	Name     string
	Routes   []*Route
	Prefixes []string // beneath these, what is no route is refused in this dialect
	// WriteError answers with an error.
	WriteError func(w http.ResponseWriter, r *Request, err error)
}

// Route is one operation.
type Route struct {
	Method, Path string // as http.ServeMux has them
	Name         string // of the operation, for logs, metrics and the audit log
	Auth         Auth
	Scope        accounts.Scope // that the key must have
	Changes      bool           // is recorded in the audit log
	AuditFirst   bool           // is recorded before it is answered: it is about more than files
	Stream       bool           // moves file content: bounded by MinRate, not by Timeout
	Endless      bool           // ends when the client or the server does
	MaxBody      int64          // most bytes of the body; 0: api.MaxJSON; negative: any, for content of files, which MaxFile bounds
	DecodesBody  bool           // finds out itself how its body is compressed; others refuse Content-Encoding
	OwnsBuffer   bool           // reads the body into memory that the route itself holds
	Idempotent   bool           // heeds Idempotency-Key
	// AnyServer: the route itself sees to it that what another server has done is not
	// done again, so If-Instance does not matter.
	AnyServer bool
	Handle    func(w http.ResponseWriter, r *Request) error
}

// Request is a request whose caller is known and has the route's scope.
type Request struct {
	*http.Request
	Core   *Core
	Caller *accounts.Principal // nil where NoAuth
	ID     string

	Audit   accounts.AuditRecord // handlers fill in what they act on
	Changes bool                 // is recorded, though not all requests of the route are

	clientCtx  context.Context // ends when the client goes away
	route      *Route
	org        *org
	credential credential
	rights     *Rights // nil where NoAuth
	memory     *requestMemory
	release    func() // ends what begin began; nil: it did not
	rawBody    []byte // the body, once it was read; nil: it was not
}

// NewToken returns 128 random bits in a form that fits into URLs, and in which no words
// appear by chance.
func NewToken() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

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
				c.writeErrorOrAbort(d, a, r, errors.New("panic"))
			}
			a.extendForFinalFlush()
			c.recordOutcome(d, rt, a, r, start)
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
				err = r.rights.Lost() // what it led to says less
			}
			c.writeErrorOrAbort(d, a, r, a.body.causeOf(err))
		}
	})
}

// maxIdempotencyKey is the most bytes of an idempotency key.
const maxIdempotencyKey = 128

// requestIDOf returns the id that the client or a proxy gave the request, or a new one.
func requestIDOf(r *http.Request) string {
	id := r.Header.Get(api.HeaderRequestID)
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return NewToken()
	}
	return id
}

// writeErrorOrAbort answers with an error, or breaks the answer off when it has begun.
func (c *Core) writeErrorOrAbort(dia *Dialect, a *pacedResponse, r *Request, err error) {
	if e := (*budget.Error)(nil); errors.As(err, &e) {
		err = budgetRefusal(e)
	}
	d := c.describeRedacted(err)
	c.logFailure(a, r, d)
	// The tenant reads its audit log, too.
	r.Audit.Detail = strings.TrimSpace(r.Audit.Detail + " " + d.message)
	var own *Error
	if errors.As(err, &own) && own.Retry > 0 {
		a.Header().Set("Retry-After", RetryAfterSeconds(own.Retry))
	}
	if a.status != 0 {
		// Part of an answer is out: only a broken connection tells the client.
		a.aborted = true
		return
	}
	if a.body == nil || !a.body.partlyRead() {
		dia.WriteError(a, r, d)
		return
	}
	// The client is sending: if the connection were closed now it would not get the answer.
	a.Header().Set("Connection", "close")
	_ = a.control.EnableFullDuplex()
	dia.WriteError(a, r, d)
	_ = a.control.Flush()
	a.body.discardRest()
}

// logFailure notes a request that failed under the id that its client is told: as an error
// what no client can cause, as a warning what the server lacks, and for --log-level debug
// what clients did wrong or gave up.
func (c *Core) logFailure(a *pacedResponse, r *Request, d *describedError) {
	level := slog.LevelError
	own := (*Error)(nil)
	switch {
	case d.status < http.StatusInternalServerError, r.clientCtx.Err() != nil:
		level = slog.LevelDebug
	case errors.As(d.err, &own) && own.Err == nil && (own.httpStatus() == http.StatusServiceUnavailable || own.httpStatus() == http.StatusInsufficientStorage):
		level = slog.LevelDebug // turned away, maybe many of them
	case errors.Is(d.err, driver.ErrQuota), errors.Is(d.err, driver.ErrUnsupported):
		level = slog.LevelInfo
	case d.status != http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	c.log.Log(context.WithoutCancel(r.Context()), level, "request failed", "route", r.route.Name, "status", d.status, "code", d.code,
		"begun", a.status != 0, "error", d.err)
}

func (c *Core) recordOutcome(d *Dialect, rt *Route, a *pacedResponse, r *Request, start time.Time) {
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

// refusedForLoad reports whether the request came when there were too many: nothing was done
// for it, and a record of each would cost more than the request, at the cost of all.
func (r *Request) refusedForLoad(status int) bool {
	return r.release == nil && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable)
}

// admitAndHandle lets the request pass, or says why not.
func (c *Core) admitAndHandle(a *pacedResponse, r *Request, rt *Route) error {
	// A copy: net/http looks at the body of its own to tell whether the client still waits
	// to be asked for it.
	r.Request = r.WithContext(r.Context())
	a.body = newPacedBody(a, r.Request)
	r.Body = a.body
	if err := c.authorizeCaller(a, r, rt); err != nil {
		return err
	}
	if err := refuseContentEncoding(r, rt); err != nil {
		return err
	}
	if r.Caller != nil {
		leave, err := c.acquireSlotAndMemory(a, r, rt)
		if err != nil {
			return err
		}
		r.release = leave
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
		defer a.body.stopReadingAfter(ctx)() // who sends slowly does not look at ctx
		r.Request = r.WithContext(ctx)
	}
	if key := r.Header.Get(api.HeaderIdempotencyKey); rt.Idempotent && key != "" {
		if len(key) > maxIdempotencyKey {
			return invalidRequest("the header %s has %d bytes; at most %d", api.HeaderIdempotencyKey, len(key), maxIdempotencyKey)
		}
		what, err := r.fingerprint()
		if err != nil {
			return err
		}
		return c.idempotency.answerOnce(r, key, what, a, func() error { return rt.Handle(a, r) })
	}
	return rt.Handle(a, r)
}

// acquireSlotAndMemory counts a request, and takes memory for it, until leave is called.
func (c *Core) acquireSlotAndMemory(a *pacedResponse, r *Request, rt *Route) (leave func(), err error) {
	d := &c.opts.Descriptors
	bounds := []concurrencyBound{
		{"", d.Requests, errServerBusy}, {"org " + r.Caller.Org, d.OrgRequests, errKeyBusy}, {"key " + r.callerID(), d.KeyRequests, errKeyBusy},
	}
	if rt.Endless {
		bounds = []concurrencyBound{{"endless org " + r.Caller.Org, d.OrgStreams, errKeyBusy}, {"endless key " + r.callerID(), maxKeyStreams, errKeyBusy}}
	}
	leave, err = c.concurrency.acquireSlot(r.Context(), r.Caller.Org, !rt.Endless && r.cheapToQueue(), bounds...)
	if err != nil {
		return nil, err
	}
	return c.acquireMemory(a, r, rt, leave)
}

// cheapToQueue reports whether the request costs little while it waits: HTTP/2 holds what comes
// of a body meanwhile.
func (r *Request) cheapToQueue() bool {
	return r.ProtoMajor == 1 || r.ContentLength >= 0 && r.ContentLength <= smallBodyAllowance
}

// acquireMemory takes memory for a request that was counted.
func (c *Core) acquireMemory(a *pacedResponse, r *Request, rt *Route, left func()) (leave func(), err error) {
	if r.memory, err = c.reserveBaseMemory(r, rt); err != nil {
		left()
		return nil, err
	}
	a.memory = r.memory
	end := preAuthRequestOf(r.Request).markAdmitted() // it counts in the budget now
	if r.Method == http.MethodGet && a.http2 {
		_ = r.Body.Close() // nobody reads it, and HTTP/2 would hold it
	}
	return func() { r.memory.releaseAll(); left(); end() }, nil
}

// authorizeCaller finds out who makes the request, and whether they may.
func (c *Core) authorizeCaller(a *pacedResponse, r *Request, rt *Route) error {
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
	if wait, ok := c.rates.allowRequest(r.callerID()); !ok {
		a.Header().Set("Retry-After", RetryAfterSeconds(wait))
		return ErrRateLimited
	}
	if !who.Scopes.Has(rt.Scope) {
		return NeedsScope(rt.Scope)
	}
	if c.draining.Load() && !rt.Stream {
		a.Header().Set("Connection", "close") // the next request is for another server
	}
	if want := r.Header.Get(api.HeaderIfInstance); want != "" && want != c.instance && !rt.AnyServer {
		return newRefusal(api.CodeOutcomeUnknown,
			"another server had this request, and whether it did what was asked is not known; look, and ask again if need be")
	}
	return nil
}

type noCredential struct{}

func (noCredential) Error() string { return "no API key: send the header Authorization: Bearer KEY" }
func (noCredential) Unwrap() error { return accounts.ErrUnauthenticated }

// ClientAddr is the client's address.
func (r *Request) ClientAddr() string {
	if r.Core.opts.TrustProxy {
		// A proxy may add a header of its own to what a client sent.
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

// openOrg finds the organisation of the caller.
func (r *Request) openOrg() (*org, error) {
	if r.org == nil {
		o, err := r.Core.openOrg(r.Context(), r.Caller.Org)
		if err != nil {
			return nil, err
		}
		r.org = o
	}
	return r.org, nil
}

// Store returns the volumes of the caller's organisation: all of them, whether the key
// may see them or not.
func (r *Request) Store() (*vole.Store, error) {
	o, err := r.openOrg()
	if err != nil {
		return nil, err
	}
	return o.store, nil
}

// callerID names the caller among those of all organisations: a person of an identity provider
// may belong to several.
func (r *Request) callerID() string { return r.Caller.Org + " " + r.Caller.KeyID }

// Backend returns what is beneath Store.
func (r *Request) Backend() (driver.Backend, error) {
	o, err := r.openOrg()
	if err != nil {
		return nil, err
	}
	return o.backend, nil
}

// VisibleVolume returns the volume with that id, or else that name, if the caller may see it.
func (r *Request) VisibleVolume(ref string) (*vole.Volume, error) {
	store, err := r.Store()
	if err != nil {
		return nil, err
	}
	r.Audit.Volume, r.Audit.VolumeName = ref, ""
	v, err := store.Get(r.Context(), ref)
	if err != nil {
		return nil, err
	}
	return v, r.CheckVisible(v.ID(), v.Name())
}

// Operation is the name of the operation.
func (r *Request) Operation() string { return r.route.Name }

// CheckVisible refuses a volume that the caller may not see, as if it were not there. Its name is for
// the audit log: "" if it is not known.
func (r *Request) CheckVisible(id, name string) error {
	r.Audit.Volume, r.Audit.VolumeName = id, name
	if !r.Caller.Sees(id) {
		return vole.ErrNotFound
	}
	return nil
}

// AcquireFS returns the open files of a volume, which others use too. done must be called with
// what came of it.
func (r *Request) AcquireFS(ref string, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	o, err := r.openOrg()
	if err != nil {
		return nil, nil, err
	}
	if driver.IsID(ref) && r.Caller.Sees(ref) {
		key := fsKey{ref, o.store.Caps().ReadOnly}
		if x := o.fsCache.acquireCached(key); x != nil {
			r.Audit.Volume, r.Audit.VolumeName = ref, x.name
			return x.fs, func(err error) { o.fsCache.releaseFS(key, x, err) }, nil
		}
	}
	v, err := r.VisibleVolume(ref)
	if err != nil {
		return nil, nil, err
	}
	// Whoever writes to a disk volume is alone, so those who read do not.
	readOnly = readOnly && v.Info().Kind == vole.KindDisk || o.store.Caps().ReadOnly
	return o.fsCache.acquireOrOpen(r.Context(), v, readOnly)
}

// WithFS calls fn with the open files of a volume.
func (r *Request) WithFS(ref string, readOnly bool, fn func(*vole.FS) error) error {
	fsys, done, err := r.AcquireFS(ref, readOnly)
	if err != nil {
		return err
	}
	err = fn(fsys)
	done(err)
	return err
}

// EvictVolume closes what this server has open of a volume for requests.
func (r *Request) EvictVolume(volume string) {
	if r.org != nil {
		r.org.fsCache.evictVolume(volume)
	}
}

// writeAuditRecord puts a change into the audit log.
func (c *Core) writeAuditRecord(rt *Route, a *pacedResponse, r *Request) {
	rec := r.Audit
	rec.At, rec.Org, rec.KeyID, rec.KeyName = time.Now(), r.Caller.Org, r.Caller.KeyID, r.Caller.KeyName
	rec.Action, rec.Addr, rec.RequestID, rec.Status = rt.Name, r.ClientAddr(), r.ID, a.status
	if rec.VolumeName == "" && !driver.IsID(rec.Volume) {
		rec.VolumeName = rec.Volume // one that there is not, or not yet
	}
	if a.aborted {
		rec.Detail = strings.TrimSpace(rec.Detail + " (broken off)")
	}
	if rt.AuditFirst {
		c.audit.writeNow(rec) // small answers are still in a buffer: nobody has seen it yet
	} else {
		c.audit.enqueueRecord(rec)
	}
	if a.status < http.StatusBadRequest && rec.Volume != "" {
		c.Events.notifyChanged(r.Caller.Org, rec.Volume)
	}
}

// RetryAfterSeconds is the header that says when to try again.
func RetryAfterSeconds(d time.Duration) string { return strconv.Itoa(int(d/time.Second) + 1) }
