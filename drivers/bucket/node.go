package bucket

import (
	"context"
	"errors"
	"sync"

	"github.com/volehq/vole/driver"
)

// nodeKey names an inode of a volume.
type nodeKey struct {
	vol string
	ino int64
}

// node is a file that this process has open. All handles of the process share it, so
// that each sees at once what another wrote.
type node struct {
	f    *fileSystem // of the first open
	key  nodeKey
	refs int // handles; guarded by Backend.mu
	// orphan says that the file has no name any more, and goes with the last handle.
	// Guarded by Backend.mu.
	orphan bool

	commit sync.Mutex // held while what was written is committed

	mu      sync.Mutex  // guards what follows; taken after commit
	size    int64       // as this process last saw it committed
	writers int         // handles that may write
	fresh   pieces      // written, and not being committed yet
	bytes   int64       // how much was written since the last commit, at least that of fresh
	held    int64       // bytes of the organisation's memory that fresh takes
	writer  *fileSystem // by which, and so under whose rights
	sending pieces      // being committed
	mtime   int64       // of the last write
	lost    error       // why something that was written will never be committed
	loser   *fileSystem // by which it was written
	losses  int64       // how often that came to pass
	epoch   int64       // raised when the committed chunks change
	window  window      // committed chunks, of this epoch
	closed  bool        // the last handle is closed: no window is kept
	asked   int64       // loads of the window that have begun
	answer  int64       // the latest of them whose answer is kept
}

// goings are the inodes that one change is about to delete. Whoever opens one of them
// meanwhile waits for how that ends.
type goings struct {
	b    *Backend
	vol  []byte
	list []nodeKey
	done chan struct{}
}

// claim marks an inode, unless it is open.
func (g *goings) claim(ino int64) bool {
	key := nodeKey{string(g.vol), ino}
	g.b.mu.Lock()
	defer g.b.mu.Unlock()
	if g.b.nodes[key] != nil {
		return false
	}
	if g.done == nil {
		g.done = make(chan struct{})
	}
	if g.b.going[key] == nil {
		g.b.going[key] = g.done
		g.list = append(g.list, key)
	}
	return true
}

// end is called when it is known whether the change was committed.
func (g *goings) end() {
	if g.done == nil {
		return
	}
	g.b.mu.Lock()
	for _, k := range g.list {
		delete(g.b.going, k)
	}
	g.b.mu.Unlock()
	close(g.done)
}

// acquire opens an inode. The caller checks after it that the inode is there: from
// here on it does not go while it is open.
func (b *Backend) acquire(ctx context.Context, f *fileSystem, ino int64) (*node, error) {
	key := nodeKey{string(f.vol), ino}
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, driver.ErrClosed
		}
		gone := b.going[key]
		if gone == nil {
			n := b.nodes[key]
			if n == nil {
				n = &node{f: f, key: key}
				b.nodes[key] = n
			}
			n.refs++
			b.mu.Unlock()
			return n, nil
		}
		b.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// release gives a node back; the last one to do so removes a file without a name.
func (b *Backend) release(ctx context.Context, n *node) error {
	b.mu.Lock()
	n.refs--
	last := n.refs == 0
	orphan := n.orphan
	if last {
		delete(b.nodes, n.key)
	}
	b.mu.Unlock()
	if last {
		n.mu.Lock()
		n.closed = true
		n.dropWindow()
		n.mu.Unlock()
	}
	if !last || !orphan {
		return nil
	}
	return b.reapFile(ctx, n.f, n.key.ino)
}

// orphaned notes that files have lost their last name while they were open. One that
// was closed meanwhile is removed here.
func (b *Backend) orphaned(ctx context.Context, f *fileSystem, list []int64) error {
	var errs []error
	for _, ino := range list {
		if !b.leave(f.vol, ino) {
			errs = append(errs, b.reapFile(ctx, f, ino))
		}
	}
	return errors.Join(errs...)
}

// reapFile removes a file that has no name, once it is not open any more.
func (b *Backend) reapFile(ctx context.Context, f *fileSystem, ino int64) error {
	// Whoever may change files now: this one's removal was committed.
	system := b.system(f.vol)
	for {
		open := false
		err := b.change(ctx, system, nil, func(c *change) error {
			var n inode
			var found bool
			if err := c.run(c.inode(&found, &n, ino)); err != nil || !found || n.nlink > 0 {
				return err
			}
			if open = !c.marks.claim(ino); open {
				return nil
			}
			c.delta -= n.size
			c.erase(&n)
			c.later(`DELETE FROM orphans WHERE vol = $1 AND ino = $2`, c.vol, ino)
			return nil
		})
		if errors.Is(err, driver.ErrNotFound) {
			return nil
		}
		if err != nil || !open || b.leave(f.vol, ino) {
			return err
		}
	}
}

// leave has the last handle of a file remove it; false: it is not open.
func (b *Backend) leave(vol []byte, ino int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[nodeKey{string(vol), ino}]
	if n != nil {
		n.orphan = true
	}
	return n != nil
}

func (c *change) inode(found *bool, n *inode, ino int64) query {
	return one(found, n.dest(), `SELECT `+inodeCols+` FROM inodes i WHERE i.vol = $1 AND i.ino = $2`, c.vol, ino)
}

// overlay makes an inode show what this process has written to it and not committed.
// before is what commits said before its row was read: what was committed since may be
// in neither, and then the row is read again.
func (b *Backend) overlay(ctx context.Context, vol []byte, i *inode, before int64) error {
	if !i.isFile() {
		return nil
	}
	b.mu.Lock()
	n := b.nodes[nodeKey{string(vol), i.ino}]
	b.mu.Unlock()
	if n == nil {
		return nil
	}
	if b.commits.Load() == before {
		n.mu.Lock()
		n.show(i)
		n.mu.Unlock()
		if b.commits.Load() == before {
			return nil
		}
	}
	now, err := n.row(ctx)
	if errors.Is(err, driver.ErrNotExist) {
		return nil // removed since: i is as it was
	}
	if err == nil {
		*i = now
	}
	return err
}

// show is overlay for one node. The caller holds mu.
func (n *node) show(i *inode) {
	if len(n.fresh) == 0 && len(n.sending) == 0 {
		return
	}
	i.size = max(i.size, n.fresh.end(), n.sending.end())
	i.mtime = n.mtime
	i.ctime = max(i.ctime, n.mtime)
}

// dirtyNodes returns the open files of a volume, or of all when vol is nil, that hold
// what is not committed, each held by one more reference.
func (b *Backend) dirtyNodes(vol []byte) []*node {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*node
	for key, n := range b.nodes {
		if (vol == nil || key.vol == string(vol)) && n.dirty() {
			n.refs++
			list = append(list, n)
		}
	}
	return list
}

func (n *node) dirty() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.fresh) > 0 || len(n.sending) > 0
}

func (b *Backend) dirty(vol []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range b.nodes {
		if key.vol == string(vol) && n.dirty() {
			return true
		}
	}
	return false
}

// flushVolume commits what this process has written by handle, so that what is read
// from the database next has it. What cannot be committed is an error of its own
// handle's Sync and Close, not of whoever looks at the volume.
func (b *Backend) flushVolume(ctx context.Context, vol []byte) error {
	if err := b.syncVolume(ctx, vol); err != nil {
		b.ns.log.WarnContext(ctx, "what was written by handle cannot be committed yet", "error", err)
	}
	return ctx.Err()
}

// syncVolume is flushVolume for who must know that all was committed.
func (b *Backend) syncVolume(ctx context.Context, vol []byte) error {
	var errs []error
	for _, n := range b.dirtyNodes(vol) {
		if err := n.flush(ctx); err != nil && !errors.Is(err, driver.ErrNotFound) && !errors.Is(err, driver.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, b.release(ctx, n))
	}
	return errors.Join(errs...)
}

// drop forgets what was written to a volume that has been removed.
func (b *Backend) drop(vol []byte) {
	for _, n := range b.dirtyNodes(vol) {
		n.lose(driver.ErrNotFound)
		_ = b.release(context.Background(), n)
	}
}
