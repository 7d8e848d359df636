package native

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/internal/periodic"
	"github.com/volehq/vole/server/internal/core"
)

// session is what one client holds on this server: attachments, drafts, open file systems and
// files. It ends when the client closes it, when its lease runs out, or when the rights of its
// key are lost.
//
// backend is the session in the namespace, where it may outlive this server; store makes volumes
// through it.
type session struct {
	id, org string
	owner   string // CallerID of its callers
	backend core.Session
	store   *vole.Store // volumes through backend

	attachments int // counted attachments; guarded by API.mu

	mu       sync.Mutex // guards what follows
	leaseEnd time.Time
	ended    bool
	rights   *core.Rights // of its callers; those that last longest
	revoked  bool         // the rights are lost: reapLoop ends the session
}

// watchCallerRights makes the session live as long as the rights of r's caller, if those last
// longer than the ones it has lived by. All callers of a session have the same key, or are one
// person with several tokens.
func (s *session) watchCallerRights(r *core.Request) {
	s.mu.Lock()
	old := s.rights
	// Rights that last longer replace the watched ones.
	if s.ended || old != nil && !r.Caller.Expires.After(old.Expires()) {
		s.mu.Unlock()
		return
	}
	var x *core.Rights
	// onLoss only marks the session: reapLoop ends it, since Release must not be called from
	// onLoss.
	x = r.WatchRights(func(error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.revoked = s.revoked || s.rights == x
	})
	s.rights = x
	s.mu.Unlock()
	if old != nil {
		old.Release()
	}
}

// maxKeySessions bounds the open sessions of one key on one server.
const maxKeySessions = 1000

var errServerFull = &core.Error{Code: api.CodeUnavailable, Retry: time.Second,
	Message: "the server is at its limit of open files and attachments; try again, or use another server"}

var errTooManyOpen = &core.Error{Code: api.CodeRateLimited, Retry: time.Second, Message: "this key or its organisation is at its limit of open sessions, files and attachments; close some"}

var errNoSession = &core.Error{Code: api.CodeUnknownSession, Message: "the session, file system or file is not open on this server: it was closed, has expired, or belongs to another server"}

// sessionRoutes are the routes of sessions and of their open file systems.
func (a *API) sessionRoutes() []*core.Route {
	const s = api.Prefix + "/sessions"
	open := changeRoute("POST", s+"/{session}/filesystems", "openFilesystem", readScope, a.openFilesystem)
	open.Changes = false
	return []*core.Route{
		{Method: "POST", Path: s, Name: "openSession", Scope: readScope, Handle: a.openSession},
		{Method: "POST", Path: s + "/{session}/renew", Name: "renewSession", Scope: readScope, Handle: a.renewSession},
		{Method: "DELETE", Path: s + "/{session}", Name: "closeSession", Scope: readScope, Stream: true, Handle: a.closeSession},
		open,
		{Method: "DELETE", Path: api.Prefix + "/filesystems/{filesystem}", Name: "closeFilesystem", Scope: readScope, Stream: true, Idempotent: true, Handle: a.closeFilesystem},
	}
}

// beginSession begins a session for the caller. A draining server refuses: the session would end
// with it.
func (a *API) beginSession(r *core.Request) (*session, error) {
	if a.core.Draining() {
		return nil, core.ErrUnavailable
	}
	return a.beginOrResumeSession(r, uuid.NewString(), false)
}

// countSession adds n to the sessions of a key, or subtracts -n. It is called before a session
// begins, so that concurrent beginnings are bounded too. It reports false, and counts nothing,
// if the key has too many.
func (a *API) countSession(key string, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 && a.sessionsByKey[key] >= maxKeySessions {
		return false
	}
	if a.sessionsByKey[key] += n; a.sessionsByKey[key] <= 0 {
		delete(a.sessionsByKey, key)
	}
	return true
}

// beginOrResumeSession begins a session with that id, or resumes one that another server began.
// If two requests resume it at the same time, the second uses the session of the first.
func (a *API) beginOrResumeSession(r *core.Request, id string, resume bool) (_ *session, err error) {
	// Counted before the session exists, and uncounted unless it is kept.
	owner := r.CallerID()
	if !a.countSession(owner, 1) {
		return nil, errTooManyOpen
	}
	kept := false
	defer func() {
		if !kept {
			a.countSession(owner, -1)
		}
	}()
	h, err := a.core.OpenSession(r.Context(), r.Caller.Org, id, r.Caller.KeyID, a.opts.Lease, resume)
	if err != nil {
		return nil, err
	}
	s := &session{id: id, org: r.Caller.Org, owner: owner, backend: h, store: vole.New(h), leaseEnd: time.Now().Add(a.opts.Lease)}
	a.mu.Lock()
	have := a.sessions[id]
	if have == nil && !a.closed {
		a.sessions[id], kept = s, true
	}
	closed := a.closed
	a.mu.Unlock()
	// The session is left, not closed: if another request has resumed it, its attachments must
	// stay.
	if have != nil || closed {
		_ = h.Leave()
	} else {
		s.watchCallerRights(r)
	}
	switch {
	case closed:
		return nil, core.ErrUnavailable
	case have != nil:
		return have, nil
	}
	return s, nil
}

// findSession returns a session of the caller. If this server does not have it, it tries to
// resume it from the namespace.
func (a *API) findSession(r *core.Request, id string) (*session, error) {
	a.mu.Lock()
	s := a.sessions[id]
	a.mu.Unlock()
	// Another server may have begun the session. A draining server takes over none.
	if s == nil && uuid.Validate(id) == nil && !a.core.Draining() {
		var err error
		s, err = a.beginOrResumeSession(r, id, true)
		if errors.Is(err, vole.ErrNotFound) {
			return nil, errNoSession
		}
		if err != nil {
			return nil, err
		}
	}
	if s == nil || s.owner != r.CallerID() {
		return nil, errNoSession
	}
	s.watchCallerRights(r)
	return s, nil
}

// openSession begins a session and answers with its id and lease.
func (a *API) openSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.beginSession(r)
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusCreated, a.toAPISession(s))
}

// toAPISession returns the wire form of a session.
func (a *API) toAPISession(s *session) api.Session {
	return api.Session{ID: s.id, LeaseSeconds: a.opts.Lease.Seconds(), URL: a.opts.Advertise}
}

// renewSession extends the lease, first in the namespace and then here: from the time before the
// call, so that this server never believes in a longer lease than the database.
func (a *API) renewSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.findSession(r, r.PathValue("session"))
	if err != nil {
		return err
	}
	// The lease runs from before the renewal: this server must not believe in it for longer than
	// the database does.
	asked := time.Now()
	if err := s.backend.Renew(r.Context()); errors.Is(err, driver.ErrClosed) {
		a.endSession(s, false)
		return errNoSession
	} else if err != nil {
		return err
	}
	s.mu.Lock()
	s.leaseEnd = asked.Add(a.opts.Lease)
	s.mu.Unlock()
	return core.WriteJSON(w, http.StatusOK, a.toAPISession(s))
}

// closeSession ends a session with all that it holds. Closing one that has ended already
// succeeds.
func (a *API) closeSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.findSession(r, r.PathValue("session"))
	if errors.Is(err, errNoSession) {
		return core.AnswerNoContent(w, nil)
	}
	if err != nil {
		return err
	}
	return core.AnswerNoContent(w, a.endSession(s, false))
}

// endSession closes all that a session has open on this server, once. With leave its attachments
// and drafts stay in the namespace, where another server may resume the session; without, they
// end too.
//
// The session leaves the tables under API.mu first; then its listings, files and file systems
// are closed without the lock, in that order.
func (a *API) endSession(s *session, leave bool) error {
	s.mu.Lock()
	ended, rights := s.ended, s.rights
	s.ended = true
	s.mu.Unlock()
	if ended {
		return nil
	}
	if rights != nil {
		rights.Release()
	}
	a.countSession(s.owner, -1)
	// Out of the tables first, so that no new request finds them. The counts of open things go
	// down here, not with each close.
	var files, systems []*opened
	a.mu.Lock()
	delete(a.sessions, s.id)
	a.uncountOpen(s.org, s.attachments)
	s.attachments = 0
	for _, o := range a.opened {
		if o.session != s {
			continue
		}
		a.removeOpened(o)
		if o.file != nil {
			files = append(files, o)
		} else {
			systems = append(systems, o)
		}
	}
	dirs := a.removeListings(func(l *listing) bool { return l.session == s })
	a.mu.Unlock()
	// Without the lock: closing may wait for the backend. An error of a close is a lost write.
	a.closeListings(dirs)
	var errs []error
	for _, o := range append(files, systems...) {
		errs = append(errs, ignoreErrors(o.close(), vole.ErrNotFound, vole.ErrClosed))
	}
	if leave {
		errs = append(errs, s.backend.Leave())
	} else {
		errs = append(errs, s.backend.Close())
	}
	return errors.Join(errs...)
}

// ignoreErrors returns err unless it matches one of these.
func ignoreErrors(err error, these ...error) error {
	for _, t := range these {
		if errors.Is(err, t) {
			return nil
		}
	}
	return err
}

// reapLoop ends expired sessions and abandoned listings until the server ends. It ticks four
// times per lease, at least once a second.
func (a *API) reapLoop() {
	for now := range periodic.Ticks(a.core.Lifetime(), min(a.opts.Lease/4, time.Second)) {
		a.endExpired(now)
	}
}

// endExpired ends sessions whose lease has run out or whose rights are lost, and closes listings
// without a session that were not continued. A revoked session is not left for another server.
func (a *API) endExpired(now time.Time) {
	var late, revoked []*session
	a.mu.Lock()
	for _, s := range a.sessions {
		s.mu.Lock()
		if s.revoked {
			revoked = append(revoked, s)
		} else if now.After(s.leaseEnd) {
			late = append(late, s)
		}
		s.mu.Unlock()
	}
	idle := a.removeListings(func(l *listing) bool { return l.session == nil && now.Sub(l.parkedAt) > listingIdleTimeout })
	a.mu.Unlock()
	a.closeListings(idle)
	for _, s := range late {
		a.endSessionLogged(s, true)
	}
	// Their attachments and drafts are not for another server to go on with.
	for _, s := range revoked {
		a.endSessionLogged(s, false)
	}
}

// endSessionLogged ends a session in the background and logs errors.
func (a *API) endSessionLogged(s *session, leave bool) {
	if err := a.endSession(s, leave); err != nil {
		a.core.Options().Log.Warn("session: cannot end it cleanly", "session", s.id, "error", err)
	}
}

// Close ends all sessions. Those of a namespace may continue on another server.
func (a *API) Close() error {
	a.mu.Lock()
	a.closed = true
	sessions := slices.Collect(maps.Values(a.sessions))
	dirs := a.removeListings(func(l *listing) bool { return l.session == nil })
	a.mu.Unlock()
	a.closeListings(dirs)
	var errs []error
	for _, s := range sessions {
		errs = append(errs, a.endSession(s, true))
	}
	return errors.Join(errs...)
}

// storeOfSession returns the store of a session of the caller, through which its drafts are
// made, or that of the organisation if id is empty.
func (a *API) storeOfSession(r *core.Request, id string) (*vole.Store, error) {
	if id == "" {
		return r.Store()
	}
	s, err := a.findSession(r, id)
	if err != nil {
		return nil, err
	}
	return s.store, nil
}
