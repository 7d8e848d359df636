package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// changeAt runs a change of what is at name.
func (f *fileSystem) changeAt(ctx context.Context, name string, fn func(c *counter, p place) error) error {
	c, err := f.change(ctx)
	if err != nil {
		return err
	}
	defer f.done()
	p, err := f.find(name)
	if err != nil {
		return f.gone(err)
	}
	defer p.close()
	return f.gone(fn(c, p))
}

// Remove implements driver.FS.
func (f *fileSystem) Remove(ctx context.Context, name string) error {
	return f.b.ballast.Freeing(func() error { return f.removeOne(ctx, name) })
}

func (f *fileSystem) removeOne(ctx context.Context, name string) error {
	return f.changeAt(ctx, name, func(c *counter, p place) error {
		err := c.changeNames(ctx, func() error {
			st, err := p.stat()
			if err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return c.losingDirectory(p, &st, func() error { return notEmpty(f.b.host.rmdir(p.dir, p.base)) })
			}
			return c.unlink(ctx)(p.dir, p.base, &st)
		})
		c.moved()
		if err != nil {
			return err
		}
		return f.syncDirs(p)
	})
}

// notEmpty gives "not empty" its one name: POSIX lets it be EEXIST too.
func notEmpty(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return driver.ErrNotEmpty
	}
	return err
}

// RemoveAll implements driver.FS. A directory is moved out of sight first, so that the
// name is gone at once, whatever becomes of this process.
func (f *fileSystem) RemoveAll(ctx context.Context, name string) error {
	err := f.Remove(ctx, name)
	if errors.Is(err, driver.ErrNotEmpty) {
		err = f.b.ballast.Freeing(func() error { return f.removeDirectory(ctx, name) })
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // already, or by another meanwhile
	}
	return err
}

func (f *fileSystem) removeDirectory(ctx context.Context, name string) error {
	return f.changeAt(ctx, name, func(c *counter, p place) error {
		to, err := f.tempName()
		if err != nil {
			return err
		}
		to.base += removedSuffix
		err = c.changeNames(ctx, func() error {
			if err := f.moveOut(p, to); err != nil {
				return err
			}
			c.renamed(p.base, to.base)
			return nil
		})
		c.moved()
		if err != nil {
			return err
		}
		// The move must be durable before anything is deleted. From then on the tree is
		// gone for everyone; its files go one by one, each with its charge.
		err = f.syncDirs(p)
		if err == nil {
			err = f.b.host.removeTree(to.dir, to.base, c.treeRemoval(bg(ctx)))
		}
		if err != nil {
			c.page.store(offStale, 1) // what is swept later is not taken off the charge
			c.messy.Store(true)
		}
		return err
	})
}

// moveOut renames a directory into tmp. A directory that its owner may not write to
// can be moved only once he may: its ".." changes.
func (f *fileSystem) moveOut(p, to place) error {
	rename := func() error {
		return f.b.host.mutate("rename", p.base, func() error { return unix.Renameat(p.fd(), p.base, to.fd(), to.base) })
	}
	err := rename()
	if errors.Is(err, fs.ErrPermission) {
		if err = f.b.host.openUp(p.dir, p.base); err == nil {
			err = rename()
		}
	}
	return err
}

// Rename implements driver.FS.
func (f *fileSystem) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	return f.changeAt(ctx, from, func(c *counter, a place) error {
		b, err := f.find(to)
		if err != nil {
			return err
		}
		defer b.close()
		err = c.changeNames(ctx, func() error { return c.rename(ctx, a, b, opts.NoReplace) })
		c.moved()
		if err != nil {
			return err
		}
		return f.syncDirs(a, b)
	})
}

func (c *counter) rename(ctx context.Context, a, b place, noReplace bool) error {
	src, err := a.stat()
	if err != nil {
		return err
	}
	longer := tally{names: int64(len(b.base) - len(a.base))}
	if noReplace {
		return c.page.charging(longer, func() error {
			return c.b.host.mutate("rename", b.base, func() error { return renameExclusive(a.fd(), a.base, b.fd(), b.base) })
		})
	}
	old, err := b.stat()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rename := func() error {
		return notEmpty(c.b.host.mutate("rename", b.base, func() error { return unix.Renameat(a.fd(), a.base, b.fd(), b.base) }))
	}
	if err != nil {
		return c.page.charging(longer, rename)
	}
	// Two names of one file: rename(2) does nothing at all then.
	if old.Ino == src.Ino && old.Dev == src.Dev {
		return rename()
	}
	return c.losing(ctx, b, &old, func(old *unix.Stat_t) error {
		if err := c.page.charging(longer.minus(c.lostTally(b, b.base, old)), rename); err != nil {
			return err
		}
		c.lostName(old)
		return nil
	})
}

// Link implements driver.FS.
func (f *fileSystem) Link(ctx context.Context, target, name string) error {
	return f.makeNode(ctx, "link", name, 0, func(c *counter, p place) error {
		t, err := f.find(target)
		if err != nil {
			return err
		}
		defer t.close()
		old, err := t.stat()
		if err != nil {
			return err
		}
		if isDevice(&old) && !f.b.devices {
			return errNoDevices()
		}
		// The target may be in a tree that is being deleted: who takes away its
		// names must see this one, or come after it.
		return c.losing(ctx, t, &old, func(*unix.Stat_t) error { return unix.Linkat(t.fd(), t.base, p.fd(), p.base, 0) })
	})
}

// Symlink implements driver.FS.
func (f *fileSystem) Symlink(ctx context.Context, target, name string) error {
	return f.makeNode(ctx, "symlink", name, int64(len(target)), func(_ *counter, p place) error { return unix.Symlinkat(target, p.fd(), p.base) })
}

// Mknod implements driver.FS.
func (f *fileSystem) Mknod(ctx context.Context, name string, mode fs.FileMode, rdev uint64) error {
	m := filemode.Perm(mode)
	switch mode.Type() {
	case fs.ModeNamedPipe:
		m |= unix.S_IFIFO
	case fs.ModeSocket:
		m |= unix.S_IFSOCK
	case fs.ModeDevice:
		m |= unix.S_IFBLK
	case fs.ModeDevice | fs.ModeCharDevice:
		m |= unix.S_IFCHR
	default:
		return driver.Errorf(driver.ErrInvalid, "a node of type %v cannot be made; make a fifo, a socket or a device", mode.Type())
	}
	if mode&fs.ModeDevice != 0 && !f.b.devices {
		return errNoDevices()
	}
	return f.makeNode(ctx, "mknod", name, 0, func(_ *counter, p place) error {
		if err := mknod(p.fd(), p.base, m, rdev); err != nil {
			return err
		}
		return nofollow.Chmod(p.fd(), p.base, m&0o7777)
	})
}

// errNoDevices is the error for a device node that is not to be.
func errNoDevices() error {
	return driver.Errorf(driver.ErrUnsupported, "device nodes are not available here: they need root, Linux and, of a server, vole serve --allow-devices")
}

// refuseDevice refuses to give away or to open up a device node that another has made,
// where none may be made.
func (f *fileSystem) refuseDevice(p place) error {
	if f.b.devices {
		return nil
	}
	st, err := p.stat()
	if err == nil && isDevice(&st) {
		return errNoDevices()
	}
	return nil // what is not there, the operation itself finds out
}

func isDevice(st *unix.Stat_t) bool {
	t := st.Mode & unix.S_IFMT
	return t == unix.S_IFBLK || t == unix.S_IFCHR
}

// makeNode makes a name that charges no bytes of files; target are those of its target.
func (f *fileSystem) makeNode(ctx context.Context, op, name string, target int64, make func(*counter, place) error) error {
	return f.changeAt(ctx, name, func(c *counter, p place) error {
		if name == "." {
			return driver.ErrExists
		}
		err := c.changeNames(ctx, func() error {
			return c.page.charging(entryTally(p.base).plus(tally{names: target}), func() error {
				return f.b.host.mutate(op, p.base, func() error { return make(c, p) })
			})
		})
		if err != nil {
			return err
		}
		return f.syncDirs(p)
	})
}

// Chmod implements driver.FS.
func (f *fileSystem) Chmod(ctx context.Context, name string, mode fs.FileMode) error {
	c, err := f.change(ctx)
	if err != nil {
		return err
	}
	defer f.done()
	err = f.chmod(ctx, c, name, mode)
	if err != nil || f.batch {
		return f.gone(err)
	}
	// What it led to is synced by itself if it can be opened, else with everything.
	n, err := f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return f.gone(f.syncAll())
	}
	defer n.Close()
	if err = f.b.host.syncFile(n); errors.Is(err, unix.EINVAL) {
		err = f.syncAll() // a fifo or device
	}
	return f.gone(err)
}

// chmod changes the mode of what name leads to. No other change of names comes between the
// look at it and that.
func (f *fileSystem) chmod(ctx context.Context, c *counter, name string, mode fs.FileMode) error {
	p, err := f.find(name)
	if err != nil {
		return err
	}
	defer p.close()
	return c.changeNames(ctx, func() error {
		st, err := p.stat()
		switch {
		case err != nil:
			return err
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			return f.chmodTarget(name, mode)
		case isDevice(&st) && !f.b.devices:
			return errNoDevices()
		}
		return f.b.host.mutate("chmod", name, func() error { return nofollow.Chmod(p.fd(), p.base, filemode.Perm(mode)) })
	})
}

// chmodTarget changes the mode of what the link at name leads to.
func (f *fileSystem) chmodTarget(name string, mode fs.FileMode) error {
	if !f.b.devices {
		if info, err := f.root.Stat(name); err == nil && info.Mode()&fs.ModeDevice != 0 {
			return errNoDevices()
		}
	}
	return f.b.host.mutate("chmod", name, func() error { return f.root.Chmod(name, mode) })
}

// changeNode changes an attribute of what is at name, not following a link.
func (f *fileSystem) changeNode(ctx context.Context, op, name string, change func(place) error) error {
	return f.changeAt(ctx, name, func(c *counter, p place) error {
		if err := f.refuseDevice(p); err != nil {
			return err
		}
		err := c.changeNames(ctx, func() error { return f.b.host.mutate(op, p.base, func() error { return change(p) }) })
		if err != nil {
			return err
		}
		return f.syncNode(p)
	})
}

// Chown implements driver.FS.
func (f *fileSystem) Chown(ctx context.Context, name string, uid, gid int) error {
	return f.changeNode(ctx, "chown", name, func(p place) error {
		return unix.Fchownat(p.fd(), p.base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Chtimes implements driver.FS.
func (f *fileSystem) Chtimes(ctx context.Context, name string, atime, mtime time.Time) error {
	ts := []unix.Timespec{timespec(atime), timespec(mtime)}
	return f.changeNode(ctx, "utimes", name, func(p place) error {
		return unix.UtimesNanoAt(p.fd(), p.base, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Truncate implements driver.FS.
func (f *fileSystem) Truncate(ctx context.Context, name string, size int64) error {
	h, err := f.Open(ctx, name, driver.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	err = h.Truncate(ctx, size)
	return errors.Join(err, h.Close())
}
