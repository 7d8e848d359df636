package ext4oracle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loopDevice is a block device over an image. The kernel detaches it when its last user is
// gone.
type loopDevice struct {
	number int
	image  string // without symbolic links
	file   *os.File
}

// devicePath returns the path of the device.
func (l *loopDevice) devicePath() string { return fmt.Sprintf("/dev/loop%d", l.number) }

// attachLoopDevice makes a block device over an image. It lasts until it is mounted and
// unmounted again, or until closeDescriptor if it is not mounted by then.
func attachLoopDevice(image string, readOnly bool) (*loopDevice, error) {
	image, err := filepath.Abs(image)
	if err == nil {
		image, err = filepath.EvalSymlinks(image)
	}
	if err != nil {
		return nil, err
	}
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR)
	if readOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	backing, err := os.OpenFile(image, mode, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	// Between asking for a free device and taking it another process may take it.
	for range 100 {
		l := &loopDevice{image: image}
		l.number, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("asking for a free loop device: %w", err)
		}
		if l.file, err = os.OpenFile(l.devicePath(), mode, 0); err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = flags
		copy(config.Info.File_name[:len(config.Info.File_name)-1], image)
		if err = unix.IoctlLoopConfigure(int(l.file.Fd()), &config); err == nil {
			return l, nil
		}
		l.file.Close()
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return nil, fmt.Errorf("attaching %s to a loop device: %w", image, err)
}

// closeDescriptor closes the descriptor; a mount keeps the device alive.
func (l *loopDevice) closeDescriptor() { l.file.Close() }

// isAttached reports whether the device still is attached to the image.
func (l *loopDevice) isAttached() bool {
	name, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", l.number))
	return err == nil && strings.TrimSuffix(string(name), "\n") == l.image
}

// waitDetached waits for the kernel to detach the device.
func (l *loopDevice) waitDetached() error {
	if !pollUntil(func() bool { return !l.isAttached() }) {
		return fmt.Errorf("%s still holds %s after it was unmounted", l.devicePath(), l.image)
	}
	return nil
}

// detachPatience is how long to wait for the kernel to release a mount or a device.
const detachPatience = 10 * time.Second

// pollUntil calls done until it returns true, or detachPatience is over.
func pollUntil(done func() bool) bool {
	start := time.Now()
	for wait := time.Millisecond; !done(); wait = min(2*wait, 100*time.Millisecond) {
		if time.Since(start) > detachPatience {
			return false
		}
		time.Sleep(wait)
	}
	return true
}
