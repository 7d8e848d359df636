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

// listing is an open directory. Between two pages it is parked in API.listings under a token, so
// that the next page need not read from the start. It belongs to the request that took it out of
// the table.
type listing struct {
	owner     string // CallerID of its callers
	org       string
	volume    string
	target    string // volume and path, which all pages have in common
	dir       *vole.Dir
	releaseFS func(error)
	session   *session // owner; nil: closed after listingIdleTimeout

	mu       sync.Mutex   // held while a page is read
	lastName string       // of the last entry that was answered
	unread   []vole.Entry // read and not yet answered
	parkedAt time.Time
}

// listingIdleTimeout is how long a listing without a session stays parked.
const listingIdleTimeout = time.Minute

// cursor says where a listing continues: the order, the name of the last entry, and the token of
// the parked listing. If the server no longer has that, a sorted listing continues after the
// name; an unsorted one has ended.
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

// parseCursor decodes what String returns.
func parseCursor(s string) (cursor, error) {
	var c cursor
	name, token, ok := strings.Cut(s, ".")
	if !ok || name == "" || name[0] != 's' && name[0] != 'u' {
		return c, driver.Errorf(vole.ErrInvalid, "invalid cursor of a directory listing; use the one of the previous page")
	}
	last, err := base64.RawURLEncoding.DecodeString(name[1:])
	if err != nil {
		return c, driver.Errorf(vole.ErrInvalid, "invalid cursor of a directory listing; use the one of the previous page")
	}
	return cursor{name[0] == 'u', string(last), token}, nil
}

// listEntries answers with one page of a directory, sorted by name unless unsorted is set.
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

// readPage reads up to limit entries: first those that skipThrough read ahead. The error is
// io.EOF with the last page.
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

// entryStep is how many entries are read before their memory is accounted for.
const entryStep = 250

// entriesMemory estimates the memory of entries in an answer: as values and as JSON.
func entriesMemory(list []vole.Entry) (n int64) {
	for _, e := range list {
		n += int64(entryMemory + 2*len(e.Name))
	}
	return n
}

// entryMemory is what an entry takes in an answer without its name, in bytes.
const entryMemory = 768

// resumeOrOpenListing returns the listing that a cursor continues, or a new one. A parked
// listing is used only by its owner, for the same directory, and after the entry that the cursor
// names: a client may ask for a page twice.
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
		return nil, driver.Errorf(vole.ErrInvalid, "the cursor belongs to a listing in another order; begin again")
	}
	// Taken out of the table while it is in use: one page at a time.
	a.mu.Lock()
	l := a.removeListing(c.token)
	a.mu.Unlock()
	if l != nil && l.owner == r.CallerID() && l.target == query && l.lastName == c.last {
		return l, nil
	}
	if l != nil {
		a.closeListing(l, nil)
	}
	// Without a name order there is no place to continue from.
	if c.unsorted {
		return nil, &core.Error{Code: api.CodeListingEnded, Message: "the listing has ended; begin again"}
	}
	if l, err = a.openListing(r, path, opts, query); err != nil {
		return nil, err
	}
	return l, a.skipThrough(r, l, c.last)
}

// skipThrough reads over the entries up to and including the name last.
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

// skipBatch is how many entries are skipped at a time.
const skipBatch = 1000

// openListing opens a directory. If the request names an open file system, the listing ends with
// its session.
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
	l := &listing{owner: r.CallerID(), org: r.Caller.Org, volume: r.Audit.Volume, target: query, dir: dir, releaseFS: done}
	// Closing the session must close its directories too.
	if id := r.Header.Get(api.HeaderFilesystem); id != "" {
		if s, err := a.findFilesystem(r, id); err == nil {
			l.session = s.session
		}
	}
	return l, nil
}

// parkListing keeps a listing open for the next page and returns its token. Beyond the limits it
// closes it instead: the next page then continues by name.
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

// removeListings takes the parked listings that match out of the table and returns them. The
// caller holds mu.
func (a *API) removeListings(match func(l *listing) bool) (list []*listing) {
	for token, l := range a.listings {
		if match(l) {
			list = append(list, a.removeListing(token))
		}
	}
	return list
}

// closeListings closes listings that are no longer in the table.
func (a *API) closeListings(list []*listing) {
	for _, l := range list {
		a.closeListing(l, nil)
	}
}

// closeListing closes the directory and releases its file system; err is what its use ended
// with.
func (a *API) closeListing(l *listing, err error) {
	_ = l.dir.Close()
	l.releaseFS(err)
}

// endListing closes a parked listing of the caller. Closing one that does not exist succeeds.
func (a *API) endListing(w http.ResponseWriter, r *core.Request) error {
	q := r.Query()
	c, err := parseCursor(q.Required("cursor"))
	if err := errors.Join(q.Err(), err); err != nil {
		return err
	}
	a.mu.Lock()
	l := a.listings[c.token]
	if l != nil && l.owner == r.CallerID() {
		a.removeListing(c.token)
	} else {
		l = nil
	}
	a.mu.Unlock()
	if l != nil {
		a.closeListing(l, nil)
	}
	return core.AnswerNoContent(w, nil)
}
