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
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// Mkdir implements driver.FS.
func (f *fileSystem) Mkdir(ctx context.Context, name string, mode fs.FileMode) error {
	c, err := f.change(ctx)
	if err != nil {
		return err
	}
	defer f.done()
	if name == "." {
		return driver.ErrExists
	}
	return f.gone(f.mkdir(ctx, c, name, mode))
}

// MkdirAll implements driver.FS.
func (f *fileSystem) MkdirAll(ctx context.Context, name string, mode fs.FileMode) error {
	c, err := f.change(ctx)
	if err != nil {
		return err
	}
	defer f.done()
	if err := f.wouldHoldNew(c, name, tally{}); err != nil {
		return err
	}
	return f.gone(f.mkdirAll(ctx, c, name, mode))
}

// wouldHoldNew is an early guess at whether name, with its missing parents and what else
// it is charged, has room, so that no part of it is made in vain.
func (f *fileSystem) wouldHoldNew(c *counter, name string, more tally) error {
	for elem := range strings.SplitSeq(name[f.existing(name, f.root.Lstat):], "/") {
		if elem != "" && elem != "." {
			more = more.plus(entryTally(elem))
		}
	}
	return c.page.wouldHold(more)
}

// existing returns the length of the longest part of a path, from its beginning, that
// look finds; 0: not even the first element. It does not look at each, since every look
// goes the whole way: a path may have two thousand elements.
func (f *fileSystem) existing(name string, look func(string) (fs.FileInfo, error)) int {
	found := func(part string) bool {
		_, err := look(part)
		return !errors.Is(err, fs.ErrNotExist)
	}
	if found(name) {
		return len(name)
	}
	// The parent mostly is there.
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

func (f *fileSystem) mkdirAll(ctx context.Context, c *counter, name string, mode fs.FileMode) error {
	info, err := f.root.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return driver.ErrNotDir
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case name == ".":
		return volumeGone()
	}
	done := f.existing(name, f.root.Stat)
	if done == len(name) {
		return f.mkdirAll(ctx, c, name, mode) // something has come up there meanwhile
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(name[done:], "/"), "/")
	p, err := f.find(path.Join(name[:done], first))
	if err != nil {
		return err
	}
	// Each is made durable by itself, or many with everything.
	together := strings.Count(name[done:], "/") > syncedOneByOne
	if err = f.mkdirChain(ctx, c, p, name, done, mode, f.batch || together); err != nil || f.batch || !together {
		return err
	}
	return f.syncAll()
}

// syncedOneByOne is how many new directories are synced one by one.
const syncedOneByOne = 16

// mkdirChain makes the directories of name behind its first done bytes, of which the first
// is at p: each in the one before, which is open.
func (f *fileSystem) mkdirChain(ctx context.Context, c *counter, p place, name string, done int, mode fs.FileMode, unsynced bool) error {
	for {
		done = len(name) - len(strings.TrimPrefix(name[done:], "/")) + len(p.base)
		err := f.mkdirOrFind(ctx, c, p, name[:done], mode, unsynced)
		var next *os.File
		if err == nil && done < len(name) {
			next, err = f.openMade(p, name[:done])
		}
		p.close()
		if next == nil {
			return err
		}
		elem, _, _ := strings.Cut(name[done+1:], "/")
		p = place{dir: next, base: elem, own: true}
	}
}

// mkdirOrFind makes a directory, and is content with one that another has made meanwhile.
func (f *fileSystem) mkdirOrFind(ctx context.Context, c *counter, p place, name string, mode fs.FileMode, unsynced bool) error {
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

// openMade opens a directory that was just made or found. A link that leads to one is
// followed as elsewhere.
func (f *fileSystem) openMade(p place, name string) (*os.File, error) {
	if d, err := openDirAt(p.dir, p.base); err == nil {
		return d, nil
	}
	return f.root.OpenFile(name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func (f *fileSystem) mkdir(ctx context.Context, c *counter, name string, mode fs.FileMode) error {
	p, err := f.find(name)
	if err != nil {
		return err
	}
	defer p.close()
	return f.mkdirAt(ctx, c, p, mode, f.batch)
}

func (f *fileSystem) mkdirAt(ctx context.Context, c *counter, p place, mode fs.FileMode, unsynced bool) error {
	want := filemode.Perm(mode)
	err := c.changeNames(ctx, func() error {
		return c.page.charging(entryTally(p.base), func() error {
			return f.b.host.mutate("mkdir", p.base, func() error { return unix.Mkdirat(p.fd(), p.base, want) })
		})
	})
	if err != nil {
		return err
	}
	changed, err := f.b.host.exactMode(p, want)
	if err != nil || unsynced {
		return err
	}
	if changed {
		if err := f.syncNode(p); err != nil {
			return err
		}
	}
	return f.syncDirs(p)
}

// exactMode undoes what the umask took from the mode of something new.
func (h hostFS) exactMode(p place, want uint32) (changed bool, err error) {
	st, err := p.stat()
	if err != nil || uint32(st.Mode)&0o7777 == want {
		return false, err
	}
	return true, h.mutate("chmod", p.base, func() error { return nofollow.Chmod(p.fd(), p.base, want) })
}
