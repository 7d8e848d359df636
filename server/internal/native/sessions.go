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
	id, org, key string
	hold         core.Holder
	store        *vole.Store // of hold

	attached int // attachments that are counted; guarded by API.mu

	mu      sync.Mutex // guards what follows
	until   time.Time
	ended   bool
	rights  *core.Rights // of whoever uses it; of several tokens, those that last longest
	revoked bool         // they are lost
}

// follow lets the session live as long as the rights of a caller of it, where those last
// longer than what it lives by. Its requests are all of one key, or one person's.
func (s *session) follow(r *core.Request) {
	s.mu.Lock()
	old := s.rights
	if s.ended || old != nil && !r.Who.Expires.After(old.Expires()) {
		s.mu.Unlock()
		return
	}
	var x *core.Rights
	x = r.Rights(func(error) {
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

// mostSessions is how many sessions of one key may be open on one server.
const mostSessions = 1000

var errAllOpen = &core.Error{Status: http.StatusServiceUnavailable, Code: "unavailable", Retry: time.Second,
	Message: "as much is open on this server as may be; try again, or another server"}

var errTooMany = &core.Error{Status: http.StatusTooManyRequests, Code: "rate_limited", Retry: time.Second, Message: "too much is open with this key, or in its organisation; close some of it"}

var errNoSession = &core.Error{Status: http.StatusGone, Code: "unknown_session", Message: "the session, file system or file is not open on this server: it was closed, not renewed, or another server's"}

func (a *API) sessionRoutes() []*core.Route {
	const s = api.Prefix + "/sessions"
	open := change("POST", s+"/{session}/filesystems", "openFilesystem", read, a.openFilesystem)
	open.Changes = false
	return []*core.Route{
		{Method: "POST", Path: s, Name: "openSession", Scope: read, Do: a.openSession},
		{Method: "POST", Path: s + "/{session}/renew", Name: "renewSession", Scope: read, Do: a.renewSession},
		{Method: "DELETE", Path: s + "/{session}", Name: "closeSession", Scope: read, Stream: true, Do: a.closeSession},
		open,
		{Method: "DELETE", Path: api.Prefix + "/filesystems/{filesystem}", Name: "closeFilesystem", Scope: read, Stream: true, Once: true, Do: a.closeFilesystem},
	}
}

func (a *API) newSession(r *core.Request) (*session, error) {
	if a.core.Draining() {
		return nil, core.ErrUnavailable
	}
	return a.hold(r, uuid.NewString(), false)
}

// countSession counts one more session of a key, or n fewer when n is negative, before it
// is begun: those that are begun at once are bounded too. It reports false, and counts
// nothing, when the key has too many.
func (a *API) countSession(key string, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 && a.sessionsOf[key] >= mostSessions {
		return false
	}
	if a.sessionsOf[key] += n; a.sessionsOf[key] <= 0 {
		delete(a.sessionsOf, key)
	}
	return true
}

// owner names the key of a session among those of all organisations.
func (s *session) owner() string { return s.org + " " + s.key }

// hold begins a session, or goes on with one that another server has begun.
func (a *API) hold(r *core.Request, id string, resume bool) (_ *session, err error) {
	owner := r.Who.Org + " " + r.Who.KeyID
	if !a.countSession(owner, 1) {
		return nil, errTooMany
	}
	kept := false
	defer func() {
		if !kept {
			a.countSession(owner, -1)
		}
	}()
	h, err := a.core.Hold(r.Context(), r.Who.Org, id, r.Who.KeyID, a.opts.Lease, resume)
	if err != nil {
		return nil, err
	}
	s := &session{id: id, org: r.Who.Org, key: r.Who.KeyID, hold: h, store: vole.New(h), until: time.Now().Add(a.opts.Lease)}
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
		s.follow(r)
	}
	switch {
	case closed:
		return nil, core.ErrUnavailable
	case have != nil:
		return have, nil
	}
	return s, nil
}

// session returns a session of the caller.
func (a *API) session(r *core.Request, id string) (*session, error) {
	a.mu.Lock()
	s := a.sessions[id]
	a.mu.Unlock()
	if s == nil && uuid.Validate(id) == nil && !a.core.Draining() {
		var err error
		s, err = a.hold(r, id, true)
		if errors.Is(err, vole.ErrNotFound) {
			return nil, errNoSession
		}
		if err != nil {
			return nil, err
		}
	}
	if s == nil || !s.of(r) {
		return nil, errNoSession
	}
	s.follow(r)
	return s, nil
}

func (s *session) of(r *core.Request) bool { return s.org == r.Who.Org && s.key == r.Who.KeyID }

func (a *API) openSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.newSession(r)
	if err != nil {
		return err
	}
	return core.WriteJSON(w, http.StatusCreated, a.describe(s))
}

func (a *API) describe(s *session) api.Session {
	return api.Session{ID: s.id, LeaseSeconds: a.opts.Lease.Seconds(), URL: a.opts.Advertise}
}

func (a *API) renewSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.session(r, r.PathValue("session"))
	if err != nil {
		return err
	}
	asked := time.Now()
	if err := s.hold.Renew(r.Context()); errors.Is(err, driver.ErrClosed) {
		a.endSession(s, false)
		return errNoSession
	} else if err != nil {
		return err
	}
	s.mu.Lock()
	s.until = asked.Add(a.opts.Lease)
	s.mu.Unlock()
	return core.WriteJSON(w, http.StatusOK, a.describe(s))
}

func (a *API) closeSession(w http.ResponseWriter, r *core.Request) error {
	s, err := a.session(r, r.PathValue("session"))
	if errors.Is(err, errNoSession) {
		return noContent(w)
	}
	if err != nil {
		return err
	}
	if err := a.endSession(s, false); err != nil {
		return err
	}
	return noContent(w)
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
	a.countSession(s.owner(), -1)
	var files []*handle
	var systems []*filesystem
	var dirs []*listing
	a.mu.Lock()
	delete(a.sessions, s.id)
	a.uncount(s.org, s.attached)
	s.attached = 0
	for _, h := range a.handles {
		if h.sess == s {
			files = append(files, h)
			a.dropHandle(h)
		}
	}
	for _, f := range a.systems {
		if f.sess == s {
			systems = append(systems, f)
			a.dropSystem(f)
		}
	}
	for id, l := range a.listings {
		if l.sess == s {
			dirs = append(dirs, l)
			a.dropListing(id)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, l := range dirs {
		a.end(l, nil)
	}
	for _, h := range files {
		errs = append(errs, ignore(h.file.Close(), vole.ErrNotFound, vole.ErrClosed))
	}
	for _, f := range systems {
		errs = append(errs, ignore(f.fs.Close(), vole.ErrNotFound, vole.ErrClosed))
	}
	if leave {
		errs = append(errs, s.hold.Leave())
	} else {
		errs = append(errs, s.hold.Close())
	}
	return errors.Join(errs...)
}

func ignore(err error, these ...error) error {
	for _, t := range these {
		if errors.Is(err, t) {
			return nil
		}
	}
	return err
}

// tidy ends sessions that were not renewed and listings that nobody goes on with.
func (a *API) tidy() {
	tick := time.NewTicker(min(a.opts.Lease/4, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-a.core.Life().Done():
			return
		case now := <-tick.C:
			a.endLate(now)
		}
	}
}

func (a *API) endLate(now time.Time) {
	var late, revoked []*session
	var rest []*listing
	a.mu.Lock()
	for _, s := range a.sessions {
		s.mu.Lock()
		if s.revoked {
			revoked = append(revoked, s)
		} else if now.After(s.until) {
			late = append(late, s)
		}
		s.mu.Unlock()
	}
	for id, l := range a.listings {
		if l.sess == nil && now.Sub(l.used) > listingRest {
			rest = append(rest, l)
			a.dropListing(id)
		}
	}
	a.mu.Unlock()
	for _, l := range rest {
		a.end(l, nil)
	}
	for _, s := range late {
		a.endLogged(s, true)
	}
	// Their attachments and drafts are not for another server to go on with.
	for _, s := range revoked {
		a.endLogged(s, false)
	}
}

// endLogged is endSession where nobody waits for what comes of it.
func (a *API) endLogged(s *session, leave bool) {
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
		if l.sess == nil {
			dirs = append(dirs, l)
			a.dropListing(id)
		}
	}
	a.mu.Unlock()
	for _, l := range dirs {
		a.end(l, nil)
	}
	var errs []error
	for _, s := range list {
		errs = append(errs, a.endSession(s, true))
	}
	return errors.Join(errs...)
}

// storeFor returns the volumes through which a draft of a session is made, or those of
// the organisation when there is no session.
func (a *API) storeFor(r *core.Request, id string) (*vole.Store, error) {
	if id == "" {
		return r.Store()
	}
	s, err := a.session(r, id)
	if err != nil {
		return nil, err
	}
	return s.store, nil
}
