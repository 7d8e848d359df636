package native

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// session is what one client holds: attachments, drafts, open file systems and files.
// It ends when the client says so, or does not renew it, or has lost its rights.
type session struct {
	id, org, keyID string
	backend        core.Session
	store          *vole.Store // of hold

	attachments int // attachments that are counted; guarded by API.mu

	mu       sync.Mutex // guards what follows
	leaseEnd time.Time
	ended    bool
	rights   *core.Rights // of whoever uses it; of several tokens, those that last longest
	revoked  bool         // they are lost
}

// watchCallerRights lets the session live as long as the rights of a caller of it, where those last
// longer than what it lives by. Its requests are all of one key, or one person's.
func (s *session) watchCallerRights(r *core.Request) {
	s.mu.Lock()
	old := s.rights
	if s.ended || old != nil && !r.Caller.Expires.After(old.Expires()) {
		s.mu.Unlock()
		return
	}
	var x *core.Rights
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

// maxKeySessions is how many sessions of one key may be open on one server.
const maxKeySessions = 1000

var errServerFull = &core.Error{Code: api.CodeUnavailable, Retry: time.Second,
	Message: "as much is open on this server as may be; try again, or another server"}

var errTooManyOpen = &core.Error{Code: api.CodeRateLimited, Retry: time.Second, Message: "too much is open with this key, or in its organisation; close some of it"}

var errNoSession = &core.Error{Code: api.CodeUnknownSession, Message: "the session, file system or file is not open on this server: it was closed, not renewed, or another server's"}

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

func (a *API) beginSession(r *core.Request) (*session, error) {
	if a.core.Draining() {
		return nil, core.ErrUnavailable
	}
	return a.beginOrResumeSession(r, uuid.NewString(), false)
}

// countSession counts one more session of a key, or n fewer when n is negative, before it
// is begun: those that are begun at once are bounded too. It reports false, and counts
// nothing, when the key has too many.
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

// ownerKey names the key of a session among those of all organisations.
func (s *session) ownerKey() string { return s.org + " " + s.keyID }

// beginOrResumeSession begins a session, or goes on with one that another server has begun.
func (a *API) beginOrResumeSession(r *core.Request, id string, resume bool) (_ *session, err error) {
	owner := r.Caller.Org + " " + r.Caller.KeyID
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
	s := &session{id: id, org: r.Caller.Org, keyID: r.Caller.KeyID, backend: h, store: vole.New(h), leaseEnd: time.Now().Add(a.opts.Lease)}
	a.mu.Lock()
	have := a.sessions[id]
	if have == nil && !a.closed {
		a.sessions[id], kept = s, true
	}
	closed := a.closed
	a.mu.Unlock()
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

// findSession returns a session of the caller.
func (a *API) findSession(r *core.Request, id string) (*session, error) {
	a.mu.Lock()
	s := a.sessions[id]
	a.mu.Unlock()
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
	if s == nil || !s.ownedBy(r) {
		return nil, errNoSession
	}
	s.watchCallerRights(r)
	return s, nil
}

func (s *session) ownedBy(r *core.Request) bool {
	return s.org == r.Caller.Org && s.keyID == r.Caller.KeyID
}

func (a *API) openSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.beginSession(r)
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusCreated, a.toAPISession(s))
}

func (a *API) toAPISession(s *session) api.Session {
	return api.Session{ID: s.id, LeaseSeconds: a.opts.Lease.Seconds(), URL: a.opts.Advertise}
}

func (a *API) renewSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.findSession(r, r.PathValue("session"))
	if err != nil {
		return err
	}
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

func (a *API) closeSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.findSession(r, r.PathValue("session"))
	if errors.Is(err, errNoSession) {
		return writeNoContent(w)
	}
	if err != nil {
		return err
	}
	if err := a.endSession(s, false); err != nil {
		return err
	}
	return writeNoContent(w)
}

// endSession closes what a session has open here. With leave it may go on elsewhere.
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
	a.countSession(s.ownerKey(), -1)
	var files []*sessionHandle
	var systems []*sessionFS
	var dirs []*listing
	a.mu.Lock()
	delete(a.sessions, s.id)
	a.uncountOpen(s.org, s.attachments)
	s.attachments = 0
	for _, h := range a.handles {
		if h.session == s {
			files = append(files, h)
			a.removeHandle(h)
		}
	}
	for _, f := range a.filesystems {
		if f.session == s {
			systems = append(systems, f)
			a.removeFilesystem(f)
		}
	}
	for id, l := range a.listings {
		if l.session == s {
			dirs = append(dirs, l)
			a.removeListing(id)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, l := range dirs {
		a.closeListing(l, nil)
	}
	for _, h := range files {
		errs = append(errs, ignoreErrors(h.file.Close(), vole.ErrNotFound, vole.ErrClosed))
	}
	for _, f := range systems {
		errs = append(errs, ignoreErrors(f.fs.Close(), vole.ErrNotFound, vole.ErrClosed))
	}
	if leave {
		errs = append(errs, s.backend.Leave())
	} else {
		errs = append(errs, s.backend.Close())
	}
	return errors.Join(errs...)
}

func ignoreErrors(err error, these ...error) error {
	for _, t := range these {
		if errors.Is(err, t) {
			return nil
		}
	}
	return err
}

// reapLoop ends sessions that were not renewed and listings that nobody goes on with.
func (a *API) reapLoop() {
	tick := time.NewTicker(min(a.opts.Lease/4, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-a.core.Lifetime().Done():
			return
		case now := <-tick.C:
			a.endExpired(now)
		}
	}
}

func (a *API) endExpired(now time.Time) {
	var late, revoked []*session
	var rest []*listing
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
	for id, l := range a.listings {
		if l.session == nil && now.Sub(l.parkedAt) > listingIdleTimeout {
			rest = append(rest, l)
			a.removeListing(id)
		}
	}
	a.mu.Unlock()
	for _, l := range rest {
		a.closeListing(l, nil)
	}
	for _, s := range late {
		a.endSessionLogged(s, true)
	}
	// Their attachments and drafts are not for another server to go on with.
	for _, s := range revoked {
		a.endSessionLogged(s, false)
	}
}

// endSessionLogged is endSession where nobody waits for what comes of it.
func (a *API) endSessionLogged(s *session, leave bool) {
	if err := a.endSession(s, leave); err != nil {
		a.core.Options().Log.Warn("session: ending it", "session", s.id, "error", err)
	}
}

// Close ends all sessions. Those of a namespace may go on with another server.
func (a *API) Close() error {
	a.mu.Lock()
	a.closed = true
	var list []*session
	for _, s := range a.sessions {
		list = append(list, s)
	}
	var dirs []*listing
	for id, l := range a.listings {
		if l.session == nil {
			dirs = append(dirs, l)
			a.removeListing(id)
		}
	}
	a.mu.Unlock()
	for _, l := range dirs {
		a.closeListing(l, nil)
	}
	var errs []error
	for _, s := range list {
		errs = append(errs, a.endSession(s, true))
	}
	return errors.Join(errs...)
}

// storeOfSession returns the volumes through which a draft of a session is made, or those of
// the organisation when there is no session.
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
