package bucket

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sqldb"
)

// dirHandle implements driver.Dir. It reads pages in the order of names, so that memory does
// not grow with the directory.
type dirHandle struct {
	fs   *volumeFS
	ino  int64
	opts driver.DirOptions

	mu       sync.Mutex // guards what follows
	closed   bool
	after    []byte         // the last name that was read; at first the empty one, which sorts before all
	page     []driver.Entry // entries that Read has not returned yet
	lastPage bool           // page is the last one
}

// dirPage is the least number of entries to ask for at once.
const dirPage = 512

// OpenDir implements driver.FS.
func (fsys *volumeFS) OpenDir(ctx context.Context, path string, opts driver.DirOptions) (driver.Dir, error) {
	defer fsys.b.ns.metrics.observeSince("fs_open_dir", time.Now())
	target, err := fsys.mustResolve(ctx, path, resolveMode{followLast: true})
	if err != nil {
		return nil, err
	}
	if !target.node.isDir() {
		return nil, driver.ErrNotDir
	}
	return &dirHandle{fs: fsys, ino: target.node.ino, opts: opts, after: []byte{}}, nil
}

// Read implements driver.Dir.
func (d *dirHandle) Read(ctx context.Context, n int) ([]driver.Entry, error) {
	defer d.fs.b.ns.metrics.observeSince("dir_read", time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, driver.ErrClosed
	}
	if err := d.fs.b.checkOpen(ctx); err != nil {
		return nil, err
	}
	if len(d.page) == 0 && !d.lastPage {
		if err := d.loadPage(ctx, max(n, dirPage)); err != nil {
			return nil, err
		}
	}
	if len(d.page) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.page))
	list := d.page[:n:n]
	d.page = d.page[n:]
	return list, nil
}

// namedInode is an inode with one of its names.
type namedInode struct {
	inode
	name []byte
}

func (n *namedInode) scanDest() []any { return append(n.inode.scanDest(), &n.name) }

// loadPage reads up to limit entries after the last name, with this process's dirty sizes and
// times.
func (d *dirHandle) loadPage(ctx context.Context, limit int) error {
	var list []namedInode
	before := d.fs.b.commitCount.Load()
	err := d.fs.b.ns.db.RunQueries(ctx,
		d.fs.b.requireVolumeQuery(d.fs.vol),
		sqldb.SelectAll(&list, (*namedInode).scanDest, `SELECT `+inodeCols+`, e.name
		FROM dirents e JOIN inodes i ON i.vol = e.vol AND i.ino = e.ino
		WHERE e.vol = $1 AND e.parent = $2 AND e.name > $3 ORDER BY e.name LIMIT CAST($4 AS INTEGER)`, d.fs.vol, d.ino, d.after, limit))
	if err != nil {
		return err
	}
	d.lastPage = len(list) < limit
	d.page = make([]driver.Entry, len(list))
	for i := range list {
		x := &list[i]
		if err := driver.ValidateEntryName(string(x.name)); err != nil {
			return err
		}
		if d.opts.NamesOnly {
			d.page[i] = driver.Entry{Name: string(x.name), Mode: goFileMode(x.mode).Type()}
		} else {
			if err := d.fs.b.overlayDirty(ctx, d.fs.vol, &x.inode, before); err != nil {
				return err
			}
			d.page[i] = x.toEntry(string(x.name))
		}
		d.after = x.name
	}
	return nil
}

// Close implements driver.Dir.
func (d *dirHandle) Close() error {
	defer d.fs.b.ns.metrics.observeSince("dir_close", time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}
