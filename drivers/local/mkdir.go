//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"golang.org/x/sys/unix"
)

// Mkdir implements driver.FS.
func (f *volumeFS) Mkdir(ctx context.Context, name string, mode fs.FileMode) error {
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		if name == "." {
			return driver.ErrExists
		}
		return f.mkdirAt(ctx, c, p, mode, f.batch)
	})
}

// MkdirAll implements driver.FS.
func (f *volumeFS) MkdirAll(ctx context.Context, name string, mode fs.FileMode) error {
	return f.changeVolume(ctx, func(c *counter) error {
		if err := f.admitNewEntries(c, name, tally{}); err != nil {
			return err
		}
		return f.mkdirAll(ctx, c, name, mode)
	})
}

// admitNewEntries returns ErrQuota early if there is no room for name, its missing parents and
// more, so that none of them is made in vain. The charge itself is made later.
func (f *volumeFS) admitNewEntries(c *counter, name string, more tally) error {
	for elem := range strings.SplitSeq(name[f.existingPrefix(name, f.root.Lstat):], "/") {
		if elem != "" && elem != "." {
			more = more.plus(entryTally(elem))
		}
	}
	return c.page.admitTally(more)
}

// existingPrefix returns the length of the longest prefix of a path that look finds; 0: not even
// the first element. It searches by bisection, since each look resolves the whole prefix and a
// path may have two thousand elements.
func (f *volumeFS) existingPrefix(name string, look func(string) (fs.FileInfo, error)) int {
	found := func(part string) bool {
		_, err := look(part)
		return !errors.Is(err, fs.ErrNotExist)
	}
	if found(name) {
		return len(name)
	}
	// The parent exists mostly.
	if parent := path.Dir(name); parent == "." {
		return 0
	} else if found(parent) {
		return len(parent)
	}
	var ends []int // of the parts, the shortest first
	for i := range len(name) {
		if name[i] == '/' {
			ends = append(ends, i)
		}
	}
	n := sort.Search(len(ends), func(i int) bool { return !found(name[:ends[i]]) })
	if n == 0 {
		return 0
	}
	return ends[n-1]
}

// mkdirAll makes a directory and its missing parents. It is no error if the directory exists.
func (f *volumeFS) mkdirAll(ctx context.Context, c *counter, name string, mode fs.FileMode) error {
	info, err := f.root.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return driver.ErrNotDir
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case name == ".":
		return errVolumeRemoved()
	}
	done := f.existingPrefix(name, f.root.Stat)
	if done == len(name) {
		return f.mkdirAll(ctx, c, name, mode) // another process has made it since the Stat above
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(name[done:], "/"), "/")
	p, err := f.resolve(path.Join(name[:done], first))
	if err != nil {
		return err
	}
	// Each is made durable by itself, or many with everything.
	together := strings.Count(name[done:], "/") > syncedOneByOne
	if err = f.mkdirChain(ctx, c, p, name, done, mode, f.batch || together); err != nil || f.batch || !together {
		return err
	}
	return f.syncVolume()
}

// syncedOneByOne is how many new directories are synced each by itself; for more, one sync of
// the file system is cheaper.
const syncedOneByOne = 16

// mkdirChain makes the directories of name behind its first done bytes, each in the previous
// one, which is open. p is the first of them.
func (f *volumeFS) mkdirChain(ctx context.Context, c *counter, p resolved, name string, done int, mode fs.FileMode, unsynced bool) error {
	for {
		done = len(name) - len(strings.TrimPrefix(name[done:], "/")) + len(p.name)
		err := f.mkdirUnlessExists(ctx, c, p, name[:done], mode, unsynced)
		var next *os.File
		if err == nil && done < len(name) {
			next, err = f.openMadeDirectory(p, name[:done])
		}
		p.release()
		if next == nil {
			return err
		}
		elem, _, _ := strings.Cut(name[done+1:], "/")
		p = resolved{parent: next, name: elem, ownsParent: true}
	}
}

// mkdirUnlessExists makes a directory. It is no error if another process has just made it.
func (f *volumeFS) mkdirUnlessExists(ctx context.Context, c *counter, p resolved, name string, mode fs.FileMode, unsynced bool) error {
	err := f.mkdirAt(ctx, c, p, mode, unsynced)
	if errors.Is(err, fs.ErrExist) {
		// Or a dangling link is in the way.
		info, serr := f.root.Stat(name)
		switch {
		case serr == nil && info.IsDir():
			return nil
		case errors.Is(serr, fs.ErrNotExist):
			return serr
		}
	}
	return err
}

// openMadeDirectory opens a directory that was just made or found. It follows a link that leads
// to one, as everywhere.
func (f *volumeFS) openMadeDirectory(p resolved, name string) (*os.File, error) {
	if d, err := openDirAt(p.parent, p.name); err == nil {
		return d, nil
	}
	return f.root.OpenFile(name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// mkdirAt makes the directory p, charges it, and makes it durable unless unsynced is set.
func (f *volumeFS) mkdirAt(ctx context.Context, c *counter, p resolved, mode fs.FileMode, unsynced bool) error {
	want := filemode.Perm(mode)
	err := c.withNamesLock(ctx, func() error {
		return c.page.withCharge(entryTally(p.name), func() error {
			return f.b.host.mutate("mkdir", p.name, func() error { return unix.Mkdirat(p.parentFD(), p.name, want) })
		})
	})
	if err != nil {
		return err
	}
	changed, err := f.b.host.undoUmask(p, want)
	if err != nil || unsynced {
		return err
	}
	if changed {
		if err := f.syncResolved(p); err != nil {
			return err
		}
	}
	return f.syncParents(p)
}
