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

// patience is how long to wait for a lock: users of files come and go.
const patience = 400 * time.Millisecond

// diskHold is a held right to an image.
type diskHold struct{ f *os.File }

// release gives the right back, unless another process has inherited it.
func (h *diskHold) release() { h.f.Close() }

// holdDisk takes the right to use an image. ErrInUse, naming a holder.
func (b *Backend) holdDisk(ctx context.Context, id string, image *os.File, kind holdKind, shared bool) (*diskHold, error) {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		h, err := b.tryHold(id, image, kind, shared)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, b.whyMissing(ctx, id)
		}
		if h != nil || err != nil {
			return h, err
		}
		if time.Now().After(deadline) {
			return nil, b.whoHolds(id, image)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), b.whoHolds(id, image))
		case <-time.After(pause):
		}
	}
}

// tryHold returns nil without an error when another holds the image.
func (b *Backend) tryHold(id string, image *os.File, kind holdKind, shared bool) (*diskHold, error) {
	own, err := b.flockDisk(id, kind, shared)
	if own == nil || err != nil {
		return nil, err
	}
	other, err := b.flockDisk(id, 1-kind, shared)
	if other == nil || err != nil {
		own.Close()
		return nil, err
	}
	other.Close()
	if dev := loopOf(image, shared); dev != "" {
		own.Close()
		return nil, nil
	}
	return &diskHold{own}, nil
}

// flockDisk opens and locks what one kind of holder locks; nil: another holds it.
func (b *Backend) flockDisk(id string, kind holdKind, shared bool) (f *os.File, err error) {
	if kind == holdAttach {
		f, err = beneath.OpenFile(b.volumes, imageName(id), os.O_RDONLY, 0)
	} else {
		f, err = openDirAt(b.volumes, id)
	}
	if err != nil {
		return nil, sysErr(err)
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
	return nil, sysErr(err)
}

// whoHolds is the error for an image that is in use.
func (b *Backend) whoHolds(id string, image *os.File) error {
	if list, err := b.Attachments(context.Background(), id); err == nil && len(list) > 0 {
		return errAttached(list[0], len(list) > 1)
	}
	if who := lockHolder(image); who != "" {
		return driver.Errorf(driver.ErrInUse, "in use by %s; stop it first", who)
	}
	if dev := loopOf(image, false); dev != "" {
		return driver.Errorf(driver.ErrInUse, "in use by the loop device %s; unmount it first", dev)
	}
	if d, err := openDirAt(b.volumes, id); err == nil {
		defer d.Close()
		if who := lockHolder(d); who != "" {
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
