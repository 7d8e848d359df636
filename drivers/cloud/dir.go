package cloud

import (
	"context"
	"hash/maphash"
	"io"
	"net/url"
	"strconv"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/api"
)

// dirHandle is an open directory. It fetches its entries page by page.
type dirHandle struct {
	fs    *volumeFS
	query url.Values

	sorted     bool
	cursorSeed maphash.Seed

	mu         sync.Mutex // guards what follows; held while a page is fetched
	unread     []api.Entry
	nextCursor string
	lastName   string // name of the last entry
	closed     bool
	// seenCursors has a hash of each cursor so far: a hostile server may repeat its pages without
	// end, and in an unsorted listing nothing else shows that.
	seenCursors map[uint64]struct{}
}

// pageSize is how many entries one request asks for.
const pageSize = api.MaxPageLen

// maxPages bounds one listing, and with it the memory of seenCursors.
const maxPages = 1 << 20

// OpenDir implements driver.FS.
func (f *volumeFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	q := withParams(url.Values{"path": {path}, "limit": {strconv.Itoa(pageSize)}}, "unsorted", formatFlag(!opts.Sorted), "names_only", formatFlag(opts.NamesOnly))
	d := &dirHandle{fs: f, query: q, sorted: opts.Sorted, cursorSeed: maphash.MakeSeed(), seenCursors: map[uint64]struct{}{}}
	return d, d.fetchEntryPage(ctx)
}

// fetchEntryPage fetches the next page. The caller holds mu, or has the only reference.
func (d *dirHandle) fetchEntryPage(ctx context.Context) error {
	var out api.EntryPage
	if err := d.fs.getVolumeJSON(ctx, "entries", d.query, &out); err != nil {
		return err
	}
	if err := d.checkEntryPage(&out); err != nil {
		return err
	}
	d.unread, d.nextCursor = out.Entries, out.Next
	d.query.Set("cursor", out.Next)
	return nil
}

// checkEntryPage refuses a page that would let a listing go on for ever or, if it is sorted, contain a
// name twice.
func (d *dirHandle) checkEntryPage(p *api.EntryPage) error {
	if len(p.Entries) == 0 && p.Next != "" {
		return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory does not advance")
	}
	for _, e := range p.Entries {
		name := e.Driver().Name
		if d.sorted && name <= d.lastName {
			return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory has %q where names after %q follow", name, d.lastName)
		}
		d.lastName = name
	}
	if p.Next == "" {
		return nil
	}
	seen := maphash.String(d.cursorSeed, p.Next)
	if _, ok := d.seenCursors[seen]; ok {
		return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory begins again")
	}
	if len(d.seenCursors) == maxPages {
		return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory has more than %d pages", maxPages)
	}
	d.seenCursors[seen] = struct{}{}
	return nil
}

func (d *dirHandle) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, driver.ErrClosed
	}
	for len(d.unread) == 0 {
		if d.nextCursor == "" {
			return nil, io.EOF
		}
		if err := d.fetchEntryPage(ctx); err != nil {
			return nil, err
		}
	}
	n = min(n, len(d.unread))
	list := make([]driver.Entry, n)
	for i, e := range d.unread[:n] {
		list[i] = e.Driver()
	}
	d.unread = d.unread[n:]
	return list, nil
}

func (d *dirHandle) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.nextCursor == "" {
		return nil
	}
	// The error is ignored: the server also ends the listing by itself after a while.
	ctx, cancel := context.WithTimeout(context.Background(), d.fs.b.closeTimeout)
	defer cancel()
	_ = d.fs.withRefIfNeeded(ctx, false, func(ref *remoteRef) error {
		return d.fs.b.sendDiscard(ctx, callThrough(ref, call{method: "DELETE", path: volumePath(d.fs.volumeID, "entries"), query: url.Values{"cursor": {d.nextCursor}}}))
	})
	return nil
}
