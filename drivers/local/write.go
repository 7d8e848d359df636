package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"golang.org/x/sys/unix"
)

// tempDir is the volume's tmp directory, made at first use.
func (f *fileSystem) tempDir() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tmp != nil {
		return f.tmp, nil
	}
	err := f.b.host.mutate("mkdir", "tmp", func() error { return unix.Mkdirat(int(f.top.Fd()), "tmp", 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Not synced: what is in it matters to nobody after a crash.
	f.tmp, err = openDirAt(f.top, "tmp")
	return f.tmp, err
}

// removedSuffix ends the names in tmp of trees that are being removed: unlike all else
// there, they are charged until their files are gone one by one.
const removedSuffix = "-removed"

// tempName returns a place in the tmp directory that is free.
func (f *fileSystem) tempName() (place, error) {
	d, err := f.tempDir()
	if err != nil {
		return place{}, err
	}
	proc, err := f.b.process()
	if err != nil {
		return place{}, err
	}
	return place{dir: d, base: fmt.Sprintf("%s%p-%d", tempPrefix(proc), f, f.temps.Add(1))}, nil
}

// temp makes an empty file in the tmp directory.
func (f *fileSystem) temp() (place, *os.File, error) {
	p, err := f.tempName()
	if err != nil {
		return place{}, nil, err
	}
	var fd int
	err = f.b.host.mutate("create", p.base, func() (err error) {
		fd, err = unix.Openat(p.fd(), p.base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return place{}, nil, err
	}
	return p, os.NewFile(uintptr(fd), p.base), nil
}

// discard removes a temporary file or tree after a failure. What cannot be removed is
// swept later.
func (f *fileSystem) discard(c *counter, p place) {
	if f.b.host.removeTree(p.dir, p.base, f.b.host.plainRemoval()) != nil {
		c.messy.Store(true)
	}
}

// WriteFile implements driver.FS.
func (f *fileSystem) WriteFile(ctx context.Context, name string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	c, err := f.change(ctx)
	if err != nil {
		return 0, err
	}
	defer f.done()
	if name == "." {
		return 0, driver.ErrIsDir
	}
	write := f.replace
	if f.batch && c.draft.Load() && isSmall(r, opts) {
		write = f.writeDraft
	}
	n, err := write(ctx, c, name, r, opts)
	if err != nil {
		return 0, f.gone(err)
	}
	return n, nil
}

// replace writes what r yields to a temporary file and gives it its name. Missing
// parents are made only then, so that nothing is left of a stream that failed.
func (f *fileSystem) replace(ctx context.Context, c *counter, name string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	var old *unix.Stat_t
	to, err := f.find(name)
	if err == nil {
		defer to.close()
		old, err = checkTarget(to, opts.Exclusive)
	}
	orphan := errors.Is(err, fs.ErrNotExist)
	if err != nil && !orphan {
		return 0, err
	}
	credit := credit(old)
	if err := c.wouldFit(opts.Size - credit); err != nil {
		return 0, err
	}
	switch {
	case orphan:
		err = f.wouldHoldNew(c, name, tally{})
	case old == nil:
		err = c.page.wouldHold(entryTally(to.base))
	default:
		err = nil
	}
	if err != nil {
		return 0, err
	}
	from, tmp, err := f.temp()
	if err != nil {
		return 0, err
	}
	defer tmp.Close()
	unnamed := f.unnamedLimit(c)
	n, err := f.fill(ctx, tmp, r, opts, func(n int64) error { return errors.Join(c.wouldFit(n-credit), unnamed(n)) })
	if err == nil {
		err = f.finish(from, tmp, newMode(opts.Mode, old), opts.Meta)
	}
	if err == nil && orphan {
		if to, err = f.findMaking(ctx, c, name); err == nil {
			defer to.close()
		}
	}
	if err == nil {
		err = f.commit(ctx, c, from, to, made{size: n}, opts.Exclusive)
	}
	if err != nil {
		f.discard(c, from)
		return 0, err
	}
	return n, nil
}

// checkTarget refuses early what commit would refuse, and returns what is there.
func checkTarget(to place, exclusive bool) (*unix.Stat_t, error) {
	st, err := to.stat()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	switch {
	case err != nil:
		return nil, err
	case exclusive:
		return nil, driver.ErrExists
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil, driver.ErrIsDir
	}
	return &st, nil
}

// credit is what replacing a file gives back.
func credit(old *unix.Stat_t) int64 {
	if old == nil || old.Mode&unix.S_IFMT != unix.S_IFREG || old.Nlink > 1 {
		return 0
	}
	return old.Size
}

// newMode is the mode of a file written in place of old.
func newMode(asked fs.FileMode, old *unix.Stat_t) uint32 {
	if asked == 0 && old != nil && old.Mode&unix.S_IFMT == unix.S_IFREG {
		return uint32(old.Mode) & 0o7777
	}
	return filemode.Perm(createMode(asked))
}

// wouldFit is an early guess, so that a stream that is too long ends soon. The charge
// itself is made by commit.
func (c *counter) wouldFit(n int64) error {
	used, quota := c.page.load(offUsed), c.page.load(offQuota)
	if n > 0 && quota != 0 && n > quota-used {
		return driver.Errorf(driver.ErrQuota, "%d more bytes do not fit: %d of the quota of %s are used", n, used, driver.Size(quota))
	}
	return nil
}

// buffers holds the buffers of streams: large enough that the cost of a call does not
// show, small enough for the processor's cache.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

const bufferSize = 256 << 10

// step is how much of a file is copied by the kernel between two looks at the context
// and the quota.
const step = 8 << 20

// fill copies r to the file, asking check before the file would grow to n bytes.
func (f *fileSystem) fill(ctx context.Context, tmp *os.File, r io.Reader, opts driver.WriteOptions, check func(n int64) error) (int64, error) {
	if opts.NextData != nil { // of a size that has been checked
		return opts.Size, f.fillRanges(ctx, tmp, r, opts, check)
	}
	switch r := r.(type) {
	case *bytes.Reader: // in one piece, without a buffer
		if err := check(int64(r.Len())); err != nil {
			return 0, err
		}
		var n int64
		err := f.b.host.faults.Do("write", tmp.Name(), func() (err error) { n, err = r.WriteTo(tmp); return err })
		return n, err
	case *os.File: // by the kernel, where it can
		return f.fillFrom(ctx, tmp, r, check)
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	buf := *p
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, rerr := r.Read(buf)
		if n > 0 {
			if err := check(total + int64(n)); err != nil {
				return total, err
			}
			err := f.b.host.faults.Do("write", tmp.Name(), func() error { _, err := tmp.Write(buf[:n]); return err })
			if err != nil {
				return total, err
			}
			total += int64(n)
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}

// fillRanges writes what a sparse file holds, range by range, and leaves the rest holes.
func (f *fileSystem) fillRanges(ctx context.Context, tmp *os.File, r io.Reader, opts driver.WriteOptions, check func(n int64) error) error {
	err := f.b.host.faults.Do("truncate", tmp.Name(), func() error { return tmp.Truncate(opts.Size) })
	if err != nil {
		return err
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	var total int64
	for {
		off, n, err := opts.NextData(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for end := off + n; off < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			buf := (*p)[:min(end-off, int64(len(*p)))]
			if _, err := io.ReadFull(r, buf); err != nil {
				return cut(err)
			}
			total += int64(len(buf))
			if err := check(total); err != nil {
				return err
			}
			err := f.b.host.faults.Do("write", tmp.Name(), func() error { _, err := tmp.WriteAt(buf, off); return err })
			if err != nil {
				return err
			}
			off += int64(len(buf))
		}
	}
}

// cut is the error for a source that ended, or failed, before its time.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (f *fileSystem) fillFrom(ctx context.Context, tmp, r *os.File, check func(n int64) error) (int64, error) {
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		var n int64
		err := f.b.host.faults.Do("write", tmp.Name(), func() (err error) {
			n, err = tmp.ReadFrom(io.LimitReader(r, step))
			return err
		})
		total += n
		if err != nil {
			return total, err
		}
		if err := check(total); err != nil || n == 0 {
			return total, err
		}
	}
}

// finish gives a temporary file at p its metadata, of which mode is a part if m is nil, and
// makes it durable.
func (f *fileSystem) finish(p place, tmp *os.File, mode uint32, m *driver.FileMeta) error {
	var err error
	if m == nil {
		err = f.b.host.mutate("chmod", tmp.Name(), func() error { return unix.Fchmod(int(tmp.Fd()), mode) })
	} else {
		err = f.b.host.setMeta(p, int(tmp.Fd()), m)
	}
	if err != nil || f.batch {
		return err
	}
	return f.b.host.syncFile(tmp)
}

// setMeta gives metadata to a new file, which is open and which nobody else can replace.
func (h hostFS) setMeta(p place, fd int, m *driver.FileMeta) error {
	if m.UID >= 0 || m.GID >= 0 { // before the mode: a change of owner clears setuid
		if err := h.mutate("chown", p.base, func() error { return unix.Fchown(fd, m.UID, m.GID) }); err != nil {
			return err
		}
	}
	err := h.mutate("chmod", p.base, func() error { return unix.Fchmod(fd, filemode.Perm(m.Mode)) })
	if err != nil || m.Mtime.IsZero() {
		return err
	}
	ts := []unix.Timespec{timespec(m.Mtime), timespec(m.Mtime)}
	return h.mutate("utimes", p.base, func() error { return unix.UtimesNanoAt(p.fd(), p.base, ts, unix.AT_SYMLINK_NOFOLLOW) })
}

// made is what is in tmp and is about to get its name.
type made struct {
	size int64 // bytes of regular files
	held tally // of all but the name
}

// commit charges what was made and gives a temporary file or tree its name, replacing a
// file that is there.
func (f *fileSystem) commit(ctx context.Context, c *counter, from, to place, m made, exclusive bool) error {
	err := c.changeNames(ctx, func() error {
		old, err := checkTarget(to, exclusive)
		if err != nil {
			return err
		}
		return c.losing(ctx, to, old, func(old *unix.Stat_t) error {
			// What the old file gives back counts at once, unless it stays open: so a
			// full volume can have a file replaced by one that is no larger.
			more := max(0, m.size-c.creditOf(old))
			if err := c.page.reserve(more); err != nil {
				return err
			}
			held := m.held.plus(entryTally(to.base))
			if old != nil {
				held = held.minus(c.lostTally(to, to.base, old))
			}
			err := c.page.charging(held, func() error { return f.renameTemp(from, to, exclusive) })
			if err != nil {
				c.page.add(-more)
				return err
			}
			c.page.add(m.size - more)
			if c.lostName(old); old != nil {
				c.moved()
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return f.syncDirs(to)
}

// creditOf is what losing this name gives back at once.
func (c *counter) creditOf(old *unix.Stat_t) int64 {
	if old == nil || c.isOpen(uint64(old.Ino)) {
		return 0
	}
	return credit(old)
}

func (f *fileSystem) renameTemp(from, to place, exclusive bool) error {
	return f.b.host.mutate("rename", to.base, func() error {
		if exclusive {
			return renameExclusive(from.fd(), from.base, to.fd(), to.base)
		}
		return unix.Renameat(from.fd(), from.base, to.fd(), to.base)
	})
}
