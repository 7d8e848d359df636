//go:build unix

package local

// Trees are removed while other processes may still change them: they have directories open that
// went out of sight. So no entry is trusted to be what a listing, or a stat without a lock, said
// it was; directories are opened without following links, and emptied until rmdir succeeds.

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// unlinkFunc removes the name of anything but a directory; st describes it.
type unlinkFunc func(dir *os.File, name string, st *unix.Stat_t) error

// unlink is an unlinkFunc that charges nothing.
func (h hostFS) unlink(dir *os.File, name string, _ *unix.Stat_t) error {
	return h.mutate("unlink", name, func() error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
}

// removal says how the entries of a tree are removed.
type removal struct {
	unlink  unlinkFunc
	rmdir   func(dir *os.File, name string) error // removes an empty directory
	renamed func(from, to string)                 // a directory got another name; nil: no matter
	pause   func()                                // between two entries; nil: none
}

// plainRemoval is for trees that are not charged.
func (h hostFS) plainRemoval() removal { return removal{unlink: h.unlink, rmdir: h.rmdir} }

// rmdir removes an empty directory.
func (h hostFS) rmdir(dir *os.File, name string) error {
	return h.mutate("rmdir", name, func() error { return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) })
}

// removeTree deletes name beneath dir and everything in it, without following links. It is no
// error if there is nothing of that name.
func (h hostFS) removeTree(dir *os.File, name string, how removal) error {
	st, err := resolved{parent: dir, name: name}.lstat()
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

// remover deletes one directory and everything beneath it.
type remover struct {
	removal
	host  hostFS
	root  *os.File // the directory itself
	moved int      // how many names were given out in it
}

// deepest is how many levels a remover descends before it moves deeper directories up to its
// root: each level takes a descriptor, and the users of a volume decide how many levels there
// are.
const deepest = 100

// removeDirectory deletes a directory. It starts again, up to ten times, when a process that had
// the directory open adds something.
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

// emptyDirectory removes everything in a directory. It reads the directory again until it is
// empty, because removing entries may make readdir skip others.
func (r *remover) emptyDirectory(parent *os.File, name string, depth int) error {
	// The owner may delete entries that the mode keeps them from listing.
	var d *os.File
	err := r.host.withOwnerRights(parent, name, func() (err error) {
		d, err = openDirAt(parent, name)
		return err
	})
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
			err := r.host.withOwnerRights(parent, name, func() error { return r.removeEntry(d, n, depth) })
			// Another process may have replaced the entry: the next read finds it.
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
	st, err := resolved{parent: d, name: name}.lstat()
	if err != nil {
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

// moveToRoot moves a directory to the root of the removal, which is emptied later. If the new
// name belongs to an empty directory, rename replaces that; if it is taken otherwise, the next
// name is tried.
func (r *remover) moveToRoot(d *os.File, name string) error {
	for {
		r.moved++
		to := fmt.Sprintf(".deep-%d", r.moved)
		err := r.host.withOwnerRights(d, name, func() error {
			return r.host.rename(resolved{parent: d, name: name}, resolved{parent: r.root, name: to}, false)
		})
		if err == nil && r.renamed != nil {
			r.renamed(name, to)
		}
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
}
