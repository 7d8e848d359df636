package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/durable"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// at runs a system call that changes a directory entry, under the eyes of fault.
// Interrupted calls are made again.
func at(op, name string, call func() error) error {
	return fault.Do(op, name, func() error {
		for {
			err := call()
			if !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

// openDirAt opens a directory beneath dir without following a link on the way.
func openDirAt(dir *os.File, name string) (*os.File, error) { return beneath.OpenDir(dir, name) }

// makeVolumeDir makes volumes/<id>, durably.
func (b *Backend) makeVolumeDir(id string) error {
	err := at("mkdir", id, func() error { return unix.Mkdirat(int(b.volumes.Fd()), id, 0o700) })
	if err != nil {
		return err
	}
	return b.syncVolumes()
}

// ensureData makes volumes/<id>/data, durably, unless the catalog says that it was
// made. Who calls it says so in the catalog next. It is not made with the volume,
// because most of what creating a volume costs is making directories. ErrNotFound.
func (b *Backend) ensureData(ctx context.Context, id string) error {
	r, err := b.get(ctx, driver.ByID(id))
	if err != nil || r.made {
		return err
	}
	err = b.makeData(id)
	if errors.Is(err, fs.ErrNotExist) {
		return b.whyMissing(ctx, id)
	}
	return sysErr(err)
}

// makeData makes volumes/<id>/data, durably, unless it is there.
func (b *Backend) makeData(id string) error {
	dir, err := openDirAt(b.volumes, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = at("mkdir", id+"/data", func() error { return unix.Mkdirat(int(dir.Fd()), "data", 0o755) })
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = finishData(dir)
	}
	return err
}

// whyMissing is the error for a volume whose directory is not there: ErrNotFound when
// it was removed meanwhile, otherwise ErrCorrupt.
func (b *Backend) whyMissing(ctx context.Context, id string) error {
	if _, err := b.get(ctx, driver.ByID(id)); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrCorrupt, "the volume's directory is missing; run a check of the home")
}

// finishData gives the root of a volume, whose directory is open, its mode and makes it
// durable. The root is what others see of a volume, so its mode is not left to the umask;
// what is above it stays private.
func finishData(dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), "data", &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&0o7777 != 0o755 {
		if err := at("chmod", "data", func() error { return nofollow.Chmod(int(dir.Fd()), "data", 0o755) }); err != nil {
			return err
		}
	}
	return durable.Sync(dir)
}

// removeVolumeDir deletes a volume's directory and lock file, durably. It tries
// again when a writer that has not yet seen the removal adds something.
func (b *Backend) removeVolumeDir(id string) error {
	top := int(b.volumes.Fd())
	var err error
	for range 10 {
		// Most volumes that are removed in a hurry are empty.
		err = at("rmdir", id, func() error {
			if err := unix.Unlinkat(top, id, unix.AT_REMOVEDIR); err == nil || errors.Is(err, unix.ENOENT) {
				return err
			}
			b.removeEmptyData(id)
			return unix.Unlinkat(top, id, unix.AT_REMOVEDIR)
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			break
		}
		if err = removeTree(b.volumes, id, plainRemoval); err == nil {
			break
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return err
	}
	if err := b.syncVolumes(); err != nil {
		return err
	}
	return b.removeLock(id)
}

// removeEmptyData removes the root of a volume that holds nothing.
func (b *Backend) removeEmptyData(id string) {
	dir, err := openDirAt(b.volumes, id)
	if err != nil {
		return // the long way finds out why
	}
	defer dir.Close()
	_ = unix.Unlinkat(int(dir.Fd()), "data", unix.AT_REMOVEDIR)
}

// removeLock removes a file of locks/, if it is there.
func (b *Backend) removeLock(name string) error {
	err := beneath.Remove(b.locks, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// unlinkFunc takes away the name of anything but a directory; st is what it is.
type unlinkFunc func(dir *os.File, name string, st *unix.Stat_t) error

func unlink(dir *os.File, name string, _ *unix.Stat_t) error {
	return at("unlink", name, func() error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
}

// removal is how trees are removed.
type removal struct {
	unlink  unlinkFunc
	rmdir   func(dir *os.File, name string) error // removes an empty directory
	renamed func(from, to string)                 // a directory got another name; nil: no matter
	pause   func()                                // between two entries; nil: none
}

// plainRemoval is for what nothing is charged for.
var plainRemoval = removal{unlink: unlink, rmdir: rmdir}

func rmdir(dir *os.File, name string) error {
	return at("rmdir", name, func() error { return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) })
}

// removeTree deletes name beneath dir and all it holds, following no link. Nothing there
// is not an error.
func removeTree(dir *os.File, name string, how removal) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = how.unlink(dir, name, &st)
	default:
		r := remover{removal: how}
		err = r.removeDir(dir, name, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// remover deletes one directory and all beneath it.
type remover struct {
	removal
	root  *os.File // the directory itself
	moved int      // how many names were given out in it
}

// deepest is how many levels a remover goes down before it moves what is deeper up to
// its root: each level takes a descriptor, and whoever fills a volume decides how many
// there are.
const deepest = 100

// removeDir deletes a directory. It begins anew a few times when one who had it open
// before it went out of sight adds something.
func (r *remover) removeDir(dir *os.File, name string, depth int) error {
	var err error
	for range 10 {
		if err = r.emptyDir(dir, name, depth); err != nil {
			return err
		}
		err = r.rmdir(dir, name)
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return err
}

// emptyDir removes what a directory holds. It reads anew until nothing is left,
// because removing entries may make a directory skip others.
func (r *remover) emptyDir(parent *os.File, name string, depth int) error {
	d, err := openDirAt(parent, name)
	if errors.Is(err, fs.ErrPermission) {
		// An owner may delete what a mode keeps him from listing.
		if err := openUp(parent, name); err != nil {
			return err
		}
		d, err = openDirAt(parent, name)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if depth == 0 {
		r.root = d
	}
	for {
		names, err := d.Readdirnames(1024)
		if len(names) == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		for _, n := range names {
			err := r.entry(d, n, depth)
			if errors.Is(err, fs.ErrPermission) {
				if err = openUp(parent, name); err == nil {
					err = r.entry(d, n, depth)
				}
			}
			// Another may have put something else there since it was looked at: then it
			// is found by the next look.
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				return err
			}
		}
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// entry removes one entry of a directory at some depth.
func (r *remover) entry(d *os.File, name string, depth int) error {
	if r.pause != nil {
		r.pause()
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return r.unlink(d, name, &st)
	case depth >= deepest:
		return r.moveUp(d, name)
	}
	return r.removeDir(d, name, depth+1)
}

// moveUp moves a directory to the root, which will come to it. Should its new name be
// taken by an empty directory, that is gone; otherwise the next is tried.
func (r *remover) moveUp(d *os.File, name string) error {
	for {
		r.moved++
		to := fmt.Sprintf(".deep-%d", r.moved)
		err := at("rename", name, func() error { return unix.Renameat(int(d.Fd()), name, int(r.root.Fd()), to) })
		if errors.Is(err, fs.ErrPermission) {
			if err = openUp(d, name); err == nil {
				err = at("rename", name, func() error { return unix.Renameat(int(d.Fd()), name, int(r.root.Fd()), to) })
			}
		}
		if err == nil && r.renamed != nil {
			r.renamed(name, to)
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
}

// openUp gives the owner all rights to a directory, and does not follow a link.
func openUp(parent *os.File, name string) error {
	return at("chmod", name, func() error { return nofollow.Chmod(int(parent.Fd()), name, 0o700) })
}

// tempPrefix begins the names of a process's files in a volume's tmp directory.
func tempPrefix(process string) string { return process + "-" }

// tempProcess is the process that a name in a tmp directory begins with.
func tempProcess(name string) string { return name[:min(36, len(name))] } // the length of a UUID

// removeTemps deletes what a dead process was writing to a volume.
func (b *Backend) removeTemps(id, process string) error {
	d, err := openDirAt(b.volumes, id+"/tmp")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tempPrefix(process)) {
			if err := removeTree(d, n, plainRemoval); err != nil {
				return err
			}
		}
	}
	return nil
}

// volumeGone reports that a volume's root is not there any more.
func volumeGone() error { return driver.Errorf(driver.ErrNotFound, "the volume has been removed") }
