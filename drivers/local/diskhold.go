//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// holdKind says which of the two locks of an image a hold takes. An attachment locks the image
// itself: a consumer that inherits the open file, a virtual machine for example, keeps the lock
// when the process that attached dies. Users of the files lock the volume's directory. Each kind
// takes its own lock and then tests the other one, so never both succeed. Readers share a lock,
// writers exclude all others. Holds on files do not keep a volume from being removed;
// attachments do.
type holdKind int

const (
	holdAttach holdKind = iota
	holdFiles
)

// holdPatience is how long to wait for a lock: users of files come and go.
const holdPatience = 400 * time.Millisecond

// diskHold is the right to use an image: an open file with a lock on it.
type diskHold struct{ f *os.File }

// release gives the right back, unless another process has inherited the open file.
func (h *diskHold) release() { h.f.Close() }

// acquireDiskHold takes the right to use an image, and waits holdPatience for it. ErrInUse:
// another process holds it, and the error names that process.
func (b *Backend) acquireDiskHold(ctx context.Context, id string, image *os.File, kind holdKind, shared bool) (*diskHold, error) {
	deadline := time.Now().Add(holdPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		h, err := b.tryDiskHold(id, image, kind, shared)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, b.errMissingDirectory(ctx, id)
		}
		if h != nil || err != nil {
			return h, err
		}
		if time.Now().After(deadline) {
			return nil, b.errDiskInUse(id, image)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), b.errDiskInUse(id, image))
		case <-time.After(pause):
		}
	}
}

// tryDiskHold is acquireDiskHold without waiting. It returns nil and no error if the image is in
// use.
func (b *Backend) tryDiskHold(id string, image *os.File, kind holdKind, shared bool) (*diskHold, error) {
	own, err := b.tryFlockDisk(id, kind, shared)
	if own == nil || err != nil {
		return nil, err
	}
	other, err := b.tryFlockDisk(id, 1-kind, shared)
	if other == nil || err != nil {
		own.Close()
		return nil, err
	}
	other.Close()
	if dev := loopDeviceOf(image, shared); dev != "" {
		own.Close()
		return nil, nil
	}
	return &diskHold{own}, nil
}

// tryFlockDisk opens and locks the file that holds of this kind lock. It returns nil and no
// error if another process has the lock.
func (b *Backend) tryFlockDisk(id string, kind holdKind, shared bool) (f *os.File, err error) {
	if kind == holdAttach {
		f, err = beneath.OpenFile(b.volumes, imageName(id), os.O_RDONLY, 0)
	} else {
		f, err = openDirAt(b.volumes, id)
	}
	if err != nil {
		return nil, translateError(err)
	}
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, translateError(err)
}

// errDiskInUse returns ErrInUse for an image, naming the user if it can be found.
func (b *Backend) errDiskInUse(id string, image *os.File) error {
	if list, err := b.Attachments(context.Background(), id); err == nil && len(list) > 0 {
		return errAttached(list[0], len(list) > 1)
	}
	if who := describeLockHolder(image); who != "" {
		return driver.Errorf(driver.ErrInUse, "in use by %s; stop it first", who)
	}
	if dev := loopDeviceOf(image, false); dev != "" {
		return driver.Errorf(driver.ErrInUse, "in use by the loop device %s; unmount it first", dev)
	}
	if d, err := openDirAt(b.volumes, id); err == nil {
		defer d.Close()
		if who := describeLockHolder(d); who != "" {
			return driver.Errorf(driver.ErrInUse, "the files are in use by %s; try again when it is done", who)
		}
	}
	return driver.Errorf(driver.ErrInUse, "in use by another; try again")
}

// errAttached returns ErrInUse for a volume that is attached.
func errAttached(i driver.AttachmentInfo, more bool) error {
	and := ""
	if more {
		and = " and others"
	}
	return driver.Errorf(driver.ErrInUse, "in use by %q (process %d on %s, since %s)%s; stop it first",
		i.Holder, i.PID, i.Host, i.Since.Format(time.RFC3339), and)
}
