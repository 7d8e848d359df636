package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Of returns the loop devices that use the file, whatever process made them: each is mounted, or
// may be at any time.
func Of(image *os.File) []Device {
	var st unix.Stat_t
	if unix.Fstat(int(image.Fd()), &st) != nil {
		return nil
	}
	var found []Device
	list, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is well-formed
	for _, p := range list {
		block := strings.TrimSuffix(p, "/loop/backing_file")
		if backsFile(block, image.Name(), &st) {
			ro, _ := os.ReadFile(block + "/ro")
			found = append(found, Device{"/dev/" + filepath.Base(block), strings.HasPrefix(string(ro), "1")})
		}
	}
	return found
}

// backsFile reports whether the loop device described in the directory block uses the file.
func backsFile(block, name string, st *unix.Stat_t) bool {
	b, err := os.ReadFile(block + "/loop/backing_file")
	if err != nil {
		return false // detached since it was listed
	}
	path := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), " (deleted)")
	var back unix.Stat_t
	if unix.Stat(path, &back) == nil && back.Dev == st.Dev && back.Ino == st.Ino {
		return true
	}
	// The path is that of a mount namespace that need not be ours. The device itself
	// knows better, but is asked only where the name fits: asking keeps it busy.
	if filepath.Base(path) != filepath.Base(name) {
		return false
	}
	dev, err := os.Open("/dev/" + filepath.Base(block))
	if err != nil {
		return false
	}
	defer dev.Close()
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	return err == nil && info.Device == uint64(st.Dev) && info.Inode == st.Ino
}

// attempts bounds how often another process may be faster in taking a free device.
const attempts = 64

// Attach makes a loop device of the file and returns it open. It lasts as long as it is
// open or mounted: closing the last of both detaches it. The file must be open for
// writing unless readOnly is set.
func Attach(image *os.File, readOnly bool) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range attempts {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = configureDevice(dev, image, readOnly)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, os.NewSyscallError("LOOP_CONFIGURE", err)
		}
	}
	return nil, errors.New("no free loop device")
}

// configureDevice gives a free device its file. Without direct I/O everything would be in
// memory twice: as the content of the file, and of the device.
func configureDevice(dev, image *os.File, readOnly bool) error {
	c := unix.LoopConfig{Fd: uint32(image.Fd())}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	if readOnly {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(c.Info.File_name[:len(c.Info.File_name)-1], image.Name())
	c.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	err := unix.IoctlLoopConfigure(int(dev.Fd()), &c)
	if errors.Is(err, unix.EINVAL) { // the file system beneath has none
		c.Info.Flags &^= unix.LO_FLAGS_DIRECT_IO
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &c)
	}
	return err
}
