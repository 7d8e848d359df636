//go:build unix

package local

// A shared disk is found or added under Backend.mu, and opened outside of it by the caller that
// added it; others wait for ready. The last release closes it, also outside of Backend.mu, and
// leaves it in the index until then: a caller that finds it with no reference waits for closed
// and looks again. So this process never has one image open for writing twice.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// sharedDisk is the open file system of an image in this process. All FSes of one volume share
// it: the image has one writer, which is this process, not one FS. refs counts its FSes and open
// files. The last release closes it; acquireDisk waits for that and opens it again.
type sharedDisk struct {
	b        *Backend
	id       string
	readOnly bool

	ready   chan struct{} // closed once the fields below are set, or err
	err     error
	image   *os.File
	sideLog *os.File // the log beside an image without one, else nil
	hold    *diskHold
	fs      *ext4.FS // in batch mode: diskFS.runChange and Sync sync it

	refs   int           // guarded by Backend.mu; 0: it is being closed
	closed chan struct{} // closed once it is

	mu           sync.Mutex // guards what follows
	counter      *counter   // nil until the first change
	chargedBytes int64      // of the change of ext4.Usage.FileBytes
}

// diskKey tells the shared disks of this process apart: of one volume a read-only and a writable
// one.
type diskKey struct {
	id       string
	readOnly bool
}

// acquireDisk returns the file system of a disk volume, for a user that will call release. A
// reader shares that of a writer.
func (b *Backend) acquireDisk(ctx context.Context, id string, readOnly bool) (*sharedDisk, error) {
	for {
		d, first, err := b.findOrAddDisk(ctx, id, readOnly)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		if first {
			d.err = d.openFileSystem(ctx)
			if d.err != nil {
				d.removeFromShared() // the next user tries again
			}
			close(d.ready)
			if d.err != nil {
				_ = d.release()
			}
			return d, d.err
		}
		select {
		case <-d.ready:
		case <-ctx.Done():
			_ = d.release()
			return nil, ctx.Err()
		}
		if d.err == nil {
			return d, nil
		}
		_ = d.release() // the first user failed, maybe by its own context alone
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// findOrAddDisk returns the file system of a volume with one more reference. If first is set the
// caller must open it and close ready. It returns nil if it had to wait for one that was being
// closed; call it again then.
func (b *Backend) findOrAddDisk(ctx context.Context, id string, readOnly bool) (d *sharedDisk, first bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false, driver.ErrClosed
	}
	d = b.disks[diskKey{id, false}]
	if d == nil && readOnly {
		d = b.disks[diskKey{id, true}]
	}
	if d != nil && d.refs == 0 {
		b.mu.Unlock()
		defer b.mu.Lock()
		select {
		case <-d.closed:
			return nil, false, nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	if d != nil {
		d.refs++
		return d, false, nil
	}
	d = &sharedDisk{b: b, id: id, readOnly: readOnly, ready: make(chan struct{}), closed: make(chan struct{}), refs: 1}
	b.disks[diskKey{id, readOnly}] = d
	return d, true, nil
}

// openFileSystem opens the image, takes a hold on it, and opens the file system in it.
func (d *sharedDisk) openFileSystem(ctx context.Context) (err error) {
	if d.image, err = d.b.openImage(ctx, d.id, d.readOnly); err != nil {
		return err
	}
	if d.hold, err = d.b.acquireDiskHold(ctx, d.id, d.image, holdFiles, d.readOnly); err != nil {
		return err
	}
	if !d.readOnly {
		d.b.completeGrowth(ctx, d.id, d.image)
	}
	d.fs, err = ext4.Open(d.b.host.imageFile(d.image), ext4.OpenOptions{
		ReadOnly: d.readOnly, Batch: true, Discard: true, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		SideLog: func() (ext4.SideLog, error) { return d.openSideLog() },
	})
	return translateDiskError(err)
}

// openSideLog opens the side log of an image that is too small for a log of its own. A writer
// makes it. A reader finds one only if a writer died.
func (d *sharedDisk) openSideLog() (ext4.SideLog, error) {
	if d.sideLog != nil {
		return d.b.host.imageFile(d.sideLog), nil
	}
	st, err := d.image.Stat()
	if err != nil {
		return nil, err
	}
	create := !d.readOnly && st.Size() < maxSideLogged
	f, err := d.b.openSideLogFile(d.id, d.readOnly, create)
	if f == nil || err != nil {
		return nil, err
	}
	d.sideLog = f
	return d.b.host.imageFile(f), nil
}

// maxSideLogged is the size in bytes below which an image may need a side log.
const maxSideLogged = 16 << 20

// openSideLogFile opens the side log of an image; nil and no error: it has none.
func (b *Backend) openSideLogFile(id string, readOnly, create bool) (*os.File, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := beneath.OpenFile(b.volumes, sideLogName(id), flag, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if !create {
		return nil, nil
	}
	dir, err := openDirAt(b.volumes, id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err = beneath.OpenFile(dir, diskSideLog, flag|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return f, b.host.syncFile(dir)
}

// replaySideLog writes the contents of the side log to the image and completes an interrupted
// growth, before anything but ext4 uses the image.
func (b *Backend) replaySideLog(ctx context.Context, id string) error {
	st, err := beneath.Lstat(b.volumes, sideLogName(id))
	beside := err == nil && st.Size > 0
	if !beside && !b.hasUnfinishedGrowth(ctx, id) {
		return nil
	}
	d, err := b.acquireDisk(ctx, id, false)
	if err == nil {
		return d.release()
	}
	if beside {
		return err
	}
	return nil // a growth that cannot be completed now leaves a consistent image
}

// hasUnfinishedGrowth reports whether a growth of the image was interrupted.
func (b *Backend) hasUnfinishedGrowth(ctx context.Context, id string) bool {
	f, err := b.openImage(ctx, id, true)
	if err != nil {
		return false
	}
	defer f.Close()
	began, err := ext4.UnfinishedGrow(f)
	return began && err == nil
}

// acquire adds a reference to a file system that is in use.
func (d *sharedDisk) acquire() {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	d.refs++
}

// release drops a reference. The last one closes the file system, which makes all changes
// durable, and the image.
func (d *sharedDisk) release() error {
	d.b.mu.Lock()
	d.refs--
	last := d.refs == 0
	d.b.mu.Unlock()
	if !last {
		return nil
	}
	// acquireDisk waits for closed: it finds image and hold released.
	defer func() {
		d.removeFromShared()
		close(d.closed)
	}()
	var err error
	if d.fs != nil {
		err = translateDiskError(d.fs.Close())
	}
	if d.counter != nil {
		d.updateCharge()
		if err != nil {
			d.counter.page.store(offStale, 1) // changes were charged that may not have lasted
		}
		d.counter.release()
	}
	if d.sideLog != nil {
		d.sideLog.Close()
	}
	if d.hold != nil {
		d.hold.release()
	}
	if d.image != nil {
		d.image.Close()
	}
	return err
}

// removeFromShared takes the file system out of the index of shared ones.
func (d *sharedDisk) removeFromShared() {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if key := (diskKey{d.id, d.readOnly}); d.b.disks[key] == d {
		delete(d.b.disks, key)
	}
}

// isRemoved reports whether the volume has been removed: its image has no link left.
func (d *sharedDisk) isRemoved() bool {
	var st unix.Stat_t
	return unix.Fstat(int(d.image.Fd()), &st) == nil && st.Nlink == 0
}

// beginChange acquires the volume's counter at the first change, and records the use. Files of a
// disk are changed under the hold on its directory, not under locks of the page.
func (d *sharedDisk) beginChange(ctx context.Context) error {
	d.mu.Lock()
	c := d.counter
	d.mu.Unlock()
	if c != nil {
		c.touchLastUse()
		return nil
	}
	c, err := d.b.acquireCounter(ctx, d.id)
	if err != nil {
		return err
	}
	c.touchLastUse()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counter != nil {
		c.release()
		return nil
	}
	d.counter = c
	return nil
}

// updateCharge sets the charge to the bytes of the files in the image.
func (d *sharedDisk) updateCharge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counter == nil {
		return
	}
	now := d.fs.Usage().FileBytes
	d.counter.page.addBytes(now - d.chargedBytes)
	d.chargedBytes = now
}
