package ext4oracle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// mountPrefix begins the names of all directories that images are mounted on.
const mountPrefix = "vole-oracle-"

// mountedImage is an image in use.
type mountedImage struct {
	dir  string
	loop *loopDevice
}

// mounts holds the mounts of this process, by directory.
var mounts sync.Map

// RequireRoot skips a test that cannot mount images here.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for loop mounts")
	}
	// In a container root may lack the right to mount, or the loop devices.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		t.Skip("the kernel lets root mount nothing here: no CAP_SYS_ADMIN")
	}
	if f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); err != nil {
		t.Skip("the kernel offers no loop devices here: ", err)
	} else {
		f.Close()
	}
	RequireTools(t)
}

// Mount mounts an image until the test ends, or until [Unmount], and returns the
// directory. Options are those of mount(8) for ext4, one per argument. Read-only mounts
// ("ro") leave the image as it is, so the kernel refuses them if the journal needs
// recovery, unless "noload" is given too. Access times are not updated.
func Mount(t testing.TB, image string, opts ...string) string {
	t.Helper()
	dir, err := TryMount(t, image, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TryMount is [Mount] for images that the kernel may refuse. The error has the kernel's
// reason.
func TryMount(t testing.TB, image string, opts ...string) (string, error) {
	t.Helper()
	flags, data := splitMountOptions(opts)
	loop, err := attachLoopDevice(image, flags&unix.MS_RDONLY != 0)
	if err != nil {
		return "", err
	}
	defer loop.closeDescriptor()
	dir, err := os.MkdirTemp("", mountPrefix)
	if err != nil {
		return "", err
	}
	log := openKernelLog()
	defer log.closeLog()
	if err := unix.Mount(loop.devicePath(), dir, "ext4", flags, data); err != nil {
		os.Remove(dir)
		reason := log.messagesAbout(filepath.Base(loop.devicePath()))
		return "", fmt.Errorf("the kernel refuses %s (options %q): %w%s", filepath.Base(image), opts, err, reason)
	}
	mounts.Store(dir, &mountedImage{dir, loop})
	t.Cleanup(func() {
		if _, still := mounts.Load(dir); still {
			Unmount(t, dir)
		}
	})
	return dir, nil
}

// splitMountOptions separates options that the kernel takes as flags from the others.
func splitMountOptions(opts []string) (flags uintptr, data string) {
	flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID
	var others []string
	for _, o := range opts {
		switch o {
		case "ro":
			flags |= unix.MS_RDONLY
		case "rw":
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "dirsync":
			flags |= unix.MS_DIRSYNC
		default:
			others = append(others, o)
		}
	}
	return flags, strings.Join(others, ",")
}

// Unmount ends a [Mount]. When it returns, everything is in the image, and the kernel does
// not use it any more. It fails the test if files are open.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	m, ok := mounts.LoadAndDelete(dir)
	if !ok {
		t.Errorf("%s is not mounted", dir)
		return
	}
	if err := m.(*mountedImage).unmountImage(); err != nil {
		t.Error(err)
	}
}

// unmountImage unmounts and waits until the kernel has released the image. If files stay
// open it detaches the mount and reports the error, so that later tests are not disturbed.
func (m *mountedImage) unmountImage() error {
	var err error
	// A process that another test just started may hold our files until it execs.
	pollUntil(func() bool {
		err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
		return !errors.Is(err, unix.EBUSY)
	})
	if err != nil {
		err = fmt.Errorf("unmounting %s: %w", m.dir, err)
		unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if points, infoErr := listMountPoints(); infoErr != nil {
		err = errors.Join(err, infoErr)
	} else if points[m.dir] {
		return errors.Join(err, fmt.Errorf("%s is mounted still", m.dir))
	}
	return errors.Join(err, os.Remove(m.dir), m.loop.waitDetached())
}

// Leaked lists the mounts of this package that exist, of all processes.
func Leaked() ([]string, error) {
	points, err := listMountPoints()
	var leaked []string
	for dir := range points {
		if strings.HasPrefix(filepath.Base(dir), mountPrefix) {
			leaked = append(leaked, dir)
		}
	}
	return leaked, err
}

// listMountPoints returns all mount points.
func listMountPoints() (map[string]bool, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	points := map[string]bool{}
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points[unescapeOctal(fields[4])] = true
		}
	}
	return points, nil
}

// unescapeOctal resolves the octal escapes of mountinfo.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// kernelLog reads kernel messages from a moment on. It may be nil.
type kernelLog struct{ fd int }

// openKernelLog begins to read at the end of the kernel's messages; nil if that is not
// permitted.
func openKernelLog() *kernelLog {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return nil
	}
	return &kernelLog{fd}
}

// closeLog ends the reading.
func (l *kernelLog) closeLog() {
	if l != nil {
		unix.Close(l.fd)
	}
}

// messagesAbout returns the messages that name a device, to be appended to an error.
func (l *kernelLog) messagesAbout(device string) string {
	var said strings.Builder
	buf := make([]byte, 8192)
	for l != nil {
		n, err := unix.Read(l.fd, buf)
		if errors.Is(err, unix.EPIPE) { // some were overwritten
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		_, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		if strings.Contains(text, "("+device+")") {
			said.WriteString("; " + text)
		}
	}
	return said.String()
}
