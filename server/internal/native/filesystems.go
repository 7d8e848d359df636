package native

import (
	"errors"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// sessionFS is a volume's files as a session has them open.
type sessionFS struct {
	id      string
	session *session
	volume  string // its id
	name    string // of the volume when it was opened
	fs      *vole.FS

	attachment string // under which it was opened; "": none
}

// sessionHandle is an open file of a session.
type sessionHandle struct {
	id      string
	session *session
	volume  string
	name    string // of the volume, as that of the filesystem
	file    *vole.File
}

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
		// Its id is in the list for all to see; the right to write is its holder's alone.
		if own, err := s.backend.Holds(r.Context(), opts.Attachment); err != nil {
			return err
		} else if !own {
			return driver.Errorf(driver.ErrClosed, "the attachment has ended, or is not this session's; attach again")
		}
	}
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

// registerOpen calls put, which enters something into the tables, unless the session has ended or
// too much is open.
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

// countOpen counts one more that an organisation has open. The caller holds mu.
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

// uncountOpen counts n less. The caller holds mu.
func (a *API) uncountOpen(org string, n int) {
	a.usageOf(org).openCount -= n
	a.openTotal -= n
}

// removeHandle takes a file out of the tables. The caller holds mu, as of those that follow.
func (a *API) removeHandle(h *sessionHandle) {
	if a.handles[h.id] != nil {
		delete(a.handles, h.id)
		a.uncountOpen(h.session.org, 1)
	}
}

func (a *API) removeFilesystem(f *sessionFS) {
	if a.filesystems[f.id] != nil {
		delete(a.filesystems, f.id)
		a.uncountOpen(f.session.org, 1)
	}
}

// removeListing returns the listing, nil if there is none.
func (a *API) removeListing(token string) *listing {
	l := a.listings[token]
	if l != nil {
		delete(a.listings, token)
		a.usageOf(l.org).listingCount--
		a.listingTotal--
	}
	return l
}

// findFilesystem returns a file system that the caller has open.
func (a *API) findFilesystem(r *core.Request, id string) (*sessionFS, error) {
	a.mu.Lock()
	f := a.filesystems[id]
	a.mu.Unlock()
	if f == nil || !f.session.ownedBy(r) {
		return nil, errNoSession
	}
	return f, r.CheckVisible(f.volume, f.name)
}

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
