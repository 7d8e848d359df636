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
	ns             *Namespace
	org            []byte
	ownedNamespace *Namespace // is closed with the Backend; nil: none
	// memory is the organisation's share of the memory budget.
	memory *budget.Share

	session     session
	commitCount atomic.Int64       // of flushes, see overlayDirty
	lifetime    context.Context    // ends when the Backend is closed; of its goroutines
	cancelLife  context.CancelFunc // ends lifetime
	goroutines  sync.WaitGroup     // that end before the Backend has closed

	mu         sync.Mutex // guards what follows
	closed     bool
	closers    map[closer]struct{}        // open FSes, handles and attachments
	openInodes map[inodeKey]*openInode    // files that are open, by inode
	deleting   map[inodeKey]chan struct{} // inodes that a transaction under way deletes; closed when it has ended
}

// newBackend returns a Backend of an organisation. It makes no session until something needs
// one.
func newBackend(ns *Namespace, org []byte) *Backend {
	b := &Backend{
		ns: ns, org: org,
		closers:    map[closer]struct{}{},
		openInodes: map[inodeKey]*openInode{},
		deleting:   map[inodeKey]chan struct{}{},
	}
	b.session.b = b
	b.lifetime, b.cancelLife = context.WithCancel(context.Background())
	return b
}

// Caps implements driver.Backend.
func (b *Backend) Caps() driver.Caps {
	return driver.Caps{
		Backend: "bucket", Dir: true, Quota: true, ReadOnly: b.ns.opts.ReadOnly, Links: true, Xattrs: true,
		Chown: true, Devices: true, Holes: true, Drafts: true, Leases: true, Clones: true,
	}
}

// checkOpen returns ErrClosed if the Backend is closed, or the error of ctx.
func (b *Backend) checkOpen(ctx context.Context) error {
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

// checkWritable is checkOpen for calls that change something.
func (b *Backend) checkWritable(ctx context.Context) error {
	if err := b.checkOpen(ctx); err != nil {
		return err
	}
	if b.ns.opts.ReadOnly {
		return errReadOnly
	}
	return nil
}

// registerCloser has Close close c. It fails if the Backend is closed.
func (b *Backend) registerCloser(c closer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return driver.ErrClosed
	}
	b.closers[c] = struct{}{}
	return nil
}

// unregisterCloser is called when c has been closed by itself.
func (b *Backend) unregisterCloser(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.closers, c)
}

// goBackground runs fn in a goroutine. fn must end when lifetime does; Close waits for it.
func (b *Backend) goBackground(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.goroutines.Go(fn)
	}
}

// Close implements driver.Backend. It flushes open files, ends the session, and so detaches
// and gives up drafts.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	var list []closer
	for c := range b.closers {
		list = append(list, c)
	}
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, c := range list {
		if err := c.closeWithBackend(ctx); err != nil && !errors.Is(err, driver.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	b.cancelLife()
	b.goroutines.Wait()
	errs = append(errs, b.session.endSession(ctx))
	if b.ownedNamespace != nil {
		errs = append(errs, b.ownedNamespace.Close())
	}
	return errors.Join(errs...)
}
