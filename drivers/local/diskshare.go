package local

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

// sharedDisk is the file system of an image that this process has open. All FSes of one
// volume share it: the image has one writer, which is this process, not one FS.
type sharedDisk struct {
	b        *Backend
	id       string
	readOnly bool

	ready chan struct{} // closed once the fields below are set, or err
	err   error
	image *os.File
	side  *os.File // the log beside an image without one, else nil
	hold  *diskHold
	fs    *ext4.FS // in batch mode: who wants a change durable says so

	refs   int           // guarded by Backend.mu; 0: it is being closed
	closed chan struct{} // closed once it is

	mu      sync.Mutex // guards what follows
	count   *counter   // nil until the first change
	charged int64      // of the change of ext4.Usage.FileBytes
}

type diskKey struct {
	id       string
	readOnly bool
}

// useDisk returns a volume's file system, for a user that will call release. A reader
// shares that of a writer.
func (b *Backend) useDisk(ctx context.Context, id string, readOnly bool) (*sharedDisk, error) {
	for {
		d, first, err := b.findDisk(ctx, id, readOnly)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		if first {
			d.err = d.open(ctx)
			if d.err != nil {
				d.forget() // who comes now tries for himself
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

// findDisk returns a volume's file system with one more reference; first says that
// the caller must open it. Nil: one was being closed, and is now.
func (b *Backend) findDisk(ctx context.Context, id string, readOnly bool) (d *sharedDisk, first bool, err error) {
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

func (d *sharedDisk) open(ctx context.Context) (err error) {
	if d.image, err = d.b.openDisk(ctx, d.id, d.readOnly); err != nil {
		return err
	}
	if d.hold, err = d.b.holdDisk(ctx, d.id, d.image, holdFiles, d.readOnly); err != nil {
		return err
	}
	if !d.readOnly {
		d.b.settleSize(ctx, d.id, d.image)
	}
	d.fs, err = ext4.Open(d.b.host.imageFile(d.image), ext4.OpenOptions{
		ReadOnly: d.readOnly, Batch: true, Discard: true, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		SideLog: func() (ext4.SideLog, error) { return d.openSide() },
	})
	return diskErr(err)
}

// openSide opens the log beside an image, which one has that is too small for a log in
// it. It is made for a writer; others have none to look at unless a writer died.
func (d *sharedDisk) openSide() (ext4.SideLog, error) {
	if d.side != nil {
		return d.b.host.imageFile(d.side), nil
	}
	st, err := d.image.Stat()
	if err != nil {
		return nil, err
	}
	create := !d.readOnly && st.Size() < maxBesides
	f, err := d.b.openSideFile(d.id, d.readOnly, create)
	if f == nil || err != nil {
		return nil, err
	}
	d.side = f
	return d.b.host.imageFile(f), nil
}

// maxBesides is the size below which an image may be without a log of its own.
const maxBesides = 16 << 20

// openSideFile opens the log beside an image; nil: there is none.
func (b *Backend) openSideFile(id string, readOnly, create bool) (*os.File, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := beneath.OpenFile(b.volumes, sideName(id), flag, 0)
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
	f, err = beneath.OpenFile(dir, diskSide, flag|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return f, b.host.syncFile(dir)
}

// settleSide brings what the log beside an image holds home, and completes a growth that
// was cut off, before anything else than ext4 uses the image.
func (b *Backend) settleSide(ctx context.Context, id string) error {
	st, err := beneath.Lstat(b.volumes, sideName(id))
	beside := err == nil && st.Size > 0
	if !beside && !b.growUnfinished(ctx, id) {
		return nil
	}
	d, err := b.useDisk(ctx, id, false)
	if err == nil {
		return d.release()
	}
	if beside {
		return err
	}
	return nil // what cannot be completed now is in order as it is
}

// growUnfinished reports whether a growth of an image began and did not end.
func (b *Backend) growUnfinished(ctx context.Context, id string) bool {
	f, err := b.openDisk(ctx, id, true)
	if err != nil {
		return false
	}
	defer f.Close()
	began, err := ext4.UnfinishedGrow(f)
	return began && err == nil
}

// retain adds a use to a file system that is in use.
func (d *sharedDisk) retain() {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	d.refs++
}

// release ends one use. The last one closes the image, which makes all durable.
func (d *sharedDisk) release() error {
	d.b.mu.Lock()
	d.refs--
	last := d.refs == 0
	d.b.mu.Unlock()
	if !last {
		return nil
	}
	// Who wants it next waits until all is given back, and finds no one in his way.
	defer func() {
		d.forget()
		close(d.closed)
	}()
	var err error
	if d.fs != nil {
		err = diskErr(d.fs.Close())
	}
	if d.count != nil {
		d.charge()
		if err != nil {
			d.count.page.store(offStale, 1) // changes were charged that may not have lasted
		}
		d.count.release()
	}
	if d.side != nil {
		d.side.Close()
	}
	if d.hold != nil {
		d.hold.release()
	}
	if d.image != nil {
		d.image.Close()
	}
	return err
}

// forget takes the file system out of those that others share.
func (d *sharedDisk) forget() {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if key := (diskKey{d.id, d.readOnly}); d.b.disks[key] == d {
		delete(d.b.disks, key)
	}
}

// gone reports whether the volume has been removed: its image has no name left.
func (d *sharedDisk) gone() bool {
	var st unix.Stat_t
	return unix.Fstat(int(d.image.Fd()), &st) == nil && st.Nlink == 0
}

// startChange takes the volume's counter at the first change, and notes each. The files of
// a disk are changed under the hold on its directory, not under locks of the page.
func (d *sharedDisk) startChange(ctx context.Context) error {
	d.mu.Lock()
	c := d.count
	d.mu.Unlock()
	if c != nil {
		c.used()
		return nil
	}
	c, err := d.b.useCounter(ctx, d.id)
	if err != nil {
		return err
	}
	c.used()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count != nil {
		c.release()
		return nil
	}
	d.count = c
	return nil
}

// charge brings the counter to what the image holds.
func (d *sharedDisk) charge() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == nil {
		return
	}
	now := d.fs.Usage().FileBytes
	d.count.page.add(now - d.charged)
	d.charged = now
}
