package bucket

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/budget"
)

// Backend is one organisation of a namespace. It implements driver.Backend.
type Backend struct {
	ns   *Namespace
	org  []byte
	also *Namespace // closed with the Backend; nil: none
	// memory is what the organisation may hold in buffers.
	memory *budget.Share

	session session
	commits atomic.Int64       // of what was written by handle
	life    context.Context    // ends when the Backend is closed; for its own goroutines
	die     context.CancelFunc // ends life
	own     sync.WaitGroup     // those goroutines

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[closer]struct{}       // FSes, files and attachments
	nodes  map[nodeKey]*node         // files that are open
	going  map[nodeKey]chan struct{} // inodes that a transaction under way may remove; closed at its end
}

func newBackend(ns *Namespace, org []byte) *Backend {
	b := &Backend{
		ns: ns, org: org,
		open:  map[closer]struct{}{},
		nodes: map[nodeKey]*node{},
		going: map[nodeKey]chan struct{}{},
	}
	b.session.b = b
	b.life, b.die = context.WithCancel(context.Background())
	return b
}

// Caps implements driver.Backend.
func (b *Backend) Caps() driver.Caps {
	return driver.Caps{
		Backend: "bucket", Dir: true, Quota: true, ReadOnly: b.ns.opts.ReadOnly, Links: true, Xattrs: true,
		Chown: true, Devices: true, Holes: true, Drafts: true, Leases: true, Clones: true,
	}
}

func (b *Backend) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.ErrClosed
	}
	return nil
}

func (b *Backend) writable(ctx context.Context) error {
	if err := b.usable(ctx); err != nil {
		return err
	}
	if b.ns.opts.ReadOnly {
		return errReadOnly
	}
	return nil
}

// keep notes something that is to be closed with the Backend.
func (b *Backend) keep(c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.ErrClosed
	}
	b.open[c] = struct{}{}
	return nil
}

func (b *Backend) forget(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
}

// background runs fn in a goroutine that ends before the Backend has closed.
func (b *Backend) background(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.own.Go(fn)
	}
}

// Close implements driver.Backend. Files that are open are synced.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	var list []closer
	for c := range b.open {
		list = append(list, c)
	}
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, c := range list {
		if err := c.closeWith(ctx); err != nil && !errors.Is(err, driver.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	b.die()
	b.own.Wait()
	errs = append(errs, b.session.end(ctx))
	if b.also != nil {
		errs = append(errs, b.also.Close())
	}
	return errors.Join(errs...)
}
