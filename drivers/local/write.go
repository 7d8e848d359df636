//go:build unix

package local

// A file is written to tmp, synced, and renamed over the old one, whose storage is freed by that:
//
//  1. Checks without locks: does the stream fit the quota, is the target a file?
//  2. The content is written to tmp, in this process's own name there. A crash leaves it to
//     recovery, which deletes it.
//  3. Under the names lock, and the lock of the file that is replaced: the charge is reserved,
//     the file renamed, and the old file uncharged unless it stays open.
//  4. The directory is synced. A file in tmp needs no durable name.

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

// openTempDir returns the volume's tmp directory, which it makes at first use.
func (f *volumeFS) openTempDir() (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tmpDir != nil {
		return f.tmpDir, nil
	}
	err := f.b.host.mutate("mkdir", "tmp", func() error { return unix.Mkdirat(int(f.volumeDir.Fd()), "tmp", 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Not synced: its content is not needed after a crash.
	f.tmpDir, err = openDirAt(f.volumeDir, "tmp")
	return f.tmpDir, err
}

// removedSuffix ends the names in tmp of trees that are being removed: unlike all else
// there, they are charged until their files are gone one by one.
const removedSuffix = "-removed"

// newTempName returns a name in the tmp directory that is free.
func (f *volumeFS) newTempName() (resolved, error) {
	d, err := f.openTempDir()
	if err != nil {
		return resolved{}, err
	}
	proc, err := f.b.processID()
	if err != nil {
		return resolved{}, err
	}
	return resolved{parent: d, name: fmt.Sprintf("%s%p-%d", tempPrefix(proc), f, f.tempCount.Add(1))}, nil
}

// createTemp makes an empty file in the tmp directory.
func (f *volumeFS) createTemp() (resolved, *os.File, error) {
	p, err := f.newTempName()
	if err != nil {
		return resolved{}, nil, err
	}
	tmp, err := f.b.host.openResolved("create", p, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	return p, tmp, err
}

// discardTemp removes a temporary file or tree after a failure. If it cannot be removed it is
// swept later.
func (f *volumeFS) discardTemp(c *counter, p resolved) {
	if f.b.host.removeTree(p.parent, p.name, f.b.host.plainRemoval()) != nil {
		c.hasStrayTemps.Store(true)
	}
}

// WriteFile implements driver.FS.
func (f *volumeFS) WriteFile(ctx context.Context, name string, r io.Reader, opts driver.WriteOptions) (n int64, err error) {
	err = f.changeVolume(ctx, func(c *counter) error {
		if name == "." {
			return driver.ErrIsDir
		}
		write := f.writeThroughTemp
		if f.batch && c.draft.Load() && isSmallWrite(r, opts) {
			write = f.writeDraftFile
		}
		n, err = write(ctx, c, name, r, opts)
		return err
	})
	return n, err
}

// writeThroughTemp writes the content of r to a temporary file and renames it to name: a reader
// sees the old file or the new one, and a crash leaves either. Until the rename nothing is
// charged; checks on the way end a stream early that will not fit, and commitTemp decides, under
// the names lock. Missing parents are made only then, so nothing is left of a stream that fails.
func (f *volumeFS) writeThroughTemp(ctx context.Context, c *counter, name string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	var old *unix.Stat_t
	to, err := f.resolve(name)
	if err == nil {
		defer to.release()
		old, err = statTarget(to, opts.Exclusive)
	}
	orphan := errors.Is(err, fs.ErrNotExist)
	if err != nil && !orphan {
		return 0, err
	}
	credit := bytesFreedBy(old)
	if err := c.admitBytes(opts.Size - credit); err != nil {
		return 0, err
	}
	switch {
	case orphan:
		err = f.admitNewEntries(c, name, tally{})
	case old == nil:
		err = c.page.admitTally(entryTally(to.name))
	default:
		err = nil
	}
	if err != nil {
		return 0, err
	}
	from, tmp, err := f.createTemp()
	if err != nil {
		return 0, err
	}
	defer tmp.Close()
	unnamed := f.unnamedLimiter(c)
	n, err := f.fillTemp(ctx, tmp, r, opts, func(n int64) error { return errors.Join(c.admitBytes(n-credit), unnamed(n)) })
	if err == nil {
		err = f.finishTemp(from, tmp, modeOfReplacement(opts.Mode, old), opts.Meta)
	}
	if err == nil && orphan {
		if to, err = f.resolveMakingParents(ctx, c, name); err == nil {
			defer to.release()
		}
	}
	if err == nil {
		err = f.commitTemp(ctx, c, from, to, tempContent{size: n}, opts.Exclusive)
	}
	if err != nil {
		f.discardTemp(c, from)
		return 0, err
	}
	return n, nil
}

// statTarget returns the file that a write would replace, nil if there is none. It refuses
// early, with the errors of commitTemp, a file that may not be replaced.
func statTarget(to resolved, exclusive bool) (*unix.Stat_t, error) {
	st, err := to.lstat()
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

// bytesFreedBy returns the bytes that are uncharged when the file old is replaced.
func bytesFreedBy(old *unix.Stat_t) int64 {
	if old == nil || old.Mode&unix.S_IFMT != unix.S_IFREG || old.Nlink > 1 {
		return 0
	}
	return old.Size
}

// modeOfReplacement is the mode of a file that replaces old.
func modeOfReplacement(asked fs.FileMode, old *unix.Stat_t) uint32 {
	if asked == 0 && old != nil && old.Mode&unix.S_IFMT == unix.S_IFREG {
		return uint32(old.Mode) & 0o7777
	}
	return filemode.Perm(modeOrDefault(asked))
}

// admitBytes returns ErrQuota early if n more bytes do not fit, so that a stream that is too
// long ends soon. commitTemp makes the charge.
func (c *counter) admitBytes(n int64) error {
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

// kernelCopyStep is how many bytes the kernel copies between two looks at the context and the
// quota.
const kernelCopyStep = 8 << 20

// fillTemp copies r to the file. It calls check before the file grows to n bytes.
func (f *volumeFS) fillTemp(ctx context.Context, tmp *os.File, r io.Reader, opts driver.WriteOptions, check func(n int64) error) (int64, error) {
	if opts.NextData != nil { // of a size that has been checked
		return opts.Size, f.fillTempRanges(ctx, tmp, r, opts, check)
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
		return f.fillTempFromFile(ctx, tmp, r, check)
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

// fillTempRanges writes the data of a sparse file, range by range, and leaves the rest holes.
func (f *volumeFS) fillTempRanges(ctx context.Context, tmp *os.File, r io.Reader, opts driver.WriteOptions, check func(n int64) error) error {
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
				return unexpectedEOF(err)
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

// unexpectedEOF turns io.EOF of a source that ended too early into io.ErrUnexpectedEOF.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fillTempFromFile copies a file through the kernel, where the system can.
func (f *volumeFS) fillTempFromFile(ctx context.Context, tmp, r *os.File, check func(n int64) error) (int64, error) {
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		var n int64
		err := f.b.host.faults.Do("write", tmp.Name(), func() (err error) {
			n, err = tmp.ReadFrom(io.LimitReader(r, kernelCopyStep))
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

// finishTemp gives the temporary file p its metadata, only the mode if m is nil, and makes it
// durable.
func (f *volumeFS) finishTemp(p resolved, tmp *os.File, mode uint32, m *driver.FileMeta) error {
	var err error
	if m == nil {
		err = f.b.host.mutate("chmod", tmp.Name(), func() error { return unix.Fchmod(int(tmp.Fd()), mode) })
	} else {
		err = f.b.host.setMetadata(p, int(tmp.Fd()), m)
	}
	if err != nil || f.batch {
		return err
	}
	return f.b.host.syncFile(tmp)
}

// tempContent is the charge of a file or tree in tmp that is about to be renamed.
type tempContent struct {
	size int64 // bytes of regular files
	held tally // of all but the name
}

// commitTemp charges a temporary file or tree and renames it, replacing an existing file.
func (f *volumeFS) commitTemp(ctx context.Context, c *counter, from, to resolved, m tempContent, exclusive bool) error {
	err := c.withNamesLock(ctx, func() error {
		old, err := statTarget(to, exclusive)
		if err != nil {
			return err
		}
		return c.withReplacedFile(ctx, to, old, func(old *unix.Stat_t) error {
			// The bytes of the old file are free at once, unless it stays open: so a file in
			// a full volume can be replaced by one that is no larger.
			more := max(0, m.size-c.bytesFreedNow(old))
			if err := c.page.reserveBytes(more); err != nil {
				return err
			}
			held := m.held.plus(entryTally(to.name))
			if old != nil {
				held = held.minus(c.freedTally(to, old))
			}
			err := c.page.withCharge(held, func() error { return f.b.host.rename(from, to, exclusive) })
			if err != nil {
				c.page.addBytes(-more)
				return err
			}
			c.page.addBytes(m.size - more)
			if c.unchargeLostName(old); old != nil {
				c.invalidateCachedDirs()
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return f.syncParents(to)
}

// bytesFreedNow returns the bytes that removing the name uncharges at once: none while the file
// is open.
func (c *counter) bytesFreedNow(old *unix.Stat_t) int64 {
	if old == nil || c.isInodeOpen(uint64(old.Ino)) {
		return 0
	}
	return bytesFreedBy(old)
}
