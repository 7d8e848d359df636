package native

import (
	"errors"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// sessionFS is a file system that a session has open, known to its client by id.
type sessionFS struct {
	id      string
	session *session
	volume  string // its id
	name    string // of the volume when it was opened
	fs      *vole.FS

	attachment string // under which it was opened; "": none
}

// sessionHandle is an open file of a session, known to its client by id.
type sessionHandle struct {
	id      string
	session *session
	volume  string
	name    string // of the volume, as that of the filesystem
	file    *vole.File
}

// openFilesystem opens the files of a volume for a session, perhaps under one of its
// attachments. The caller needs the scope write unless it opens read-only.
func (a *API) openFilesystem(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	ref := q.Required("volume")
	opts := vole.FSOptions{ReadOnly: q.Bool("read_only"), Batch: q.Bool("batch"), Attachment: q.String("attachment")}
	if err := q.Err(); err != nil {
		return err
	}
	s, err := a.findSession(r, r.PathValue("session"))
	if err != nil {
		return err
	}
	if !opts.ReadOnly && !r.Caller.Scopes.Has(writeScope) {
		return core.NeedsScope(writeScope)
	}
	v, err := r.VisibleVolume(ref)
	if err != nil {
		return err
	}
	if opts.Attachment != "" {
		// Attachment ids are listed for all to see; only the session that holds one may use it.
		if own, err := s.backend.Holds(r.Context(), opts.Attachment); err != nil {
			return err
		} else if !own {
			return driver.Errorf(driver.ErrClosed, "the attachment has ended, or is not this session's; attach again")
		}
	}
	// The session opens the volume itself; a shared file system of requests would conflict on a
	// disk volume.
	r.EvictVolume(v.ID())
	fsys, err := v.OpenFS(r.Context(), opts)
	if err != nil {
		return err
	}
	f := &sessionFS{id: core.NewToken(), session: s, volume: v.ID(), name: v.Name(), fs: fsys, attachment: opts.Attachment}
	if err := a.registerOpen(s, func() { a.filesystems[f.id] = f }); err != nil {
		return errors.Join(err, fsys.Close())
	}
	return core.WriteJSON(w, http.StatusCreated, api.Filesystem{ID: f.id})
}

// registerOpen calls put, which enters something into the tables, under the locks, unless the
// session has ended or too much is open.
func (a *API) registerOpen(s *session, put func()) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || a.closed {
		return errNoSession
	}
	if err := a.countOpen(s.org); err != nil {
		return err
	}
	put()
	return nil
}

// countOpen counts one more open thing of an organisation. The caller holds mu.
func (a *API) countOpen(org string) error {
	most := &a.core.Options().Descriptors
	switch {
	case a.usageOf(org).openCount >= most.OrgOpen:
		return errTooManyOpen
	case a.openTotal >= most.Open:
		return errServerFull
	}
	a.usageOf(org).openCount++
	a.openTotal++
	return nil
}

// uncountOpen counts n fewer. The caller holds mu.
func (a *API) uncountOpen(org string, n int) {
	a.usageOf(org).openCount -= n
	a.openTotal -= n
}

// removeHandle takes a file out of the tables; the caller closes it. The caller holds mu, here
// and below.
func (a *API) removeHandle(h *sessionHandle) {
	if a.handles[h.id] != nil {
		delete(a.handles, h.id)
		a.uncountOpen(h.session.org, 1)
	}
}

// removeFilesystem takes a file system out of the tables; the caller closes it.
func (a *API) removeFilesystem(f *sessionFS) {
	if a.filesystems[f.id] != nil {
		delete(a.filesystems, f.id)
		a.uncountOpen(f.session.org, 1)
	}
}

// removeListing takes a parked listing out of the tables and returns it, nil if there is none.
func (a *API) removeListing(token string) *listing {
	l := a.listings[token]
	if l != nil {
		delete(a.listings, token)
		a.usageOf(l.org).listingCount--
		a.listingTotal--
	}
	return l
}

// findFilesystem returns an open file system of the caller. It checks again that the caller may
// see the volume.
func (a *API) findFilesystem(r *core.Request, id string) (*sessionFS, error) {
	a.mu.Lock()
	f := a.filesystems[id]
	a.mu.Unlock()
	if f == nil || !f.session.ownedBy(r) {
		return nil, errNoSession
	}
	return f, r.CheckVisible(f.volume, f.name)
}

// closeFilesystem closes an open file system. An error of Close reaches the client: it may be a
// lost write.
func (a *API) closeFilesystem(w http.ResponseWriter, r *core.Request) error {
	f, err := a.findFilesystem(r, r.PathValue("filesystem"))
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.removeFilesystem(f)
	a.mu.Unlock()
	if err := f.fs.Close(); err != nil {
		return err
	}
	return writeNoContent(w)
}
