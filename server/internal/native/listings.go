package native

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
	"github.com/volehq/vole/server/internal/core"
)

// listing is a directory that is open between two pages.
type listing struct {
	keyID     string // id of the key
	org       string
	volume    string
	target    string // what the pages of one listing have in common
	dir       *vole.Dir
	releaseFS func(error)
	session   *session // whose it is; nil: it ends after a rest

	mu       sync.Mutex   // held while a page is read
	lastName string       // name of the last entry that was given
	unread   []vole.Entry // read and not given
	parkedAt time.Time
}

const (
	listingIdleTimeout = time.Minute
)

// A cursor is the kind of order, the name of the last entry, and the listing's token.
type cursor struct {
	unsorted bool
	last     string
	token    string
}

func (c cursor) String() string {
	kind := "s"
	if c.unsorted {
		kind = "u"
	}
	return kind + base64.RawURLEncoding.EncodeToString([]byte(c.last)) + "." + c.token
}

func parseCursor(s string) (cursor, error) {
	var c cursor
	name, token, ok := strings.Cut(s, ".")
	if !ok || name == "" || name[0] != 's' && name[0] != 'u' {
		return c, driver.Errorf(vole.ErrInvalid, "this is no cursor of a listing of a directory")
	}
	last, err := base64.RawURLEncoding.DecodeString(name[1:])
	if err != nil {
		return c, driver.Errorf(vole.ErrInvalid, "this is no cursor of a listing of a directory")
	}
	return cursor{name[0] == 'u', string(last), token}, nil
}

func (a *API) listEntries(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	path, opts := q.Required("path"), vole.DirOptions{Sorted: !q.Bool("unsorted"), NamesOnly: q.Bool("names_only")}
	limit, from := int(q.Int("limit", 1000, 1, 1000)), q.String("cursor")
	if err := q.Err(); err != nil {
		return err
	}
	l, err := a.resumeOrOpenListing(r, path, opts, from)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	list, err := readPage(r, l, limit)
	if err != nil && !errors.Is(err, io.EOF) {
		a.closeListing(l, err)
		return err
	}
	out := api.EntryPage{Entries: make([]api.Entry, len(list))}
	for i, e := range list {
		out.Entries[i] = api.FromEntry(e)
		l.lastName = e.Name
	}
	if err != nil {
		a.closeListing(l, nil)
	} else {
		out.Next = cursor{!opts.Sorted, l.lastName, a.parkListing(l)}.String()
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// readPage reads a page. The error is io.EOF when it was the last.
func readPage(r *core.Request, l *listing, limit int) (list []vole.Entry, err error) {
	n := min(limit, len(l.unread))
	list, l.unread = append(list, l.unread[:n]...), l.unread[n:]
	for len(list) < limit {
		part, err := l.dir.Read(r.Context(), min(limit-len(list), entryStep))
		list = append(list, part...)
		if herr := r.ReserveMemory(entriesMemory(part)); herr != nil {
			return list, herr
		}
		if err != nil {
			return list, err
		}
	}
	return list, nil
}

// entryStep is how many entries are read before their memory is counted.
const entryStep = 250

// entriesMemory is about what entries take in an answer, twice: as values and as JSON.
func entriesMemory(list []vole.Entry) (n int64) {
	for _, e := range list {
		n += int64(entryMemory + 2*len(e.Name))
	}
	return n
}

// entryMemory is what an entry takes beside its name, in bytes.
const entryMemory = 768

// resumeOrOpenListing returns the listing that a cursor goes on with, or a new one.
func (a *API) resumeOrOpenListing(r *core.Request, path string, opts vole.DirOptions, from string) (*listing, error) {
	query := r.PathValue("volume") + " " + path
	if from == "" {
		return a.openListing(r, path, opts, query)
	}
	c, err := parseCursor(from)
	if err != nil {
		return nil, err
	}
	if c.unsorted == opts.Sorted {
		return nil, driver.Errorf(vole.ErrInvalid, "the cursor is of a listing in another order")
	}
	a.mu.Lock()
	l := a.removeListing(c.token)
	a.mu.Unlock()
	if l != nil && l.org == r.Caller.Org && l.keyID == r.Caller.KeyID && l.target == query && l.lastName == c.last {
		return l, nil
	}
	if l != nil {
		a.closeListing(l, nil)
	}
	if c.unsorted {
		return nil, &core.Error{Code: api.CodeListingEnded, Message: "the listing has ended; begin again"}
	}
	if l, err = a.openListing(r, path, opts, query); err != nil {
		return nil, err
	}
	return l, a.skipThrough(r, l, c.last)
}

// skipThrough reads over the entries up to and with the name last.
func (a *API) skipThrough(r *core.Request, l *listing, last string) error {
	for {
		list, err := l.dir.Read(r.Context(), skipBatch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			a.closeListing(l, err)
			return err
		}
		if i := slices.IndexFunc(list, func(e vole.Entry) bool { return e.Name > last }); i >= 0 {
			l.unread = list[i:]
			return nil
		}
	}
}

const skipBatch = 1000

func (a *API) openListing(r *core.Request, path string, opts vole.DirOptions, query string) (*listing, error) {
	fsys, done, err := a.acquireFS(r, true)
	if err != nil {
		return nil, err
	}
	dir, err := fsys.OpenDir(r.Context(), path, opts)
	if err != nil {
		done(err)
		return nil, err
	}
	l := &listing{keyID: r.Caller.KeyID, org: r.Caller.Org, volume: r.Audit.Volume, target: query, dir: dir, releaseFS: done}
	if id := r.Header.Get(api.HeaderFilesystem); id != "" {
		if s, err := a.findFilesystem(r, id); err == nil {
			l.session = s.session
		}
	}
	return l, nil
}

// parkListing puts a listing aside until its next page is asked for.
func (a *API) parkListing(l *listing) string {
	token := core.NewToken()
	l.parkedAt = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	most := &a.core.Options().Descriptors
	if a.closed || a.usageOf(l.org).listingCount >= most.OrgListings || a.listingTotal >= most.Listings {
		a.closeListing(l, nil)
		return ""
	}
	a.listings[token] = l
	a.usageOf(l.org).listingCount++
	a.listingTotal++
	return token
}

func (a *API) closeListing(l *listing, err error) {
	_ = l.dir.Close()
	l.releaseFS(err)
}

func (a *API) endListing(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	c, err := parseCursor(q.Required("cursor"))
	if err := errors.Join(q.Err(), err); err != nil {
		return err
	}
	a.mu.Lock()
	l := a.listings[c.token]
	if l != nil && l.org == r.Caller.Org && l.keyID == r.Caller.KeyID {
		a.removeListing(c.token)
	} else {
		l = nil
	}
	a.mu.Unlock()
	if l != nil {
		a.closeListing(l, nil)
	}
	return writeNoContent(w)
}
