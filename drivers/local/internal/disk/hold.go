//go:build unix

package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/flock"
)

// holdKind says which of the two locks of an image a hold takes. A hold is the right to use the
// image. An attachment locks the image itself: a consumer that inherits the open file, a virtual
// machine for example, keeps the lock when the process that attached dies. Users of the files lock
// the volume's directory. Each kind takes its own lock and then tests the other one, so never both
// succeed. Readers share a lock, writers exclude all others. Holds on files do not keep a volume
// from being removed; attachments do.
type holdKind int

const (
	holdAttach holdKind = iota
	holdFiles
)

// holdPatience is how long to wait for a lock: users of files come and go.
const holdPatience = 400 * time.Millisecond

// pollPatiently calls try, with growing pauses, until it reports that it is done, fails, or
// holdPatience has passed or ctx has ended: then the error is that of busy.
func pollPatiently(ctx context.Context, try func() (done bool, err error), busy func() error) error {
	deadline := time.Now().Add(holdPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if done, err := try(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return busy()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), busy())
		case <-time.After(pause):
		}
	}
}

// acquireHold takes the right to use an image, and waits holdPatience for it. ErrInUse: another
// process holds it, and the error names that process.
func (v Volume) acquireHold(ctx context.Context, image *os.File, kind holdKind, shared bool) (h *flock.Lock, err error) {
	err = pollPatiently(ctx, func() (bool, error) {
		h, err = v.tryAcquireHold(image, kind, shared)
		if errors.Is(err, fs.ErrNotExist) {
			err = v.errMissingPart(ctx, "directory")
		}
		return h != nil, err
	}, func() error { return v.errImageInUse(image) })
	return h, err
}

// tryAcquireHold is acquireHold without waiting. It returns nil and no error if the image is in use.
func (v Volume) tryAcquireHold(image *os.File, kind holdKind, shared bool) (*flock.Lock, error) {
	own, err := v.tryFlockFile(kind, shared)
	if own == nil || err != nil {
		return nil, err
	}
	other, err := v.tryFlockFile(1-kind, shared)
	other.Release()
	if other == nil || err != nil || loopDeviceOf(image, shared) != "" {
		own.Release()
		return nil, err
	}
	return own, nil
}

// tryFlockFile opens and locks the file that holds of this kind lock. It returns nil and no error if
// another process has the lock.
func (v Volume) tryFlockFile(kind holdKind, shared bool) (*flock.Lock, error) {
	var f *os.File
	var err error
	if kind == holdAttach {
		f, err = beneath.OpenFile(v.Volumes, v.pathInVolumes(ImageName), os.O_RDONLY, 0)
	} else {
		f, err = beneath.OpenDir(v.Volumes, v.id)
	}
	if err != nil {
		return nil, translateErrno(err)
	}
	hold, err := flock.TryOpened(f, !shared)
	return hold, translateErrno(err)
}

// HoldForAttachment takes a hold on the volume's image for a consumer that uses it as a block
// device. verify checks that the path which that gets leads to the open image.
func (v Volume) HoldForAttachment(ctx context.Context, readOnly bool, verify func(image *os.File) error) (*flock.Lock, error) {
	if err := v.replaySideLog(ctx); err != nil {
		return nil, err
	}
	image, err := v.openImage(ctx, true)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	if err := verify(image); err != nil {
		return nil, err
	}
	return v.acquireHold(ctx, image, holdAttach, readOnly)
}

// HoldForRemoval locks the image for the removal of the volume, until release is called: a
// consumer may still use the image although the process that attached it is dead. What is lost,
// or just removed by another, needs no lock.
func (v Volume) HoldForRemoval(ctx context.Context) (release func(), err error) {
	end, err := v.serializeRemoval(ctx)
	if err != nil {
		return nil, err
	}
	image, err := v.openImage(ctx, true)
	if err != nil {
		return end, nil // a volume whose image is lost can still be removed
	}
	defer image.Close()
	var hold *flock.Lock
	err = pollPatiently(ctx, func() (done bool, err error) {
		if hold, err = v.tryFlockFile(holdAttach, false); err != nil {
			return true, nil
		}
		if hold != nil && loopDeviceOf(image, false) == "" {
			return true, nil
		}
		hold.Release()
		hold = nil
		// Another may be just removing it, and then the removal says so.
		if _, err := v.lookUpInfo(ctx); err != nil {
			return true, nil
		}
		return false, v.Home.RefuseAttached(ctx, v.id)
	}, func() error { return v.errImageInUse(image) })
	if err != nil {
		end()
		return nil, err
	}
	return func() { hold.Release(); end() }, nil
}

// serializeRemoval blocks until no other call of this process removes the volume, and reserves
// the removal until end is called. The hold of the other call must not be reported as ErrInUse,
// however slow the disk is.
func (v Volume) serializeRemoval(ctx context.Context) (end func(), err error) {
	for {
		v.mu.Lock()
		other := v.removals[v.id]
		if other == nil {
			mine := make(chan struct{})
			v.removals[v.id] = mine
			v.mu.Unlock()
			return func() {
				v.mu.Lock()
				delete(v.removals, v.id)
				v.mu.Unlock()
				close(mine)
			}, nil
		}
		v.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// HoldClosed keeps the files of the volume from being opened, until the hold is released.
// ErrInUse: a process has them open. A volume whose directory is lost needs no hold.
func (v Volume) HoldClosed(ctx context.Context) (h *flock.Lock, err error) {
	err = pollPatiently(ctx, func() (bool, error) {
		h, err = v.tryFlockFile(holdFiles, false)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		return h != nil, err
	}, func() error {
		return driver.Errorf(driver.ErrInUse, "the files of the volume are open in another process; close them first")
	})
	return h, err
}

// errImageInUse returns ErrInUse for an image, naming the user if it can be found.
func (v Volume) errImageInUse(image *os.File) error {
	if err := v.Home.RefuseAttached(context.Background(), v.id); err != nil {
		return err
	}
	if who := describeLockHolder(image); who != "" {
		return driver.Errorf(driver.ErrInUse, "in use by %s; stop it first", who)
	}
	if dev := loopDeviceOf(image, false); dev != "" {
		return driver.Errorf(driver.ErrInUse, "in use by the loop device %s; unmount it first", dev)
	}
	if d, err := beneath.OpenDir(v.Volumes, v.id); err == nil {
		defer d.Close()
		if who := describeLockHolder(d); who != "" {
			return driver.Errorf(driver.ErrInUse, "the files are in use by %s; try again when it is done", who)
		}
	}
	return driver.Errorf(driver.ErrInUse, "in use by another; try again")
}
