//go:build unix

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

// changeResolved runs a change of the named file.
func (f *volumeFS) changeResolved(ctx context.Context, name string, fn func(c *counter, p resolved) error) error {
	return f.changeVolume(ctx, func(c *counter) error {
		p, err := f.resolve(name)
		if err != nil {
			return err
		}
		defer p.release()
		return fn(c, p)
	})
}

// Remove implements driver.FS.
func (f *volumeFS) Remove(ctx context.Context, name string) error {
	return f.b.ballast.Freeing(func() error { return f.removeEntry(ctx, name) })
}

// removeEntry removes a file or an empty directory.
func (f *volumeFS) removeEntry(ctx context.Context, name string) error {
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		err := c.withNamesLock(ctx, func() error {
			st, err := p.lstat()
			if err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return c.unchargeDirectory(p, &st, func() error { return translateNotEmpty(f.b.host.rmdir(p.parent, p.name)) })
			}
			return c.unlinkCharged(ctx, p, &st)
		})
		c.invalidateCachedDirs()
		if err != nil {
			return err
		}
		return f.syncParents(p)
	})
}

// translateNotEmpty turns EEXIST of a directory that is not empty into ErrNotEmpty: POSIX allows
// either.
func translateNotEmpty(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return driver.ErrNotEmpty
	}
	return err
}

// RemoveAll implements driver.FS. It first moves a directory to tmp, so the name is free at
// once, even if this process dies.
func (f *volumeFS) RemoveAll(ctx context.Context, name string) error {
	err := f.Remove(ctx, name)
	if errors.Is(err, driver.ErrNotEmpty) {
		err = f.b.ballast.Freeing(func() error { return f.removeDirectory(ctx, name) })
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed before, or just now by another process
	}
	return err
}

// removeDirectory moves a directory to tmp, durably, and then deletes the tree there.
func (f *volumeFS) removeDirectory(ctx context.Context, name string) error {
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		to, err := f.newTempName()
		if err != nil {
			return err
		}
		to.name += removedSuffix
		err = c.withNamesLock(ctx, func() error {
			if err := f.moveToTemp(p, to); err != nil {
				return err
			}
			c.chargeRename(p.name, to.name)
			return nil
		})
		c.invalidateCachedDirs()
		if err != nil {
			return err
		}
		// The move must be durable before anything is deleted: a crash must not leave half
		// of the tree under its name. The files are then deleted and uncharged one by one.
		err = f.syncParents(p)
		if err == nil {
			err = f.b.host.removeTree(to.parent, to.name, c.chargedRemoval(context.WithoutCancel(ctx)))
		}
		if err != nil {
			c.markStale() // recovery deletes the rest and does not uncharge it
			c.hasStrayTemps.Store(true)
		}
		return err
	})
}

// moveToTemp renames a directory into tmp. A directory without write permission for its owner
// gets that first: the rename changes its "..".
func (f *volumeFS) moveToTemp(p, to resolved) error {
	return f.b.host.withOwnerRights(p.parent, p.name, func() error { return f.b.host.rename(p, to, false) })
}

// Rename implements driver.FS.
func (f *volumeFS) Rename(ctx context.Context, from, to string, opts driver.RenameOptions) error {
	return f.changeResolved(ctx, from, func(c *counter, a resolved) error {
		b, err := f.resolve(to)
		if err != nil {
			return err
		}
		defer b.release()
		err = c.withNamesLock(ctx, func() error { return c.renameCharged(ctx, a, b, opts.NoReplace) })
		c.invalidateCachedDirs()
		if err != nil {
			return err
		}
		return f.syncParents(a, b)
	})
}

// renameCharged renames a to b under the names lock and uncharges the file that b replaces.
func (c *counter) renameCharged(ctx context.Context, a, b resolved, noReplace bool) error {
	src, err := a.lstat()
	if err != nil {
		return err
	}
	longer := tally{names: int64(len(b.name) - len(a.name))}
	if noReplace {
		return c.page.withCharge(longer, func() error { return c.b.host.rename(a, b, true) })
	}
	old, err := b.lstat()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rename := func() error { return translateNotEmpty(c.b.host.rename(a, b, false)) }
	if err != nil {
		return c.page.withCharge(longer, rename)
	}
	// Two names of one file: rename(2) does nothing at all then.
	if old.Ino == src.Ino && old.Dev == src.Dev {
		return rename()
	}
	return c.withReplacedFile(ctx, b, &old, func(old *unix.Stat_t) error {
		if err := c.page.withCharge(longer.minus(c.freedTally(b, old)), rename); err != nil {
			return err
		}
		c.unchargeLostName(old)
		return nil
	})
}

// Link implements driver.FS.
func (f *volumeFS) Link(ctx context.Context, target, name string) error {
	return f.makeEntry(ctx, "link", name, 0, func(c *counter, p resolved) error {
		t, err := f.resolve(target)
		if err != nil {
			return err
		}
		defer t.release()
		old, err := t.lstat()
		if err != nil {
			return err
		}
		if isDevice(&old) && !f.b.devices {
			return errNoDevices()
		}
		// The target may be in a tree that is being deleted: the removal must see the new
		// name, or come after it.
		return c.withReplacedFile(ctx, t, &old, func(*unix.Stat_t) error { return unix.Linkat(t.parentFD(), t.name, p.parentFD(), p.name, 0) })
	})
}

// Symlink implements driver.FS.
func (f *volumeFS) Symlink(ctx context.Context, target, name string) error {
	return f.makeEntry(ctx, "symlink", name, int64(len(target)), func(_ *counter, p resolved) error { return unix.Symlinkat(target, p.parentFD(), p.name) })
}

// Mknod implements driver.FS.
func (f *volumeFS) Mknod(ctx context.Context, name string, mode fs.FileMode, rdev uint64) error {
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
	return f.makeEntry(ctx, "mknod", name, 0, func(_ *counter, p resolved) error {
		if err := mknod(p.parentFD(), p.name, m, rdev); err != nil {
			return err
		}
		return nofollow.Chmod(p.parentFD(), p.name, m&0o7777)
	})
}

// errNoDevices returns ErrUnsupported for a device node that may not be made.
func errNoDevices() error {
	return driver.Errorf(driver.ErrUnsupported, "device nodes are not available here: they need root, Linux and, of a server, vole serve --allow-devices")
}

// refuseDevice returns an error for an existing device node where none may be made: its owner
// and mode must not change, which could open it to others.
func (f *volumeFS) refuseDevice(p resolved) error {
	if f.b.devices {
		return nil
	}
	st, err := p.lstat()
	if err == nil && isDevice(&st) {
		return errNoDevices()
	}
	return nil // the operation itself reports a file that does not exist
}

// isDevice reports whether the file is a block or character device.
func isDevice(st *unix.Stat_t) bool {
	t := st.Mode & unix.S_IFMT
	return t == unix.S_IFBLK || t == unix.S_IFCHR
}

// makeEntry makes a name that charges no bytes of files. target is the length of its link
// target.
func (f *volumeFS) makeEntry(ctx context.Context, op, name string, target int64, make func(*counter, resolved) error) error {
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		if name == "." {
			return driver.ErrExists
		}
		err := c.withNamesLock(ctx, func() error {
			return c.page.withCharge(entryTally(p.name).plus(tally{names: target}), func() error {
				return f.b.host.mutate(op, p.name, func() error { return make(c, p) })
			})
		})
		if err != nil {
			return err
		}
		return f.syncParents(p)
	})
}

// Chmod implements driver.FS.
func (f *volumeFS) Chmod(ctx context.Context, name string, mode fs.FileMode) error {
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		err := f.chmodLocked(ctx, c, p, name, mode)
		if err != nil || f.batch {
			return err
		}
		// Sync the file by itself if it can be opened, otherwise the whole file system.
		n, err := f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return f.syncVolume()
		}
		defer n.Close()
		if err = f.b.host.syncFile(n); errors.Is(err, unix.EINVAL) {
			err = f.syncVolume() // a fifo or device
		}
		return err
	})
}

// chmodLocked changes the mode of the file that name, which was resolved to p, leads to, under the names lock: it is the
// file that was checked.
func (f *volumeFS) chmodLocked(ctx context.Context, c *counter, p resolved, name string, mode fs.FileMode) error {
	return c.withNamesLock(ctx, func() error {
		st, err := p.lstat()
		switch {
		case err != nil:
			return err
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			return f.chmodLinkTarget(name, mode)
		case isDevice(&st) && !f.b.devices:
			return errNoDevices()
		}
		return f.b.host.mutate("chmod", name, func() error { return nofollow.Chmod(p.parentFD(), p.name, filemode.Perm(mode)) })
	})
}

// chmodLinkTarget changes the mode of the file that the link at name leads to.
func (f *volumeFS) chmodLinkTarget(name string, mode fs.FileMode) error {
	if !f.b.devices {
		if info, err := f.root.Stat(name); err == nil && info.Mode()&fs.ModeDevice != 0 {
			return errNoDevices()
		}
	}
	return f.b.host.mutate("chmod", name, func() error { return f.root.Chmod(name, mode) })
}

// changeAttribute changes an attribute of the named file, without following a link. charge, if not
// nil, returns under the names lock by how much that changes the charge.
func (f *volumeFS) changeAttribute(ctx context.Context, op, name string, charge func(resolved) tally, change func(resolved) error) error {
	return f.changeResolved(ctx, name, func(c *counter, p resolved) error {
		if err := f.refuseDevice(p); err != nil {
			return err
		}
		mutate := func() error { return f.b.host.mutate(op, p.name, func() error { return change(p) }) }
		err := c.withNamesLock(ctx, func() error {
			if charge == nil {
				return mutate()
			}
			return c.page.withCharge(charge(p), mutate)
		})
		if err != nil {
			return err
		}
		return f.syncResolved(p)
	})
}

// Chown implements driver.FS.
func (f *volumeFS) Chown(ctx context.Context, name string, uid, gid int) error {
	return f.changeAttribute(ctx, "chown", name, nil, func(p resolved) error {
		return unix.Fchownat(p.parentFD(), p.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Chtimes implements driver.FS.
func (f *volumeFS) Chtimes(ctx context.Context, name string, atime, mtime time.Time) error {
	ts := []unix.Timespec{toTimespec(atime), toTimespec(mtime)}
	return f.changeAttribute(ctx, "utimes", name, nil, func(p resolved) error {
		return unix.UtimesNanoAt(p.parentFD(), p.name, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Truncate implements driver.FS.
func (f *volumeFS) Truncate(ctx context.Context, name string, size int64) error {
	h, err := f.Open(ctx, name, driver.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	err = h.Truncate(ctx, size)
	return errors.Join(err, h.Close())
}
