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
	Grave        bool           // is recorded before it is answered: it is about more than files
	Stream       bool           // moves file content: bounded by MinRate, not by Timeout
	Endless      bool           // ends when the client or the server does
	MaxBody      int64          // most bytes of the body; 0: api.MaxJSON; negative: any, for content of files, which MaxFile bounds
	Encoded      bool           // finds out itself how its body is compressed; others refuse Content-Encoding
	OwnBuffer    bool           // reads the body into memory that the route itself holds
	Once         bool           // heeds Idempotency-Key
	// AnyServer: the route itself sees to it that what another server has done is not
	// done again, so If-Instance does not matter.
	AnyServer bool
	Do        func(w http.ResponseWriter, r *Request) error
}

// Request is a request whose caller is known and has the route's scope.
type Request struct {
	*http.Request
	Core *Core
	Who  *accounts.Principal // nil where NoAuth
	ID   string

	Record  accounts.AuditRecord // handlers fill in what they act on
	Changes bool                 // is recorded, though not all requests of the route are

	client context.Context // ends when the client goes away
	route  *Route
	org    *org
	cred   credential
	rights *Rights // nil where NoAuth
	held   *held
	leave  func() // ends what begin began; nil: it did not
	raw    []byte // the body, once it was read; nil: it was not
}

// NewToken returns 128 random bits in a form that fits into URLs, and in which no words
// appear by chance.
func NewToken() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (c *Core) handler(d *Dialect, rt *Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		start := time.Now()
		id := requestID(hr)
		r := &Request{Request: hr.WithContext(WithRequestID(hr.Context(), id)), Core: c, ID: id, client: hr.Context(), route: rt}
		a := &answer{ResponseWriter: w, ctl: http.NewResponseController(w), http2: hr.ProtoMajor == 2, ctx: hr.Context(),
			pace: pace{rate: c.opts.MinRate, grace: c.opts.Grace}}
		a.Header().Set(api.HeaderRequestID, r.ID)
		a.Header().Set(api.HeaderInstance, c.instance)
		c.metrics.inFlight.Inc()
		defer func() {
			c.metrics.inFlight.Dec()
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				c.log.ErrorContext(r.Context(), "panic", "route", rt.Name, "panic", p, "stack", string(debug.Stack()))
				c.fail(d, a, r, errors.New("panic"))
			}
			a.flushed()
			c.finish(d, rt, a, r, start)
			if r.leave != nil {
				defer r.leave()
			}
			if a.broken {
				panic(http.ErrAbortHandler)
			}
			a.settle(hr)
		}()
		if err := c.serve(a, r, rt); err != nil {
			if r.rights != nil && r.rights.Lost() != nil {
				err = r.rights.Lost() // what it led to says less
			}
			c.fail(d, a, r, a.body.cause(err))
		}
	})
}

// maxIdempotencyKey is the most bytes of an idempotency key.
const maxIdempotencyKey = 128

// requestID returns the id that the client or a proxy gave the request, or a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get(api.HeaderRequestID)
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return NewToken()
	}
	return id
}

// fail answers with an error, or breaks the answer off when it has begun.
func (c *Core) fail(dia *Dialect, a *answer, r *Request, err error) {
	if e := (*budget.Error)(nil); errors.As(err, &e) {
		err = noRoom(e)
	}
	d := c.describe(err)
	c.logFailure(a, r, d)
	// The tenant reads its audit log, too.
	r.Record.Detail = strings.TrimSpace(r.Record.Detail + " " + d.message)
	var own *Error
	if errors.As(err, &own) && own.Retry > 0 {
		a.Header().Set("Retry-After", RetryAfter(own.Retry))
	}
	if a.status != 0 {
		// Part of an answer is out: only a broken connection tells the client.
		a.broken = true
		return
	}
	if a.body == nil || !a.body.half() {
		dia.WriteError(a, r, d)
		return
	}
	// The client is sending: if the connection were closed now it would not get the answer.
	a.Header().Set("Connection", "close")
	_ = a.ctl.EnableFullDuplex()
	dia.WriteError(a, r, d)
	_ = a.ctl.Flush()
	a.body.discard()
}

// logFailure notes a request that failed under the id that its client is told: as an error
// what no client can cause, as a warning what the server lacks, and for --log-level debug
// what clients did wrong or gave up.
func (c *Core) logFailure(a *answer, r *Request, d *described) {
	level := slog.LevelError
	own := (*Error)(nil)
	switch {
	case d.status < http.StatusInternalServerError, r.client.Err() != nil:
		level = slog.LevelDebug
	case errors.As(d.err, &own) && own.Err == nil && (own.Status == http.StatusServiceUnavailable || own.Status == http.StatusInsufficientStorage):
		level = slog.LevelDebug // turned away, maybe many of them
	case errors.Is(d.err, driver.ErrQuota), errors.Is(d.err, driver.ErrUnsupported):
		level = slog.LevelInfo
	case d.status != http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	c.log.Log(context.WithoutCancel(r.Context()), level, "request failed", "route", r.route.Name, "status", d.status, "code", d.code,
		"begun", a.status != 0, "error", d.err)
}

func (c *Core) finish(d *Dialect, rt *Route, a *answer, r *Request, start time.Time) {
	took := time.Since(start)
	c.metrics.done(d.Name, rt.Name, a.status, took, a.pace.moved)
	if (rt.Changes || r.Changes) && r.Who != nil && !r.turnedAway(a.status) {
		c.record(rt, a, r)
	}
	org := ""
	if r.Who != nil {
		org = r.Who.Org
	}
	c.log.DebugContext(r.Context(), "request", "dialect", d.Name, "route", rt.Name, "org", org, "status", a.status, "took", took, "addr", r.Addr())
}

// turnedAway reports whether the request came when there were too many: nothing was done
// for it, and a record of each would cost more than the request, at the cost of all.
func (r *Request) turnedAway(status int) bool {
	return r.leave == nil && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable)
}

// serve lets the request pass, or says why not.
func (c *Core) serve(a *answer, r *Request, rt *Route) error {
	// A copy: net/http looks at the body of its own to tell whether the client still waits
	// to be asked for it.
	r.Request = r.WithContext(r.Context())
	a.body = paceBody(a, r.Request)
	r.Body = a.body
	if err := c.admit(a, r, rt); err != nil {
		return err
	}
	if err := refuseEncoding(r, rt); err != nil {
		return err
	}
	if r.Who != nil {
		leave, err := c.begin(a, r, rt)
		if err != nil {
			return err
		}
		r.leave = leave
		defer r.hold(a)()
	}
	limit := rt.MaxBody
	if limit == 0 {
		limit = api.MaxJSON
	}
	if limit > 0 {
		r.Body = http.MaxBytesReader(a.ResponseWriter, r.Body, limit)
	}
	if r.held != nil && !rt.Stream && !rt.OwnBuffer {
		r.Body = meteredBody{r.Body, r}
	}
	if !rt.Stream && !rt.Endless {
		ctx, cancel := context.WithTimeout(r.Context(), c.opts.Timeout)
		defer cancel()
		defer a.body.cutAfter(ctx)() // who sends slowly does not look at ctx
		r.Request = r.WithContext(ctx)
	}
	if key := r.Header.Get(api.HeaderIdempotencyKey); rt.Once && key != "" {
		if len(key) > maxIdempotencyKey {
			return invalid("the header %s has %d bytes; at most %d", api.HeaderIdempotencyKey, len(key), maxIdempotencyKey)
		}
		what, err := r.fingerprint()
		if err != nil {
			return err
		}
		return c.once.do(r, key, what, a, func() error { return rt.Do(a, r) })
	}
	return rt.Do(a, r)
}

// begin counts a request, and takes memory for it, until leave is called.
func (c *Core) begin(a *answer, r *Request, rt *Route) (leave func(), err error) {
	d := &c.opts.Descriptors
	bounds := []gateBound{
		{"", d.Requests, errAllAtOnce}, {"org " + r.Who.Org, d.OrgRequests, errAtOnce}, {"key " + r.who(), d.KeyRequests, errAtOnce},
	}
	if rt.Endless {
		bounds = []gateBound{{"endless org " + r.Who.Org, d.OrgStreams, errAtOnce}, {"endless key " + r.who(), mostEndless, errAtOnce}}
	}
	leave, err = c.gates.enter(r.Context(), r.Who.Org, !rt.Endless && r.mayWait(), bounds...)
	if err != nil {
		return nil, err
	}
	return c.beginWith(a, r, rt, leave)
}

// mayWait reports whether the request costs little while it waits: HTTP/2 holds what comes
// of a body meanwhile.
func (r *Request) mayWait() bool {
	return r.ProtoMajor == 1 || r.ContentLength >= 0 && r.ContentLength <= requestSmall
}

// beginWith takes memory for a request that was counted.
func (c *Core) beginWith(a *answer, r *Request, rt *Route, left func()) (leave func(), err error) {
	if r.held, err = c.admitMemory(r, rt); err != nil {
		left()
		return nil, err
	}
	a.held = r.held
	end := arrivalOf(r.Request).admitted() // it counts in the budget now
	if r.Method == http.MethodGet && a.http2 {
		_ = r.Body.Close() // nobody reads it, and HTTP/2 would hold it
	}
	return func() { r.held.end(); left(); end() }, nil
}

// admit finds out who makes the request, and whether they may.
func (c *Core) admit(a *answer, r *Request, rt *Route) error {
	if rt.Auth == NoAuth {
		return nil
	}
	cred, err := credentialOf(r.Request, rt.Auth)
	if err != nil {
		return err
	}
	who, err := c.authenticate(r.Context(), cred)
	if err != nil {
		return &notBegun{err}
	}
	r.Who, r.cred = who, cred
	if wait, ok := c.limits.take(r.who()); !ok {
		a.Header().Set("Retry-After", RetryAfter(wait))
		return ErrRateLimited
	}
	if !who.Scopes.Has(rt.Scope) {
		return NeedsScope(rt.Scope)
	}
	if c.draining.Load() && !rt.Stream {
		a.Header().Set("Connection", "close") // the next request is for another server
	}
	if want := r.Header.Get(api.HeaderIfInstance); want != "" && want != c.instance && !rt.AnyServer {
		return refusal(http.StatusConflict, "outcome_unknown",
			"another server had this request, and whether it did what was asked is not known; look, and ask again if need be")
	}
	return nil
}

type unauthenticated struct{}

func (unauthenticated) Error() string { return "no API key: send the header Authorization: Bearer KEY" }
func (unauthenticated) Unwrap() error { return accounts.ErrUnauthenticated }

// Addr is the client's address.
func (r *Request) Addr() string {
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

// open finds the organisation of the caller.
func (r *Request) open() (*org, error) {
	if r.org == nil {
		o, err := r.Core.org(r.Context(), r.Who.Org)
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
	o, err := r.open()
	if err != nil {
		return nil, err
	}
	return o.store, nil
}

// who names the caller among those of all organisations: a person of an identity provider
// may belong to several.
func (r *Request) who() string { return r.Who.Org + " " + r.Who.KeyID }

// Backend returns what is beneath Store.
func (r *Request) Backend() (driver.Backend, error) {
	o, err := r.open()
	if err != nil {
		return nil, err
	}
	return o.back, nil
}

// Volume returns the volume with that id, or else that name, if the caller may see it.
func (r *Request) Volume(ref string) (*vole.Volume, error) {
	store, err := r.Store()
	if err != nil {
		return nil, err
	}
	r.Record.Volume, r.Record.VolumeName = ref, ""
	v, err := store.Get(r.Context(), ref)
	if err != nil {
		return nil, err
	}
	return v, r.See(v.ID(), v.Name())
}

// Action is the name of the operation.
func (r *Request) Action() string { return r.route.Name }

// See refuses a volume that the caller may not see, as if it were not there. Its name is for
// the audit log: "" if it is not known.
func (r *Request) See(id, name string) error {
	r.Record.Volume, r.Record.VolumeName = id, name
	if !r.Who.Sees(id) {
		return vole.ErrNotFound
	}
	return nil
}

// Open returns the open files of a volume, which others use too. done must be called with
// what came of it.
func (r *Request) Open(ref string, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	o, err := r.open()
	if err != nil {
		return nil, nil, err
	}
	if driver.IsID(ref) && r.Who.Sees(ref) {
		key := fileKey{ref, o.store.Caps().ReadOnly}
		if x := o.files.cached(key); x != nil {
			r.Record.Volume, r.Record.VolumeName = ref, x.name
			return x.fs, func(err error) { o.files.put(key, x, err) }, nil
		}
	}
	v, err := r.Volume(ref)
	if err != nil {
		return nil, nil, err
	}
	// Whoever writes to a disk volume is alone, so those who read do not.
	readOnly = readOnly && v.Info().Kind == vole.KindDisk || o.store.Caps().ReadOnly
	return o.files.get(r.Context(), v, readOnly)
}

// Use calls fn with the open files of a volume.
func (r *Request) Use(ref string, readOnly bool, fn func(*vole.FS) error) error {
	fsys, done, err := r.Open(ref, readOnly)
	if err != nil {
		return err
	}
	err = fn(fsys)
	done(err)
	return err
}

// Forget closes what this server has open of a volume for requests.
func (r *Request) Forget(volume string) {
	if r.org != nil {
		r.org.files.forget(volume)
	}
}

// record puts a change into the audit log.
func (c *Core) record(rt *Route, a *answer, r *Request) {
	rec := r.Record
	rec.At, rec.Org, rec.KeyID, rec.KeyName = time.Now(), r.Who.Org, r.Who.KeyID, r.Who.KeyName
	rec.Action, rec.Addr, rec.RequestID, rec.Status = rt.Name, r.Addr(), r.ID, a.status
	if rec.VolumeName == "" && !driver.IsID(rec.Volume) {
		rec.VolumeName = rec.Volume // one that there is not, or not yet
	}
	if a.broken {
		rec.Detail = strings.TrimSpace(rec.Detail + " (broken off)")
	}
	if rt.Grave {
		c.audit.now(rec) // small answers are still in a buffer: nobody has seen it yet
	} else {
		c.audit.add(rec)
	}
	if a.status < http.StatusBadRequest && rec.Volume != "" {
		c.Events.poke(r.Who.Org, rec.Volume)
	}
}

// RetryAfter is the header that says when to try again.
func RetryAfter(d time.Duration) string { return strconv.Itoa(int(d/time.Second) + 1) }
