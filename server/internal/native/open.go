package native

import (
	"errors"
	"net/http"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// filesystem is a volume's files as a session has them open.
type filesystem struct {
	id     string
	sess   *session
	volume string // its id
	name   string // of the volume when it was opened
	fs     *vole.FS

	attachment string // under which it was opened; "": none
}

// handle is an open file of a session.
type handle struct {
	id     string
	sess   *session
	volume string
	name   string // of the volume, as that of the filesystem
	file   *vole.File
}

func (a *API) openFilesystem(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	ref := q.Required("volume")
	opts := vole.FSOptions{ReadOnly: q.Bool("read_only"), Batch: q.Bool("batch"), Attachment: q.String("attachment")}
	if err := q.Err(); err != nil {
		return err
	}
	s, err := a.session(r, r.PathValue("session"))
	if err != nil {
		return err
	}
	if !opts.ReadOnly && !r.Who.Scopes.Has(write) {
		return core.NeedsScope(write)
	}
	v, err := r.Volume(ref)
	if err != nil {
		return err
	}
	if opts.Attachment != "" {
		// Its id is in the list for all to see; the right to write is its holder's alone.
		if own, err := s.hold.Holds(r.Context(), opts.Attachment); err != nil {
			return err
		} else if !own {
			return driver.Errorf(driver.ErrClosed, "the attachment has ended, or is not this session's; attach again")
		}
	}
	r.Forget(v.ID())
	fsys, err := v.OpenFS(r.Context(), opts)
	if err != nil {
		return err
	}
	f := &filesystem{id: core.NewToken(), sess: s, volume: v.ID(), name: v.Name(), fs: fsys, attachment: opts.Attachment}
	if err := a.add(s, func() { a.systems[f.id] = f }); err != nil {
		return errors.Join(err, fsys.Close())
	}
	return core.WriteJSON(w, http.StatusCreated, api.Filesystem{ID: f.id})
}

// add calls put, which enters something into the tables, unless the session has ended or
// too much is open.
func (a *API) add(s *session, put func()) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || a.closed {
		return errNoSession
	}
	if err := a.count(s.org); err != nil {
		return err
	}
	put()
	return nil
}

// count counts one more that an organisation has open. The caller holds mu.
func (a *API) count(org string) error {
	most := &a.core.Options().Descriptors
	switch {
	case a.share(org).open >= most.OrgOpen:
		return errTooMany
	case a.allOpen >= most.Open:
		return errAllOpen
	}
	a.share(org).open++
	a.allOpen++
	return nil
}

// uncount counts n less. The caller holds mu.
func (a *API) uncount(org string, n int) {
	a.share(org).open -= n
	a.allOpen -= n
}

// dropHandle takes a file out of the tables. The caller holds mu, as of those that follow.
func (a *API) dropHandle(h *handle) {
	if a.handles[h.id] != nil {
		delete(a.handles, h.id)
		a.uncount(h.sess.org, 1)
	}
}

func (a *API) dropSystem(f *filesystem) {
	if a.systems[f.id] != nil {
		delete(a.systems, f.id)
		a.uncount(f.sess.org, 1)
	}
}

// dropListing returns the listing, nil if there is none.
func (a *API) dropListing(token string) *listing {
	l := a.listings[token]
	if l != nil {
		delete(a.listings, token)
		a.share(l.org).listings--
		a.allListings--
	}
	return l
}

// filesystem returns a file system that the caller has open.
func (a *API) filesystem(r *core.Request, id string) (*filesystem, error) {
	a.mu.Lock()
	f := a.systems[id]
	a.mu.Unlock()
	if f == nil || !f.sess.of(r) {
		return nil, errNoSession
	}
	return f, r.See(f.volume, f.name)
}

func (a *API) closeFilesystem(w http.ResponseWriter, r *core.Request) error {
	f, err := a.filesystem(r, r.PathValue("filesystem"))
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.dropSystem(f)
	a.mu.Unlock()
	if err := f.fs.Close(); err != nil {
		return err
	}
	return noContent(w)
}
