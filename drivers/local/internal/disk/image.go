//go:build unix

package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/flock"
	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sys/unix"
)

// The files of a volume in its directory. An image is made under another name and renamed, so one
// that has its name is whole.
const (
	ImageName   = "disk.raw"
	tempName    = "disk.raw.new"
	sideLogName = "disk.log" // the write-ahead log of an image that is too small to hold one
)

// maxSideLogged is the size in bytes below which an image may need a side log.
const maxSideLogged = 16 << 20

// pathInVolumes returns the path of a file of the volume beneath the directory of all volumes.
func (v Volume) pathInVolumes(name string) string { return v.id + "/" + name }

// Create makes the image of a volume whose directory exists, durably. name becomes its label.
func (v Volume) Create(name string, capacity driver.Size) error {
	dir, err := beneath.OpenDir(v.Volumes, v.id)
	if err != nil {
		return err
	}
	defer dir.Close()
	var f *os.File
	err = v.Faults.Do("create", tempName, func() (err error) {
		f, err = beneath.OpenFile(dir, tempName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	if err := v.formatImage(f, name, capacity); err != nil {
		return err
	}
	err = v.Faults.Do("rename", ImageName, func() error { return beneath.Rename(dir, tempName, ImageName) })
	if err != nil {
		return err
	}
	return v.syncDirectory(dir)
}

// formatImage gives a new image its size and a file system.
func (v Volume) formatImage(f *os.File, name string, capacity driver.Size) error {
	err := v.Faults.Do("truncate", tempName, func() error { return f.Truncate(int64(capacity)) })
	if errors.Is(err, unix.EFBIG) {
		return driver.Errorf(driver.ErrInvalid, "the file system of the home has no files of %s; make a smaller volume", capacity)
	}
	if err != nil {
		return err
	}
	return v.Faults.Do("format", tempName, func() error {
		_, err := ext4.Format(device{f, v.Faults}, int64(capacity), ext4.FormatOptions{
			Label: name[:min(maxLabel, len(name))], UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		})
		return err
	})
}

// maxLabel is how many bytes the label of an ext4 file system has at most.
const maxLabel = 16

// syncDirectory makes the names of a volume's files durable.
func (s *Set) syncDirectory(dir *os.File) error { return s.Faults.Do("fsync", dir.Name(), dir.Sync) }

// Exists reports whether the volume has an image.
func (v Volume) Exists() (bool, error) {
	_, err := beneath.Lstat(v.Volumes, v.pathInVolumes(ImageName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// openImage opens the volume's image. ErrNotFound: the volume does not exist. ErrCorrupt: its
// image is missing.
func (v Volume) openImage(ctx context.Context, readOnly bool) (*os.File, error) {
	f, err := beneath.OpenFile(v.Volumes, v.pathInVolumes(ImageName), openFlag(readOnly), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, v.errMissingPart(ctx, "image")
	}
	return f, translateErrno(err)
}

// openFlag is the flag of open(2) for reading, or for writing as well.
func openFlag(readOnly bool) int {
	if readOnly {
		return os.O_RDONLY
	}
	return os.O_RDWR
}

// errMissingPart is the error for a volume of which a part does not exist: ErrNotFound if the
// volume was removed, otherwise ErrCorrupt.
func (v Volume) errMissingPart(ctx context.Context, part string) error {
	if _, err := v.lookUpInfo(ctx); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrCorrupt, "the volume's %s is missing; run a check of the home", part)
}

// heldImage is the open image of a volume, under a hold for its files.
type heldImage struct {
	device
	volume   Volume
	readOnly bool
	hold     *flock.Lock

	makesSideLog bool     // a side log that is missing is made
	sideLog      *os.File // nil: not opened, or there is none
}

// openHeldImage opens the volume's image and takes a hold on it, which a reader shares with
// others.
func (v Volume) openHeldImage(ctx context.Context, readOnly bool) (*heldImage, error) {
	f, err := v.openImage(ctx, readOnly)
	if err != nil {
		return nil, err
	}
	var hold *flock.Lock
	st, err := f.Stat()
	if err == nil {
		hold, err = v.acquireHold(ctx, f, holdFiles, readOnly)
	}
	if err != nil {
		f.Close()
		return nil, translateErrno(err)
	}
	return &heldImage{
		device: device{f, v.Faults}, volume: v, readOnly: readOnly, hold: hold, makesSideLog: !readOnly && st.Size() < maxSideLogged,
	}, nil
}

// openAtRest opens the volume's image to read the file system as the last user left it: what a
// crash has left in the side log is written to the image before.
func (v Volume) openAtRest(ctx context.Context) (*heldImage, error) {
	if !v.ReadOnly {
		_ = v.replaySideLog(ctx) // an image in use: the hold finds that out
	}
	return v.openHeldImage(ctx, true)
}

// Close closes the image and its side log, and gives the hold back.
func (i *heldImage) Close() {
	if i.sideLog != nil {
		i.sideLog.Close()
	}
	i.hold.Release()
	i.File.Close()
}

// isRemoved reports whether the volume has been removed: its image has no link left.
func (i *heldImage) isRemoved() bool {
	var st unix.Stat_t
	return unix.Fstat(int(i.Fd()), &st) == nil && st.Nlink == 0
}

// allocatedBytes returns how many bytes of the host the image takes.
func (i *heldImage) allocatedBytes() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(i.Fd()), &st)
	return st.Blocks * 512, err // stat(2): blocks of 512 bytes whatever the file system
}

// openSideLog opens the side log of an image that is too small for a log of its own, as
// ext4.OpenOptions wants it: nil if there is none. A writer makes it if the image was small when
// that was opened. A reader finds one only if a writer died.
func (i *heldImage) openSideLog() (ext4.SideLog, error) {
	if i.sideLog == nil {
		f, err := i.volume.openSideLogFile(i.readOnly, i.makesSideLog)
		if f == nil || err != nil {
			return nil, err
		}
		i.sideLog = f
	}
	return device{i.sideLog, i.faults}, nil
}

// openSideLogFile opens the volume's side log; nil and no error: it has none.
func (v Volume) openSideLogFile(readOnly, create bool) (*os.File, error) {
	f, err := beneath.OpenFile(v.Volumes, v.pathInVolumes(sideLogName), openFlag(readOnly), 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if !create {
		return nil, nil
	}
	dir, err := beneath.OpenDir(v.Volumes, v.id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err = beneath.OpenFile(dir, sideLogName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return f, v.syncDirectory(dir)
}

// replaySideLog writes the contents of the side log to the image and completes an interrupted
// growth, before anything but ext4 uses the image.
func (v Volume) replaySideLog(ctx context.Context) error {
	st, err := beneath.Lstat(v.Volumes, v.pathInVolumes(sideLogName))
	beside := err == nil && st.Size > 0
	if !beside && !v.hasUnfinishedGrowth(ctx) {
		return nil
	}
	d, err := v.acquireShared(ctx, false)
	if err == nil {
		return d.release()
	}
	if beside {
		return err
	}
	return nil // a growth that cannot be completed now leaves a consistent image
}

// device is a file as ext4 uses it, with faults injected by tests.
type device struct {
	*os.File
	faults *fault.Injector
}

func (d device) WriteAt(p []byte, off int64) (n int, err error) {
	err = d.faults.Do("image.write", d.Name(), func() error {
		n, err = d.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (d device) Sync() error {
	return d.faults.Do("image.sync", d.Name(), func() error { return d.faults.Do("fsync", d.Name(), d.File.Sync) })
}

// PunchHole gives storage of the image back to the host; ext4 calls it when it frees blocks.
func (d device) PunchHole(off, length int64) error {
	return d.faults.Do("image.punch", d.Name(), func() error { return sparse.PunchHole(d.File, off, length) })
}

func (d device) Truncate(size int64) error {
	return d.faults.Do("image.truncate", d.Name(), func() error { return d.File.Truncate(size) })
}
