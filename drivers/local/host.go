//go:build unix

package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// hostFS makes the system calls that change files and directories of the host. Tests
// inject faults into each of them; a nil injector, as outside tests, has none.
type hostFS struct{ faults *fault.Injector }

// mutate makes a system call that changes a directory entry or the metadata of an inode,
// and makes it again when a signal interrupted it.
func (h hostFS) mutate(op, name string, call func() error) error {
	return h.faults.Do(op, name, func() error {
		for {
			err := call()
			if !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

// syncFile makes an open file, or the entries of an open directory, durable.
func (h hostFS) syncFile(f *os.File) error { return h.faults.Do("fsync", f.Name(), f.Sync) }

// unlinkFunc takes away the name of anything but a directory; st is what it is.
type unlinkFunc func(dir *os.File, name string, st *unix.Stat_t) error

func (h hostFS) unlink(dir *os.File, name string, _ *unix.Stat_t) error {
	return h.mutate("unlink", name, func() error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
}

// removal is how trees are removed.
type removal struct {
	unlink  unlinkFunc
	rmdir   func(dir *os.File, name string) error // removes an empty directory
	renamed func(from, to string)                 // a directory got another name; nil: no matter
	pause   func()                                // between two entries; nil: none
}

// plainRemoval is for what nothing is charged for.
func (h hostFS) plainRemoval() removal { return removal{unlink: h.unlink, rmdir: h.rmdir} }

func (h hostFS) rmdir(dir *os.File, name string) error {
	return h.mutate("rmdir", name, func() error { return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) })
}

// removeTree deletes name beneath dir and all it holds, following no link. Nothing there
// is not an error.
func (h hostFS) removeTree(dir *os.File, name string, how removal) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = how.unlink(dir, name, &st)
	default:
		r := remover{removal: how, host: h}
		err = r.removeDirectory(dir, name, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// remover deletes one directory and all beneath it.
type remover struct {
	removal
	host  hostFS
	root  *os.File // the directory itself
	moved int      // how many names were given out in it
}

// deepest is how many levels a remover goes down before it moves what is deeper up to
// its root: each level takes a descriptor, and whoever fills a volume decides how many
// there are.
const deepest = 100

// removeDirectory deletes a directory. It begins anew a few times when one who had it open
// before it went out of sight adds something.
func (r *remover) removeDirectory(dir *os.File, name string, depth int) error {
	var err error
	for range 10 {
		if err = r.emptyDirectory(dir, name, depth); err != nil {
			return err
		}
		err = r.rmdir(dir, name)
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return err
}

// emptyDirectory removes what a directory holds. It reads anew until nothing is left,
// because removing entries may make a directory skip others.
func (r *remover) emptyDirectory(parent *os.File, name string, depth int) error {
	d, err := openDirAt(parent, name)
	if errors.Is(err, fs.ErrPermission) {
		// An owner may delete what a mode keeps him from listing.
		if err := r.host.grantOwnerRights(parent, name); err != nil {
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
			err := r.removeEntry(d, n, depth)
			if errors.Is(err, fs.ErrPermission) {
				if err = r.host.grantOwnerRights(parent, name); err == nil {
					err = r.removeEntry(d, n, depth)
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

// removeEntry removes one entry of a directory at some depth.
func (r *remover) removeEntry(d *os.File, name string, depth int) error {
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
		return r.moveToRoot(d, name)
	}
	return r.removeDirectory(d, name, depth+1)
}

// moveToRoot moves a directory to the root, which will come to it. Should its new name be
// taken by an empty directory, that is gone; otherwise the next is tried.
func (r *remover) moveToRoot(d *os.File, name string) error {
	for {
		r.moved++
		to := fmt.Sprintf(".deep-%d", r.moved)
		err := r.host.mutate("rename", name, func() error { return unix.Renameat(int(d.Fd()), name, int(r.root.Fd()), to) })
		if errors.Is(err, fs.ErrPermission) {
			if err = r.host.grantOwnerRights(d, name); err == nil {
				err = r.host.mutate("rename", name, func() error { return unix.Renameat(int(d.Fd()), name, int(r.root.Fd()), to) })
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

// grantOwnerRights gives the owner all rights to a directory, and does not follow a link.
func (h hostFS) grantOwnerRights(parent *os.File, name string) error {
	return h.mutate("chmod", name, func() error { return nofollow.Chmod(int(parent.Fd()), name, 0o700) })
}
