//go:build unix

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// A draft is private: only the process that makes it knows it, and when that process dies
// recovery removes it with all it holds. So no other process sees a half-written file there,
// or moves a directory away under a path. Until the draft is published,
// attached or measured, its page is not locked against other processes, and a batch writes
// small files under their own names, where other volumes need a temporary file and a rename,
// and keeps the directory open that it used last.

// shareDraft ends the privacy of a draft, before another process can see the volume: from then
// on its page is locked against other processes, and its files are written through temporary
// ones. It waits for changes in progress.
func (b *Backend) shareDraft(ctx context.Context, id string) error {
	b.mu.Lock()
	if b.drafts[id] {
		b.drafts[id] = false // new counters lock the page
	}
	c := b.counters[id]
	b.mu.Unlock()
	if c == nil || !c.draft.Load() {
		return nil
	}
	// After the changes under way, which do not lock the page. Locks are taken in the order in
	// which changes take them.
	for _, m := range append([]ctxMutex{c.namesLock}, c.fileLocks[:]...) {
		if err := m.lock(ctx); err != nil {
			return fmt.Errorf("waiting for a write to the draft: %w", err)
		}
		defer m.unlock()
	}
	c.draft.Store(false)
	return nil
}

// registerDraft records that this process makes a draft, which no other process looks up.
func (b *Backend) registerDraft(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drafts[id] = true
}

// forgetDraft forgets a draft that was published or removed.
func (b *Backend) forgetDraft(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.drafts, id)
}

// refuseForeignDraft returns ErrNotFound for a draft of another process.
func (b *Backend) refuseForeignDraft(r *volumeRow) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, own := b.drafts[r.ID]; !own && r.draft {
		return errNoSuchVolume()
	}
	return nil
}

// errDraftShared means that the draft was shared after the caller had looked.
var errDraftShared = errors.New("no longer a draft")

// isSmallWrite reports whether writeDraftFile can write the file: it fits into one buffer, is
// not sparse, and does not come from a file, whose content the kernel copies.
func isSmallWrite(r io.Reader, opts driver.WriteOptions) bool {
	_, file := r.(*os.File) // whose content the kernel copies
	return !file && opts.NextData == nil && opts.Size <= bufferSize
}

// writeDraftFile is writeThroughTemp for a new, small file of a draft: it reads the content
// first and then makes the file under its own name, in one change. Everything else it leaves to
// writeThroughTemp.
func (f *volumeFS) writeDraftFile(ctx context.Context, c *counter, name string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	if c.admitBytes(opts.Size) != nil {
		return f.writeThroughTemp(ctx, c, name, r, opts) // it may replace one that is as large
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := fillBuffer(ctx, r, *buf)
	if err == nil {
		return f.writeThroughTemp(ctx, c, name, io.MultiReader(bytes.NewReader((*buf)[:n]), r), opts)
	}
	if err != io.EOF {
		return 0, err
	}
	err = f.createDraftFile(ctx, c, name, (*buf)[:n], opts)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, driver.ErrQuota) || errors.Is(err, errDraftShared) {
		return f.writeThroughTemp(ctx, c, name, bytes.NewReader((*buf)[:n]), opts)
	}
	if err != nil {
		return 0, err
	}
	return int64(n), nil
}

// fillBuffer reads r until buf is full or r fails. An error, which may be io.EOF, means that r
// yielded only n bytes.
func fillBuffer(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

// createDraftFile makes a file of a draft under the names lock. The file is charged and complete
// before the lock is released, so a measurement sees all of it or nothing.
func (f *volumeFS) createDraftFile(ctx context.Context, c *counter, name string, data []byte, opts driver.WriteOptions) error {
	to, err := f.resolve(name)
	if err != nil {
		return err
	}
	defer to.release()
	m := opts.Meta
	if m == nil {
		m = &driver.FileMeta{Mode: modeOrDefault(opts.Mode), UID: -1, GID: -1}
	}
	size := int64(len(data))
	return c.withNamesLock(ctx, func() error {
		if !c.draft.Load() {
			return errDraftShared
		}
		if err := c.page.reserveBytes(size); err != nil {
			return err
		}
		err := c.page.withCharge(entryTally(to.name), func() error { return createAndWrite(c, to, data, m) })
		if err != nil {
			c.page.addBytes(-size)
		}
		return err
	})
}

// createAndWrite makes a file with this content and metadata. On failure it removes the file
// again.
func createAndWrite(c *counter, to resolved, data []byte, m *driver.FileMeta) error {
	var fd int
	err := c.b.host.mutate("create", to.name, func() (err error) {
		fd, err = unix.Openat(to.parentFD(), to.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = c.b.host.faults.Do("write", to.name, func() error { return writeAll(fd, data) })
	if err == nil {
		err = c.b.host.setMetadata(to, fd, m)
	}
	if cerr := unix.Close(fd); err == nil && cerr != unix.EINTR {
		err = cerr // a network file system reports a failed write here
	}
	if err != nil && c.b.host.unlink(to.parent, to.name, nil) != nil {
		c.markStale() // the file stays and is not charged
	}
	return err
}

// writeAll writes all of data at the offset of the descriptor.
func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// cachedDir is a directory of a draft that stays open, since the next file is mostly in the same
// directory. refs counts the operations that use it, plus one for volumeFS.cachedDir; the last
// release closes it.
type cachedDir struct {
	path  string
	dir   *os.File
	moves uint64 // of the counter, before the path was resolved

	refs atomic.Int32 // operations in progress, and volumeFS.cachedDir
}

// release drops a use of the directory. A nil cachedDir is none.
func (k *cachedDir) release() {
	if k != nil && k.refs.Add(-1) == 0 {
		k.dir.Close()
	}
}

// invalidateCachedDirs records that a path may lead elsewhere now, because a name was removed or
// renamed.
func (c *counter) invalidateCachedDirs() { c.moveCount.Add(1) }

// resolveInDraft is resolve for a draft: it keeps the directory open for the next call.
func (f *volumeFS) resolveInDraft(c *counter, dir, base string) (resolved, error) {
	moves := c.moveCount.Load()
	f.mu.Lock()
	k := f.cachedDir
	hit := k != nil && k.path == dir && k.moves == moves
	if hit {
		k.refs.Add(1)
	}
	f.mu.Unlock()
	if !hit {
		d, err := beneath.OpenWithin(f.root, f.dataDir, dir)
		if err != nil {
			return resolved{}, err
		}
		k = &cachedDir{path: dir, dir: d, moves: moves}
		k.refs.Store(2)
		f.mu.Lock()
		old := f.cachedDir
		f.cachedDir = k
		f.mu.Unlock()
		old.release()
	}
	return resolved{parent: k.dir, name: base, cached: k}, nil
}
