//go:build unix

package local

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/ballast"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/durable"
	"golang.org/x/sys/unix"
)

// A home is opened once, as a directory. Its owner is read from that open directory, and
// everything in it is opened beneath it without following links. So neither the content of
// a home that another user prepared nor a later change of its path leads anywhere else.
// Only the path of the home itself may go through links.

// overflowUID is the id that the kernel shows for owners that this process's user namespace does
// not map (user_namespaces(7)). It may be the id of this user, too.
const overflowUID = 65534

// CheckOwner returns the error with which Open would refuse the home for its owner, or because
// it does not exist.
func CheckOwner(home string, foreign bool) error {
	dir, err := openHomeDir(home, false, foreign)
	if err != nil {
		return err
	}
	return dir.Close()
}

// openHomeDir opens the directory of a home, and makes it first if makeIt is set. ErrPermission:
// it belongs to another user, and foreign is not set.
func openHomeDir(home string, makeIt, foreign bool) (*os.File, error) {
	if makeIt {
		if err := durable.MkdirAll(home); err != nil {
			return nil, err
		}
	}
	// First without the right to read it: an owner keeps others out.
	var fd int
	err := hostFS{}.mutate("open", home, func() (err error) {
		fd, err = unix.Open(home, openPath|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if st, lerr := os.Lstat(home); errors.Is(err, unix.ENOENT) && lerr == nil && st.Mode().Type() == fs.ModeSymlink {
		return nil, driver.Errorf(driver.ErrNotExist, "it is a symbolic link that leads nowhere; make the directory that it names, or mount what has it")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: home, Err: err}
	}
	held := os.NewFile(uintptr(fd), home)
	defer held.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if !foreign && (st.Uid != uint32(os.Geteuid()) || st.Uid == overflowUID && !isOwner(held)) {
		return nil, driver.Errorf(driver.ErrPermission,
			"the home belongs to %s, who decides what is in it and what it leads to; to use it all the same, say --foreign-home (Options.ForeignHome)", ownerName(st.Uid))
	}
	return beneath.OpenDir(held, ".")
}

// ownerName describes a user for messages.
func ownerName(uid uint32) string {
	n := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(n); err == nil {
		return fmt.Sprintf("%q (user %s)", u.Username, n)
	}
	return "user " + n
}

// checkHomePart returns an error for a part of the home that has the wrong type, or that another
// user than this one or root has made: then the home was open to others. A missing part is none
// of these.
func (b *Backend) checkHomePart(name string) error {
	st, err := beneath.Lstat(b.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		return driver.Errorf(driver.ErrCorrupt, "%s in the home is a symbolic link, and none is followed there; mount the directory that it leads to in its place", name)
	case !strings.HasPrefix(name, catalogName) && name != ballast.Name && kind != unix.S_IFDIR:
		return driver.Errorf(driver.ErrCorrupt, "%s in the home is no directory; move it away", name)
	case b.foreign || st.Uid == 0 || st.Uid == uint32(os.Geteuid()):
		return nil
	}
	return driver.Errorf(driver.ErrPermission, "%s in the home belongs to %s; to use it all the same, say --foreign-home (Options.ForeignHome)", name, ownerName(st.Uid))
}

// openHomeParts opens the directories of a home, and checks those that are opened later. None of
// them may be a link.
func (b *Backend) openHomeParts() (err error) {
	// The write-ahead log is trusted like the catalog: its pages replace those of the catalog.
	for _, name := range []string{catalogName, catalogName + "-wal", catalogName + "-shm", catalogName + "-journal", "volumes", "locks", "lost+found", "sandboxes", "server", ballast.Name, ballast.InodesName} {
		if err := b.checkHomePart(name); err != nil {
			return err
		}
	}
	if b.volumes, err = beneath.OpenDir(b.dir, "volumes"); errors.Is(err, fs.ErrNotExist) {
		return driver.Errorf(driver.ErrCorrupt,
			"the catalog is there, but the directory %s, which holds the volumes, is missing; bring it back, or mount what has it (an empty one in its place has doctor name the volumes that are lost)", b.homePath("volumes"))
	} else if err != nil {
		return err
	}
	if b.locks, err = beneath.OpenDir(b.dir, "locks"); b.readOnly && errors.Is(err, fs.ErrNotExist) {
		err = nil // as a user of a copy may have it
	}
	b.disks = b.newDisks()
	return err
}

// makeHomeDirs makes the directories of a home. ErrInvalid: the directory holds anything but a
// home, so that a mistyped path does not scatter files.
func (b *Backend) makeHomeDirs() error {
	if b.hasCatalog() {
		if _, err := beneath.Lstat(b.dir, "lost+found"); err == nil {
			return nil
		}
	}
	names, err := beneath.Names(b.dir, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		switch name {
		case "volumes":
			// Volumes without a catalog: a new catalog would lose their names.
			if err := b.refuseOrphanVolumes(); err != nil {
				return err
			}
		case "locks", "lost+found", ballast.Name, ballast.InodesName, "catalog.db", "catalog.db-journal", "catalog.db-wal", "catalog.db-shm", "sandboxes":
		default:
			return driver.Errorf(driver.ErrInvalid,
				"the directory holds %q, which is no part of a home for volumes; name an empty or new directory", name)
		}
	}
	if err := b.dir.Chmod(0o700); err != nil {
		return err
	}
	for _, d := range []string{"volumes", "locks", "locks/" + processDir, "lost+found"} {
		if err := beneath.Mkdir(b.dir, d, 0o700); err != nil {
			return err
		}
	}
	return b.host.syncFile(b.dir)
}

// hasCatalog reports whether the home has a catalog that is not empty.
func (b *Backend) hasCatalog() bool {
	st, err := beneath.Lstat(b.dir, "catalog.db")
	return err == nil && st.Size > 0
}

// refuseOrphanVolumes returns ErrCorrupt for a home that has volumes and no catalog.
func (b *Backend) refuseOrphanVolumes() error {
	list, err := beneath.Names(b.dir, "volumes")
	if err != nil || len(list) == 0 {
		return err
	}
	if b.hasCatalog() {
		return nil // another process has just made it
	}
	return driver.Errorf(driver.ErrCorrupt,
		"%d volumes are there, but the catalog that knows their names is missing or empty; restore catalog.db from a backup, or move %s away",
		len(list), b.homePath("volumes"))
}

// probeWritable writes a temporary file and returns the error: many of SQLite's errors can mean
// a full disk.
func (b *Backend) probeWritable() error {
	name := ".probe-" + rand.Text()
	f, err := beneath.OpenFile(b.dir, name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = beneath.Remove(b.dir, name) }()
	defer f.Close()
	_, err = f.Write(make([]byte, 64<<10)) // more than SQLite needs beside the database
	return err
}

// Directory is the open directory of the home, for package sandbox, which has files of its own
// there. Callers must not close it.
func (b *Backend) Directory() *os.File { return b.dir }

// Foreign reports whether the home may belong to another user.
func (b *Backend) Foreign() bool { return b.foreign }
