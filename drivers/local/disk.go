//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/catalog"
	"github.com/volehq/vole/internal/fault"
	"golang.org/x/sys/unix"
)

// A disk volume is the file disk.raw in the volume's directory: a sparse image holding
// ext4. It is made under another name and renamed, so an image that is there is whole.
const (
	diskName    = "disk.raw"
	diskTemp    = "disk.raw.new"
	diskSideLog = "disk.log" // the write-ahead log of an image that is too small to hold one
)

// imageName and sideLogName return the paths of an image and of its side log beneath volumes/.
func imageName(id string) string   { return id + "/" + diskName }
func sideLogName(id string) string { return id + "/" + diskSideLog }

// roundDiskSize returns the size of an image with at least capacity bytes: a multiple of 4096,
// the block size.
func roundDiskSize(capacity driver.Size) (driver.Size, error) {
	const unit = 4096
	if capacity < ext4.MinSize || capacity > ext4.MaxSize {
		return 0, driver.Errorf(driver.ErrInvalid, "a disk volume has %s to %s, not %s",
			driver.Size(ext4.MinSize), driver.Size(ext4.MaxSize), capacity)
	}
	return (capacity + unit - 1) / unit * unit, nil
}

// createImage makes the image of a volume whose directory exists, durably.
func (b *Backend) createImage(info driver.Info) error {
	dir, err := openDirAt(b.volumes, info.ID)
	if err != nil {
		return err
	}
	defer dir.Close()
	var fd int
	err = b.host.mutate("create", diskTemp, func() (err error) {
		fd, err = unix.Openat(int(dir.Fd()), diskTemp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), diskTemp)
	defer f.Close()
	if err := b.formatImage(f, info); err != nil {
		return err
	}
	return b.publishImage(dir)
}

// publishImage renames a finished image to its final name, durably.
func (b *Backend) publishImage(dir *os.File) error {
	err := b.host.mutate("rename", diskName, func() error {
		return unix.Renameat(int(dir.Fd()), diskTemp, int(dir.Fd()), diskName)
	})
	if err != nil {
		return err
	}
	return b.host.syncFile(dir)
}

// formatImage gives a new image its size and a file system.
func (b *Backend) formatImage(f *os.File, info driver.Info) error {
	err := b.host.mutate("truncate", diskTemp, func() error { return f.Truncate(int64(info.Capacity)) })
	if errors.Is(err, unix.EFBIG) {
		return driver.Errorf(driver.ErrInvalid, "the file system of the home has no files of %s; make a smaller volume", info.Capacity)
	}
	if err != nil {
		return err
	}
	return b.host.mutate("format", diskTemp, func() error {
		_, err := ext4.Format(b.host.imageFile(f), int64(info.Capacity), ext4.FormatOptions{
			Label: diskLabel(info.Name), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		})
		return err
	})
}

// diskLabel is a volume's name as a label, which has 16 bytes at most.
func diskLabel(name string) string { return name[:min(16, len(name))] }

// imageExists reports whether a volume has an image, which is complete if it has its final name.
func (b *Backend) imageExists(id string) (bool, error) {
	_, err := beneath.Lstat(b.volumes, imageName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// openImage opens a volume's image. ErrNotFound: the volume does not exist. ErrCorrupt: its
// image is missing.
func (b *Backend) openImage(ctx context.Context, id string, readOnly bool) (*os.File, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := beneath.OpenFile(b.volumes, imageName(id), flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gerr := b.getVolume(ctx, driver.ByID(id)); gerr != nil {
			return nil, gerr
		}
		return nil, driver.Errorf(driver.ErrCorrupt, "the volume's image is missing; run a check of the home")
	}
	if err != nil {
		return nil, translateError(err)
	}
	return f, nil
}

// growDiskVolume makes a volume's image larger, and returns its new size. The caller updates the
// catalog afterwards: an image larger than the catalog says is harmless.
func (b *Backend) growDiskVolume(ctx context.Context, r volumeRow, capacity driver.Size) (driver.Size, error) {
	size, err := roundDiskSize(capacity)
	if err != nil {
		return 0, err
	}
	if size < r.Capacity {
		return 0, driver.Errorf(driver.ErrInvalid, "the volume has %s and cannot shrink to %s", r.Capacity, size)
	}
	if size == r.Capacity {
		return size, nil
	}
	if err := b.replaySideLog(ctx, r.ID); err != nil {
		return 0, err
	}
	f, err := b.openImage(ctx, r.ID, false)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	hold, err := b.acquireDiskHold(ctx, r.ID, f, holdFiles, false)
	if err != nil {
		return 0, err
	}
	defer hold.release()
	if err := translateDiskError(b.growImage(ctx, r.ID, f, int64(size))); err != nil {
		if errors.Is(err, driver.ErrNoSpace) {
			b.undoGrowth(ctx, r.ID, f, r.Capacity)
		}
		return 0, err
	}
	return size, nil
}

// undoGrowth takes back a growth that ran out of space, so that the next user of the image does
// not try again for a size that cannot be had. An image that got a log of its own on the way
// keeps it, and the catalog records its size. Check reports failures of this.
func (b *Backend) undoGrowth(ctx context.Context, id string, f *os.File, capacity driver.Size) {
	ctx = context.WithoutCancel(ctx)
	defer b.ballast.Lend()()
	side, err := b.openSideLogFile(id, false, false)
	if err != nil {
		return
	}
	if side != nil {
		defer side.Close()
		// The log beside the image may hold a step of the growth, which shrinking does not read.
		grown, err := ext4.Open(b.host.imageFile(f), ext4.OpenOptions{SideLog: func() (ext4.SideLog, error) { return b.host.imageFile(side), nil }})
		if err != nil || grown.Close() != nil {
			return
		}
	}
	size, err := ext4.ShrinkToFit(ctx, b.host.imageFile(f), ext4.ShrinkOptions{Least: int64(capacity)})
	if err != nil || driver.Size(size) == capacity {
		return
	}
	// It ends with its log now: the files keep the room that they had besides.
	size, err = ext4.Grow(ctx, b.host.imageFile(f), size+int64(capacity), ext4.GrowOptions{})
	if err == nil {
		_ = b.updateCapacity(ctx, id, driver.Size(size))
	}
}

// growImage grows an image that the caller holds exclusively.
func (b *Backend) growImage(ctx context.Context, id string, f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	side, err := b.openSideLogFile(id, false, st.Size() < maxSideLogged)
	if err != nil {
		return err
	}
	var opts ext4.GrowOptions
	if side != nil {
		defer side.Close()
		opts.SideLog = func() (ext4.SideLog, error) { return b.host.imageFile(side), nil }
	}
	_, err = ext4.Grow(ctx, b.host.imageFile(f), size, opts)
	return err
}

// completeGrowth finishes an interrupted growth of an image that the caller holds exclusively:
// the image then is larger than the catalog says. Failures are left to Check; the file system is
// consistent at any time.
func (b *Backend) completeGrowth(ctx context.Context, id string, f *os.File) {
	r, err := b.getVolume(ctx, driver.ByID(id))
	if err != nil {
		return
	}
	st, err := f.Stat()
	if err != nil || driver.Size(st.Size()) <= r.Capacity {
		return
	}
	if b.growImage(ctx, id, f, st.Size()) != nil {
		return
	}
	_ = b.updateCapacity(ctx, id, driver.Size(st.Size()))
}

// updateCapacity records the size of a volume's image in the catalog.
func (b *Backend) updateCapacity(ctx context.Context, id string, size driver.Size) error {
	return b.db.Write(ctx, catalog.Durable, func(tx *catalog.Tx) error {
		_, err := tx.Exec(`UPDATE volumes SET capacity = ? WHERE id = ?`, int64(size), id)
		return err
	})
}

// imageFile is an image as ext4 uses it, with faults injected by tests.
type imageFile struct {
	*os.File
	faults *fault.Injector
}

// imageFile returns an open image as ext4 uses it.
func (h hostFS) imageFile(f *os.File) imageFile { return imageFile{f, h.faults} }

func (f imageFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.faults.Do("image.write", f.Name(), func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f imageFile) Sync() error {
	return f.faults.Do("image.sync", f.Name(), func() error { return f.faults.Do("fsync", f.Name(), f.File.Sync) })
}

// PunchHole gives storage of the image back to the host; ext4 calls it when it frees blocks.
func (f imageFile) PunchHole(off, length int64) error {
	return f.faults.Do("image.punch", f.Name(), func() error { return punchHole(f.File, off, length) })
}

func (f imageFile) Truncate(size int64) error {
	return f.faults.Do("image.truncate", f.Name(), func() error { return f.File.Truncate(size) })
}

// translateDiskError turns an error of ext4 into one that matches a sentinel of driver.
func translateDiskError(err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, ext4.ErrCorrupt):
		return driver.Errorf(driver.ErrCorrupt, "%v", err)
	case errors.Is(err, ext4.ErrEscape):
		return driver.Errorf(driver.ErrPathEscape, "a symbolic link on the way leads out of the volume")
	case errors.Is(err, unix.ENODATA):
		return driver.ErrNoXattr
	case errors.Is(err, ext4.ErrUnsupported):
		return driver.Errorf(driver.ErrUnsupported, "%v", err)
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		switch errno {
		case unix.EROFS:
			return driver.Errorf(driver.ErrReadOnly, "the volume is open for reading only")
		case unix.EBADF:
			return driver.ErrClosed
		case unix.EMLINK, unix.ERANGE, unix.E2BIG:
			return driver.Errorf(driver.ErrInvalid, "%v", err)
		}
	}
	return translateError(err)
}

// sumDiskUsage returns the sum of the sizes of a disk volume's files. busy: another process has
// the image open, so they cannot be counted now.
func (b *Backend) sumDiskUsage(ctx context.Context, id string) (used int64, busy bool, err error) {
	if d := b.acquireOpenDisk(id); d != nil {
		used, err = d.fs.SumSizes(ctx)
		return used, false, errors.Join(translateDiskError(err), d.release())
	}
	if !b.readOnly {
		_ = b.replaySideLog(ctx, id) // in use: found out below
	}
	f, err := b.openImage(ctx, id, true)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	hold, err := b.acquireDiskHold(ctx, id, f, holdFiles, true)
	if errors.Is(err, driver.ErrInUse) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer hold.release()
	d, err := ext4.Open(f, ext4.OpenOptions{ReadOnly: true})
	if err != nil {
		return 0, false, translateDiskError(err)
	}
	defer d.Close()
	used, err = d.SumSizes(ctx)
	return used, false, translateDiskError(err)
}

// acquireOpenDisk returns the writable file system that this process has open on a disk volume,
// with one more reference; nil if there is none.
func (b *Backend) acquireOpenDisk(id string) *sharedDisk {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.disks[diskKey{id, false}]
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
