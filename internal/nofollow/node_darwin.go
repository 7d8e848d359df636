package nofollow

import (
	"time"

	"golang.org/x/sys/unix"
)

// Node is a file with a name. This system cannot open a name without opening the file, so each
// call looks the name up again, and follows no link.
type Node struct {
	dir  int
	name string
}

// Open returns the node of that name in the open directory dir, which must stay open.
func Open(dir int, name string) (*Node, error) {
	n := &Node{dir, name}
	return n, n.Stat(&unix.Stat_t{})
}

// Close ends the use of the node.
func (n *Node) Close() {}

// Stat describes the node.
func (n *Node) Stat(st *unix.Stat_t) error {
	return unix.Fstatat(n.dir, n.name, st, unix.AT_SYMLINK_NOFOLLOW)
}

// Chmod sets the mode bits.
func (n *Node) Chmod(mode uint32) error {
	return unix.Fchmodat(n.dir, n.name, mode, unix.AT_SYMLINK_NOFOLLOW)
}

// chmodInOneCall is Chmod by one system call, which Chmod is anyway.
func chmodInOneCall(int, string, uint32) (done bool, err error) { return false, nil }

// Chown sets the owner.
func (n *Node) Chown(uid, gid int) error {
	return unix.Fchownat(n.dir, n.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

// Chtimes sets access and modification time.
func (n *Node) Chtimes(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(n.dir, n.name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
