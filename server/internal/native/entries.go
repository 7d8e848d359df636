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
	who    string // id of the key
	org    string
	volume string
	query  string // what the pages of one listing have in common
	dir    *vole.Dir
	done   func(error)
	sess   *session // whose it is; nil: it ends after a rest

	mu   sync.Mutex   // held while a page is read
	last string       // name of the last entry that was given
	rest []vole.Entry // read and not given
	used time.Time
}

const (
	listingRest = time.Minute
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
	l, err := a.listing(r, path, opts, from)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	list, err := readPage(r, l, limit)
	if err != nil && !errors.Is(err, io.EOF) {
		a.end(l, err)
		return err
	}
	out := api.EntryPage{Entries: make([]api.Entry, len(list))}
	for i, e := range list {
		out.Entries[i] = api.FromEntry(e)
		l.last = e.Name
	}
	if err != nil {
		a.end(l, nil)
	} else {
		out.Next = cursor{!opts.Sorted, l.last, a.keep(l)}.String()
	}
	return core.WriteJSON(w, http.StatusOK, out)
}

// readPage reads a page. The error is io.EOF when it was the last.
func readPage(r *core.Request, l *listing, limit int) (list []vole.Entry, err error) {
	n := min(limit, len(l.rest))
	list, l.rest = append(list, l.rest[:n]...), l.rest[n:]
	for len(list) < limit {
		part, err := l.dir.Read(r.Context(), min(limit-len(list), readStep))
		list = append(list, part...)
		if herr := r.Hold(sizeOf(part)); herr != nil {
			return list, herr
		}
		if err != nil {
			return list, err
		}
	}
	return list, nil
}

// readStep is how many entries are read before their memory is counted.
const readStep = 250

// sizeOf is about what entries take in an answer, twice: as values and as JSON.
func sizeOf(list []vole.Entry) (n int64) {
	for _, e := range list {
		n += int64(entrySize + 2*len(e.Name))
	}
	return n
}

// entrySize is what an entry takes beside its name, in bytes.
const entrySize = 768

// listing returns the listing that a cursor goes on with, or a new one.
func (a *API) listing(r *core.Request, path string, opts vole.DirOptions, from string) (*listing, error) {
	query := r.PathValue("volume") + " " + path
	if from == "" {
		return a.newListing(r, path, opts, query)
	}
	c, err := parseCursor(from)
	if err != nil {
		return nil, err
	}
	if c.unsorted == opts.Sorted {
		return nil, driver.Errorf(vole.ErrInvalid, "the cursor is of a listing in another order")
	}
	a.mu.Lock()
	l := a.dropListing(c.token)
	a.mu.Unlock()
	if l != nil && l.org == r.Who.Org && l.who == r.Who.KeyID && l.query == query && l.last == c.last {
		return l, nil
	}
	if l != nil {
		a.end(l, nil)
	}
	if c.unsorted {
		return nil, &core.Error{Status: http.StatusGone, Code: "listing_ended", Message: "the listing has ended; begin again"}
	}
	if l, err = a.newListing(r, path, opts, query); err != nil {
		return nil, err
	}
	return l, a.skip(r, l, c.last)
}

// skip reads over the entries up to and with the name last.
func (a *API) skip(r *core.Request, l *listing, last string) error {
	for {
		list, err := l.dir.Read(r.Context(), skipBatch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			a.end(l, err)
			return err
		}
		if i := slices.IndexFunc(list, func(e vole.Entry) bool { return e.Name > last }); i >= 0 {
			l.rest = list[i:]
			return nil
		}
	}
}

const skipBatch = 1000

func (a *API) newListing(r *core.Request, path string, opts vole.DirOptions, query string) (*listing, error) {
	fsys, done, err := a.open(r, true)
	if err != nil {
		return nil, err
	}
	dir, err := fsys.OpenDir(r.Context(), path, opts)
	if err != nil {
		done(err)
		return nil, err
	}
	l := &listing{who: r.Who.KeyID, org: r.Who.Org, volume: r.Record.Volume, query: query, dir: dir, done: done}
	if id := r.Header.Get(api.HeaderFilesystem); id != "" {
		if s, err := a.filesystem(r, id); err == nil {
			l.sess = s.sess
		}
	}
	return l, nil
}

// keep puts a listing aside until its next page is asked for.
func (a *API) keep(l *listing) string {
	token := core.NewToken()
	l.used = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	most := &a.core.Options().Descriptors
	if a.closed || a.share(l.org).listings >= most.OrgListings || a.allListings >= most.Listings {
		a.end(l, nil)
		return ""
	}
	a.listings[token] = l
	a.share(l.org).listings++
	a.allListings++
	return token
}

func (a *API) end(l *listing, err error) {
	_ = l.dir.Close()
	l.done(err)
}

func (a *API) endListing(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	c, err := parseCursor(q.Required("cursor"))
	if err := errors.Join(q.Err(), err); err != nil {
		return err
	}
	a.mu.Lock()
	l := a.listings[c.token]
	if l != nil && l.org == r.Who.Org && l.who == r.Who.KeyID {
		a.dropListing(c.token)
	} else {
		l = nil
	}
	a.mu.Unlock()
	if l != nil {
		a.end(l, nil)
	}
	return noContent(w)
}
