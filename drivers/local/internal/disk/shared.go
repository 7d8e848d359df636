//go:build unix

package disk

// A shared file system is found or added under Set.mu, and opened outside of it by the caller
// that added it; others wait for ready. The last release closes it, also outside of Set.mu, and
// leaves it in the index until then: a caller that finds it with no reference waits for closed
// and looks again. So this process never has one image open for writing twice.

import (
	"context"
	"os"
	"sync"

	"github.com/volehq/vole/ext4"
)

// sharedFS is the open file system of an image in this process. All FSes of one volume share it:
// the image has one writer, which is this process, not one FS. refs counts its FSes and open
// files. The last release closes it; acquireShared waits for that and opens it again.
type sharedFS struct {
	volume   Volume
	readOnly bool

	ready chan struct{} // closed once the fields below are set, or err
	err   error
	image *heldImage
	fs    *ext4.FS // in batch mode: volumeFS.runChangeAndSync and Sync sync it

	refs   int           // guarded by Set.mu; 0: it is being closed
	closed chan struct{} // closed once it is

	counter Counter

	mu           sync.Mutex // guards chargedBytes
	chargedBytes int64      // of the change of ext4.Usage.FileBytes
}

// shareKey tells the shared file systems of this process apart: of one volume a read-only and a
// writable one.
type shareKey struct {
	id       string
	readOnly bool
}

// acquireShared returns the file system of a volume, for a user that will call release. A reader
// shares that of a writer.
func (v Volume) acquireShared(ctx context.Context, readOnly bool) (*sharedFS, error) {
	for {
		d, first, err := v.findOrAddShared(ctx, readOnly)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		if first {
			if d.err = d.openFileSystem(ctx); d.err != nil {
				d.removeFromIndex() // the next user tries again
			}
			close(d.ready)
		} else {
			select {
			case <-d.ready:
			case <-ctx.Done():
				_ = d.release()
				return nil, ctx.Err()
			}
		}
		if d.err == nil {
			return d, nil
		}
		_ = d.release() // the first user failed, maybe by its own context alone
		if first {
			return nil, d.err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// findOrAddShared returns the file system of a volume with one more reference. If first is set the
// caller must open it and close ready. It returns nil if it had to wait for one that was being
// closed; call it again then.
func (v Volume) findOrAddShared(ctx context.Context, readOnly bool) (d *sharedFS, first bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d = v.shared[shareKey{v.id, false}]
	if d == nil && readOnly {
		d = v.shared[shareKey{v.id, true}]
	}
	if d != nil && d.refs == 0 {
		v.mu.Unlock()
		defer v.mu.Lock()
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
	d = &sharedFS{volume: v, readOnly: readOnly, counter: v.Home.Counter(v.id), ready: make(chan struct{}), closed: make(chan struct{}), refs: 1}
	v.shared[shareKey{v.id, readOnly}] = d
	return d, true, nil
}

// acquireSharedIfOpen returns the writable file system that this process has open on the volume, with
// one more reference; nil if there is none.
func (v Volume) acquireSharedIfOpen() *sharedFS {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.shared[shareKey{v.id, false}]
	if d == nil || d.refs == 0 {
		return nil
	}
	select {
	case <-d.ready:
	default:
		return nil
	}
	if d.err != nil {
		return nil
	}
	d.refs++
	return d
}

// openFileSystem opens the image, under a hold, and the file system in it.
func (d *sharedFS) openFileSystem(ctx context.Context) (err error) {
	if d.image, err = d.volume.openHeldImage(ctx, d.readOnly); err != nil {
		return err
	}
	if !d.readOnly {
		d.image.completeGrowth(ctx)
	}
	d.fs, err = ext4.Open(d.image, ext4.OpenOptions{
		ReadOnly: d.readOnly, Batch: true, Discard: true, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		SideLog: d.image.openSideLog,
	})
	return translateError(err)
}

// acquire adds a reference to a file system that is in use.
func (d *sharedFS) acquire() {
	d.volume.mu.Lock()
	defer d.volume.mu.Unlock()
	d.refs++
}

// release drops a reference. The last one closes the file system, which makes all changes
// durable, and the image.
func (d *sharedFS) release() error {
	d.volume.mu.Lock()
	d.refs--
	last := d.refs == 0
	d.volume.mu.Unlock()
	if !last {
		return nil
	}
	// findOrAddShared waits for closed: it finds image and hold released.
	defer func() {
		d.removeFromIndex()
		close(d.closed)
	}()
	var err error
	if d.fs != nil {
		err = translateError(d.fs.Close())
		d.updateCharge()
		d.counter.Release(err != nil) // changes were charged that may not have lasted
	}
	if d.image != nil {
		d.image.Close()
	}
	return err
}

// removeFromIndex takes the file system out of the index of shared ones.
func (d *sharedFS) removeFromIndex() {
	d.volume.mu.Lock()
	defer d.volume.mu.Unlock()
	if key := (shareKey{d.volume.id, d.readOnly}); d.volume.shared[key] == d {
		delete(d.volume.shared, key)
	}
}

// updateCharge sets the charge to the bytes of the files in the image.
func (d *sharedFS) updateCharge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.fs.Usage().FileBytes
	if d.counter.AddBytes(now - d.chargedBytes) {
		d.chargedBytes = now
	}
}
