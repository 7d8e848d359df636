package nofollow

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Node is the file, directory, link or device that had a name when it was opened, and may be
// closed even to its owner. It is not opened for reading, so that opening a fifo does not wait,
// and closing a Node releases no lock of this process on the file.
type Node struct{ fd int }

// Open looks up a name in the open directory dir.
func Open(dir int, name string) (*Node, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Node{fd}, nil
}

// Close closes the node.
func (n *Node) Close() { _ = unix.Close(n.fd) }

// procPath is the kernel's own link to the node, by which all system calls take it. Their
// forms with an empty path are younger (fchmodat2: Linux 6.6).
func (n *Node) procPath() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }

// Stat describes the node.
func (n *Node) Stat(st *unix.Stat_t) error { return unix.Fstat(n.fd, st) }

// Chmod sets the mode bits.
func (n *Node) Chmod(mode uint32) error { return unix.Chmod(n.procPath(), mode) }

// chmodInOneCall is Chmod by one system call (fchmodat2: Linux 6.6), unless that is missing.
func chmodInOneCall(dir int, name string, mode uint32) (done bool, err error) {
	err = unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	// EOPNOTSUPP: an older kernel, or a link. EPERM: a filter that does not know the call.
	return err != unix.EOPNOTSUPP && err != unix.EPERM, err
}

// Chown sets the owner.
func (n *Node) Chown(uid, gid int) error {
	return unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// Chtimes sets access and modification time.
func (n *Node) Chtimes(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, n.procPath(), []unix.Timespec{ts, ts}, 0)
}
