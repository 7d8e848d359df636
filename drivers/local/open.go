//go:build unix

package local

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/internal/filemode"
	"golang.org/x/sys/unix"
)

// Open implements driver.FS.
func (f *volumeFS) Open(ctx context.Context, name string, opts driver.OpenOptions) (driver.File, error) {
	if err := f.life.Enter(ctx); err != nil {
		return nil, err
	}
	defer f.life.Leave()
	h := &handle{b: f.b, name: path.Base(name), key: inodeKey{volume: f.id}, batch: f.batch, canWrite: opts.Write, appendOnly: opts.Append}
	if opts.Write {
		c, err := f.beginChange(ctx)
		if err != nil {
			return nil, err
		}
		h.counter = c
	}
	var err error
	if h.file, err = f.openOrCreate(ctx, h.counter, name, opts); err != nil {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			return nil, errNotRegular(fs.ModeSocket)
		}
		return nil, f.explainError(err)
	}
	h.fd = int(h.file.Fd())
	if _, err := h.startHandle(ctx, opts); err != nil {
		return nil, err
	}
	return h, nil
}

// OpenEntry implements driver.FS: by one system call, where Open makes several to find the
// directory that the file is in.
func (f *volumeFS) OpenEntry(ctx context.Context, name string) (driver.File, driver.Entry, error) {
	if err := f.life.Enter(ctx); err != nil {
		return nil, driver.Entry{}, err
	}
	defer f.life.Leave()
	fd, err := beneath.OpenFileWithin(f.dataDir, name)
	if err != nil {
		return driver.OpenThenStat(ctx, f, name)
	}
	h := &handle{b: f.b, fd: fd, name: path.Base(name), key: inodeKey{volume: f.id}, batch: f.batch}
	st, err := h.startHandle(ctx, driver.OpenOptions{})
	if err != nil {
		return nil, driver.Entry{}, err
	}
	e := entryOfStat(h.name, &st)
	e.NoXattrs = holdsNoXattrs(fd)
	return h, e, nil
}

// openOrCreate opens or makes a file. O_NONBLOCK keeps the open of a fifo from waiting for its
// other end; startHandle then refuses the fifo.
func (f *volumeFS) openOrCreate(ctx context.Context, c *counter, name string, opts driver.OpenOptions) (*os.File, error) {
	flag := os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if opts.Write {
		flag = os.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY
	}
	if opts.NoFollow && !opts.Create {
		return f.openNoFollow(name, flag)
	}
	if opts.NoFollow {
		flag |= unix.O_NOFOLLOW
		if err := f.refuseSymlink(name); err != nil {
			return nil, err
		}
	}
	if !opts.Exclusive {
		h, err := f.root.OpenFile(name, flag, 0)
		if !opts.Create || !errors.Is(err, fs.ErrNotExist) {
			return h, err
		}
	}
	h, err := f.createLocked(ctx, c, name, flag|os.O_EXCL, 0o600)
	if err == nil {
		return h, f.finishCreate(h, name, opts.Mode)
	}
	if opts.Exclusive || !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Another process has just made it, or it is a dangling link, whose target is made:
	// os.Root keeps that inside.
	return f.createLocked(ctx, c, name, flag, modeOrDefault(opts.Mode))
}

// openNoFollow opens the named file, which may not be a link.
func (f *volumeFS) openNoFollow(name string, flag int) (*os.File, error) {
	p, err := f.resolve(name)
	if err != nil {
		return nil, err
	}
	defer p.release()
	file, err := f.b.host.openResolved("open", p, flag|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		err = cmp.Or(f.refuseSymlink(name), err)
	}
	return file, err
}

// refuseSymlink returns ErrLoop if the name is a symbolic link.
func (f *volumeFS) refuseSymlink(name string) error {
	p, err := f.resolve(name)
	if err != nil {
		return err
	}
	defer p.release()
	if st, err := p.lstat(); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return driver.ErrLoop
	}
	return nil
}

// createLocked makes a file under the names lock, so that its name cannot appear between the
// lookup of another change and that change.
func (f *volumeFS) createLocked(ctx context.Context, c *counter, name string, flag int, mode fs.FileMode) (h *os.File, err error) {
	open := func() error {
		return f.b.host.mutate("create", name, func() error {
			h, err = f.root.OpenFile(name, flag|os.O_CREATE, mode.Perm())
			return err
		})
	}
	err = c.withNamesLock(ctx, func() error {
		if flag&os.O_EXCL != 0 {
			return c.page.withCharge(entryTally(path.Base(name)), open)
		}
		if _, err := f.root.Stat(name); err == nil {
			return open() // it exists by now
		}
		// The target of a dangling link: its name is known only once it is made.
		most := tally{entries: 1, names: driver.MaxElemLen}
		return c.page.withCharge(most, func() error {
			err := open()
			if err == nil {
				c.page.addTally(entryTally(cmp.Or(nameOfOpenFile(h), path.Base(name))).minus(most))
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// finishCreate gives a new file its exact mode and makes its name durable.
func (f *volumeFS) finishCreate(h *os.File, name string, mode fs.FileMode) error {
	err := unix.Fchmod(int(h.Fd()), filemode.Perm(modeOrDefault(mode)))
	if err == nil && !f.batch {
		var p resolved
		if p, err = f.resolve(name); err == nil {
			err = f.syncParents(p)
			p.release()
		}
	}
	if err != nil {
		h.Close()
	}
	return err
}

// modeOrDefault is the mode of a new file, 0644 if none was asked for.
func modeOrDefault(mode fs.FileMode) fs.FileMode {
	if mode == 0 {
		return 0o644
	}
	return mode
}

// startHandle checks that the open file is a regular one, and adds it to those that the backend
// closes. On failure it has closed the descriptor.
func (h *handle) startHandle(ctx context.Context, opts driver.OpenOptions) (st unix.Stat_t, err error) {
	err = translateError(unix.Fstat(h.fd, &st))
	switch kind := st.Mode & unix.S_IFMT; {
	case err != nil:
	case kind == unix.S_IFDIR:
		err = driver.ErrIsDir
	case kind != unix.S_IFREG:
		err = errNotRegular(filemode.Go(uint32(st.Mode)))
	}
	if err != nil {
		h.closeDescriptor()
		return st, err
	}
	h.key.ino = uint64(st.Ino)
	h.b.acquireInode(h.key)
	if h.canWrite {
		h.counter.acquire()
	}
	if err := h.life.Begin(&h.b.open, h); err != nil {
		_ = h.Free(ctx)
		return st, err
	}
	if opts.Truncate {
		if err := h.Truncate(ctx, 0); err != nil {
			h.Close()
			return st, err
		}
	}
	return st, nil
}

// errNotRegular returns ErrUnsupported for a fifo, a socket or a device.
func errNotRegular(mode fs.FileMode) error {
	what := "socket or device"
	if mode&fs.ModeNamedPipe != 0 {
		what = "fifo"
	}
	return driver.Errorf(driver.ErrUnsupported, "only regular files are opened; this is a %s", what)
}
