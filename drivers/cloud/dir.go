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

// dir lists a directory page by page.
type dir struct {
	f *fileSystem
	q url.Values

	sorted bool
	seed   maphash.Seed

	mu     sync.Mutex // guards what follows; held while a page is fetched
	list   []api.Entry
	next   string
	last   string // name of the last entry
	closed bool
	// cursors are those that were given: a hostile server may repeat its pages without
	// end, which in a listing without order shows nowhere else.
	cursors map[uint64]struct{}
}

// pageSize is how many entries are asked for at once.
const pageSize = api.MaxPageLen

// maxPages bounds one listing, and what is remembered of it.
const maxPages = 1 << 20

// OpenDir implements driver.FS.
func (f *fileSystem) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	q := url.Values{"path": {path}, "limit": {strconv.Itoa(pageSize)}}
	setFlags(q, map[string]bool{"unsorted": !opts.Sorted, "names_only": opts.NamesOnly})
	d := &dir{f: f, q: q, sorted: opts.Sorted, seed: maphash.MakeSeed(), cursors: map[uint64]struct{}{}}
	return d, d.page(ctx)
}

// page fetches the next page. The caller holds mu, or is the only one.
func (d *dir) page(ctx context.Context) error {
	var out api.EntryPage
	if err := d.f.get(ctx, "entries", d.q, &out); err != nil {
		return err
	}
	if err := d.checkPage(&out); err != nil {
		return err
	}
	d.list, d.next = out.Entries, out.Next
	d.q.Set("cursor", out.Next)
	return nil
}

// checkPage refuses a page that would make a listing go on for ever, or tell a name twice.
func (d *dir) checkPage(p *api.EntryPage) error {
	if len(p.Entries) == 0 && p.Next != "" {
		return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory does not advance")
	}
	for _, e := range p.Entries {
		name := e.Driver().Name
		if d.sorted && name <= d.last {
			return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory has %q where names after %q follow", name, d.last)
		}
		d.last = name
	}
	if p.Next == "" {
		return nil
	}
	seen := maphash.String(d.seed, p.Next)
	if _, ok := d.cursors[seen]; ok {
		return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory begins again")
	}
	if len(d.cursors) == maxPages {
		return driver.Errorf(driver.ErrCorrupt, "the server's listing of a directory has more than %d pages", maxPages)
	}
	d.cursors[seen] = struct{}{}
	return nil
}

func (d *dir) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, driver.ErrClosed
	}
	for len(d.list) == 0 {
		if d.next == "" {
			return nil, io.EOF
		}
		if err := d.page(ctx); err != nil {
			return nil, err
		}
	}
	n = min(n, len(d.list))
	list := make([]driver.Entry, n)
	for i, e := range d.list[:n] {
		list[i] = e.Driver()
	}
	d.list = d.list[n:]
	return list, nil
}

func (d *dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.next == "" || d.f.usable(context.Background(), false) != nil {
		return nil
	}
	// What the server holds for it ends by itself, too.
	ctx, cancel := context.WithTimeout(context.Background(), d.f.b.closeWait)
	defer cancel()
	_ = d.f.in(ctx, false, func(p *place) error {
		return d.f.b.do(ctx, through(p, call{method: "DELETE", path: at(d.f.vol, "entries"), query: url.Values{"cursor": {d.next}}}))
	})
	return nil
}
