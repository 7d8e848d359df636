package native

import (
	"errors"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// opened is a file system or a file that a session has open, known to its client by id.
type opened struct {
	id      string
	session *session
	volume  string // its id
	name    string // of the volume when its file system was opened
	fs      *vole.FS
	file    *vole.File // nil: it is the file system itself

	attachment string // under which the file system was opened; "": none
}

// close closes it. Its error may be a lost write.
func (o *opened) close() error {
	if o.file != nil {
		return o.file.Close()
	}
	return o.fs.Close()
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
	f := &opened{id: core.NewToken(), session: s, volume: v.ID(), name: v.Name(), fs: fsys, attachment: opts.Attachment}
	return core.AnswerJSON(w, http.StatusCreated, api.Filesystem{ID: f.id}, a.registerOpened(f))
}

// registerOpened enters o into the table, or closes it if its session has ended or too much is
// open.
func (a *API) registerOpened(o *opened) error {
	err := a.countInSession(o.session, func() { a.opened[o.id] = o })
	if err != nil {
		return errors.Join(err, o.close())
	}
	return nil
}

// countInSession counts one more open thing of a session and calls put under the locks, unless
// the session has ended or too much is open.
func (a *API) countInSession(s *session, put func()) error {
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

// removeOpened takes a file or file system out of the table; the caller closes it. The caller
// holds mu, here and below.
func (a *API) removeOpened(o *opened) {
	if a.opened[o.id] != nil {
		delete(a.opened, o.id)
		a.uncountOpen(o.session.org, 1)
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

// findOpened returns an open file, or an open file system, of the caller. It checks again that
// the caller may see the volume.
func (a *API) findOpened(r *core.Request, id string, isFile bool) (*opened, error) {
	a.mu.Lock()
	o := a.opened[id]
	a.mu.Unlock()
	if o == nil || isFile != (o.file != nil) || o.session.owner != r.CallerID() {
		return nil, errNoSession
	}
	return o, r.CheckVisible(o.volume, o.name)
}

// findFilesystem returns an open file system of the caller.
func (a *API) findFilesystem(r *core.Request, id string) (*opened, error) {
	return a.findOpened(r, id, false)
}

// closeFilesystem closes an open file system.
func (a *API) closeFilesystem(w http.ResponseWriter, r *core.Request) error {
	f, err := a.findFilesystem(r, r.PathValue("filesystem"))
	return a.closeOpened(w, f, err)
}

// closeOpened closes what a request has found, unless err is set. An error of the closing
// reaches the client: it may be a lost write.
func (a *API) closeOpened(w http.ResponseWriter, o *opened, err error) error {
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.removeOpened(o)
	a.mu.Unlock()
	return core.AnswerNoContent(w, o.close())
}
