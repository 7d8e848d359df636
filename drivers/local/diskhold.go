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

// Two kernel locks say who uses an image. An attachment holds one on the image itself:
// who inherits the open file, a virtual machine say, goes on holding it when the
// process that attached dies. Whoever reads or writes files in the image holds one on
// the volume's directory. Each kind takes its own and then looks at the other, so
// never both succeed. Readers share, writers do not; a volume can be removed under
// those who use its files, but not under an attachment.
type holdKind int

const (
	holdAttach holdKind = iota
	holdFiles
)

// holdPatience is how long to wait for a lock: users of files come and go.
const holdPatience = 400 * time.Millisecond

// diskHold is a held right to an image.
type diskHold struct{ f *os.File }

// release gives the right back, unless another process has inherited it.
func (h *diskHold) release() { h.f.Close() }

// acquireDiskHold takes the right to use an image. ErrInUse, naming a holder.
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

// tryDiskHold returns nil without an error when another holds the image.
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

// tryFlockDisk opens and locks what one kind of holder locks; nil: another holds it.
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

// errDiskInUse is the error for an image that is in use.
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

// errAttached is the error for a volume that is attached.
func errAttached(i driver.AttachmentInfo, more bool) error {
	and := ""
	if more {
		and = " and others"
	}
	return driver.Errorf(driver.ErrInUse, "in use by %q (process %d on %s, since %s)%s; stop it first",
		i.Holder, i.PID, i.Host, i.Since.Format(time.RFC3339), and)
}
