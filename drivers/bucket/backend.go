package bucket

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/internal/openset"
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
	lifetime    context.Context    // ends when Close begins; of its goroutines
	cancelLife  context.CancelFunc // ends lifetime
	goroutines  sync.WaitGroup     // that end before the Backend has closed
	open        openset.Set        // FSes and handles

	mu         sync.Mutex                 // guards what follows, and the end of lifetime
	openInodes map[inodeKey]*openInode    // files that are open, by inode
	deleting   map[inodeKey]chan struct{} // inodes that a transaction under way deletes; closed when it has ended
}

// newBackend returns a Backend of an organisation. It makes no session until something needs
// one.
func newBackend(ns *Namespace, org []byte) *Backend {
	b := &Backend{
		ns: ns, org: org,
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
	if b.isClosed() {
		return driver.ErrClosed
	}
	return nil
}

// isClosed reports whether Close has begun.
func (b *Backend) isClosed() bool { return b.lifetime.Err() != nil }

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

// goBackground runs fn in a goroutine. fn must end when lifetime does; Close waits for it.
func (b *Backend) goBackground(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.isClosed() {
		b.goroutines.Go(fn)
	}
}

// Close implements driver.Backend. It flushes open files, ends the session, and so detaches
// and gives up drafts.
func (b *Backend) Close() error {
	b.mu.Lock()
	closedBefore := b.isClosed()
	b.cancelLife()
	b.mu.Unlock()
	if closedBefore {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := b.open.Close(ctx)
	b.goroutines.Wait()
	err = errors.Join(err, b.session.endSession(ctx))
	if b.ownedNamespace != nil {
		err = errors.Join(err, b.ownedNamespace.Close())
	}
	return err
}

// closeTimeout bounds the Close of a Backend, an FS and a handle, which takes no context.
const closeTimeout = time.Minute

// closeInTime closes an FS or a handle.
func closeInTime(life *openset.Life) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return life.Close(ctx)
}
