package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
	"github.com/volehq/vole/internal/nofollow"
	"golang.org/x/sys/unix"
)

// Copy implements driver.FS. What is copied is built in tmp and then given its name,
// so that it appears whole or not at all.
func (f *fileSystem) Copy(ctx context.Context, from, to string, opts driver.CopyOptions) error {
	c, err := f.change(ctx)
	if err != nil {
		return err
	}
	defer f.done()
	src, err := f.find(from)
	if err != nil {
		return f.gone(err)
	}
	defer src.close()
	st, err := src.stat()
	if err != nil {
		return f.gone(err)
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if dir {
		// By inodes: a link in the path of the target may lead out of the directory.
		if from == "." || to == from || f.inside(to, st.Ino) {
			return driver.Errorf(driver.ErrInvalid, "a directory cannot be copied into itself")
		}
	}
	if !dir && !opts.NoReplace && f.leadsTo(from, src, to) {
		return nil // onto itself, by whatever name
	}
	return f.gone(f.copyTo(ctx, c, src, to, dir || opts.NoReplace))
}

// leadsTo reports whether what is at src, or what it is a link to, is the file at to.
func (f *fileSystem) leadsTo(from string, src place, to string) bool {
	dst, err := f.find(to)
	if err != nil {
		return false
	}
	defer dst.close()
	there, err := dst.stat()
	if err != nil {
		return false
	}
	is := func(st *unix.Stat_t) bool { return st.Ino == there.Ino && st.Dev == there.Dev }
	if st, err := src.stat(); err == nil && is(&st) {
		return true
	}
	info, err := f.root.Stat(from)
	return err == nil && is(unixStat(info.Sys().(*syscall.Stat_t)))
}

// copyTo copies to a name, whose missing parents are made when the copy is complete.
func (f *fileSystem) copyTo(ctx context.Context, c *counter, src place, to string, exclusive bool) error {
	var old *unix.Stat_t
	dst, err := f.find(to)
	if err == nil {
		defer dst.close()
		old, err = checkTarget(dst, exclusive)
	}
	orphan := errors.Is(err, fs.ErrNotExist)
	if err != nil && !orphan {
		return err
	}
	tmp, err := f.tempName()
	if err != nil {
		return err
	}
	credit, unnamed := credit(old), f.unnamedLimit(c)
	var lost tally
	if old != nil {
		lost = c.lostTally(dst, dst.base, old)
	} else if err := f.wouldHoldNew(c, to, tally{}); err != nil {
		return err
	}
	cp := copier{ctx: ctx, check: func(n int64) error { return errors.Join(c.wouldFit(n-credit), unnamed(n)) }, hold: func(t tally) error { return c.page.wouldHold(t.plus(entryTally(path.Base(to))).minus(lost)) }, noDevices: !f.b.devices, top: tmp.fd(), links: map[uint64]string{}}
	if cp.into, err = f.nearest(to); err == nil {
		err = cp.copy(src, tmp, tmp.base)
	}
	if err == nil && !f.batch {
		err = cp.sync(f, tmp)
	}
	if err == nil && orphan {
		if dst, err = f.findMaking(ctx, c, to); err == nil {
			defer dst.close()
		}
	}
	if err == nil {
		err = f.commit(ctx, c, tmp, dst, made{cp.bytes, cp.held}, exclusive)
	}
	if err != nil {
		f.discard(c, tmp)
	}
	return err
}

// inside reports whether what would get that name is in the directory with that inode,
// or beneath. It is for an early word: copyDir looks, too.
func (f *fileSystem) inside(name string, dir uint64) bool {
	at, err := f.root.Open(path.Dir(name))
	for errors.Is(err, fs.ErrNotExist) && name != "." {
		name = path.Dir(name)
		at, err = f.root.Open(path.Dir(name))
	}
	if err != nil {
		return false
	}
	root, err := f.root.Stat(".")
	if err != nil {
		at.Close()
		return false
	}
	return isBeneath(at, root, dir)
}

// isBeneath reports whether at, which it closes, is the directory with that inode, or
// leads up to it before it leads to root.
func isBeneath(at *os.File, root fs.FileInfo, dir uint64) bool {
	var below fs.FileInfo
	for {
		info, err := at.Stat()
		found := err == nil && unixStat(info.Sys().(*syscall.Stat_t)).Ino == dir
		// A directory that is moved out of the tree meanwhile, to be removed, leads up to the
		// root of the host, which is its own parent.
		if err != nil || found || os.SameFile(info, root) || below != nil && os.SameFile(info, below) {
			at.Close()
			return found
		}
		below = info
		up, err := unix.Openat(int(at.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		at.Close()
		if err != nil {
			return false
		}
		at = os.NewFile(uintptr(up), "..")
	}
}

// nearest is the inode of the directory that name is in, or of the nearest above it
// that is there.
func (f *fileSystem) nearest(name string) (uint64, error) {
	for {
		name = path.Dir(name)
		info, err := f.root.Stat(name)
		if err == nil {
			return unixStat(info.Sys().(*syscall.Stat_t)).Ino, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || name == "." {
			return 0, err
		}
	}
}

// copier copies one file or tree.
type copier struct {
	ctx       context.Context
	check     func(n int64) error // may the copy have n bytes?
	into      uint64              // inode of the directory that must not be inside the tree
	hold      func(tally) error   // may the copy hold that beside?
	held      tally               // what the copy is charged but for its name
	bytes     int64               // sizes of the regular files made
	nodes     int                 // how many names were made
	noDevices bool                // device nodes are refused
	top       int                 // descriptor of tmp, where nobody else makes links
	links     map[uint64]string   // beneath top: copies of files with several names
}

// sync makes the copy durable: one file by itself, a tree with everything.
func (cp *copier) sync(f *fileSystem, tmp place) error {
	if cp.nodes > 1 {
		return f.syncAll()
	}
	return f.syncNode(tmp)
}

func (cp *copier) copy(src, dst place, rel string) error {
	if err := cp.ctx.Err(); err != nil {
		return err
	}
	st, err := src.stat()
	if err != nil {
		return err
	}
	cp.nodes++
	if cp.nodes > 1 { // the first gets its name at the end
		cp.held = cp.held.plus(entryTally(dst.base))
	}
	cp.held = cp.held.plus(linkTally(&st))
	if err := cp.hold(cp.held); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return cp.copyFile(src, dst, rel, &st)
	case unix.S_IFDIR:
		return cp.copyDir(src, dst, rel, &st)
	case unix.S_IFLNK:
		err = cp.copyLink(src, dst, &st)
	default:
		if cp.noDevices && isDevice(&st) {
			return errNoDevices()
		}
		err = at("mknod", dst.base, func() error { return mknod(dst.fd(), dst.base, uint32(st.Mode), uint64(st.Rdev)) })
	}
	if err != nil {
		return err
	}
	return cp.copyAttrs(linkXattrs(src), dst, &st)
}

// copyLink copies a link that was charged by its state st. Another link may have replaced it
// since: the charge follows.
func (cp *copier) copyLink(src, dst place, st *unix.Stat_t) error {
	buf := make([]byte, driver.MaxPathLen+1)
	n, err := unix.Readlinkat(src.fd(), src.base, buf)
	if err != nil {
		return err
	}
	cp.held = cp.held.plus(tally{names: int64(n)}).minus(linkTally(st))
	return at("symlink", dst.base, func() error { return unix.Symlinkat(string(buf[:n]), dst.fd(), dst.base) })
}

func (cp *copier) copyDir(src, dst place, rel string, st *unix.Stat_t) error {
	if st.Ino == cp.into {
		return driver.Errorf(driver.ErrInvalid, "a directory cannot be copied into itself")
	}
	from, err := openDirAt(src.dir, src.base)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := at("mkdir", dst.base, func() error { return unix.Mkdirat(dst.fd(), dst.base, 0o700) }); err != nil {
		return err
	}
	to, err := openDirAt(dst.dir, dst.base)
	if err != nil {
		return err
	}
	defer to.Close()
	for {
		names, err := from.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := cp.copyUnlessGone(place{dir: from, base: n}, place{dir: to, base: n}, rel+"/"+n); err != nil {
				return err
			}
		}
	}
	return cp.copyAttrs(openXattrs(from), dst, st)
}

// copyUnlessGone copies an entry of a directory. One that is removed while it is copied is left
// out: nothing of it stays in the copy, and nothing is charged for it.
func (cp *copier) copyUnlessGone(src, dst place, rel string) error {
	held, bytes := cp.held, cp.bytes
	err := cp.copy(src, dst, rel)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cp.held, cp.bytes = held, bytes
	return removeTree(dst.dir, dst.base, plainRemoval)
}

func (cp *copier) copyFile(src, dst place, rel string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		if first, ok := cp.links[uint64(st.Ino)]; ok {
			return at("link", dst.base, func() error {
				return unix.Linkat(cp.top, first, dst.fd(), dst.base, 0)
			})
		}
	}
	in, err := openAt(src, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	// What was opened is what is copied, whatever has become of the name.
	if err := unix.Fstat(int(in.Fd()), st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fs.ErrNotExist
	}
	if err := cp.copyData(in, dst, st.Size); err != nil {
		return err
	}
	if err := cp.copyAttrs(openXattrs(in), dst, st); err != nil {
		return err
	}
	if st.Nlink > 1 {
		cp.links[uint64(st.Ino)] = rel
	}
	return nil
}

// copyData copies size bytes of a file, leaving its holes.
func (cp *copier) copyData(in *os.File, dst place, size int64) error {
	if err := cp.check(cp.bytes + size); err != nil {
		return err
	}
	out, err := openAt(dst, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := cp.copyRanges(out, in, size); err != nil {
		return err
	}
	cp.bytes += size
	return nil
}

func openAt(p place, flags int, mode uint32) (*os.File, error) {
	var fd int
	err := at("open", p.base, func() (err error) {
		fd, err = unix.Openat(p.fd(), p.base, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p.base), nil
}

func (cp *copier) copyRanges(out, in *os.File, size int64) error {
	if cloneFile(out, in) == nil {
		return out.Truncate(size) // it may have grown since it was looked at
	}
	for off := int64(0); off < size; {
		start, end, err := nextData(int(in.Fd()), off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		end = min(end, size)
		if err := cp.copyRange(out, in, start, end); err != nil {
			return err
		}
		off = max(end, off+1)
	}
	return out.Truncate(size)
}

func (cp *copier) copyRange(out, in *os.File, off, end int64) error {
	for off < end {
		if err := cp.ctx.Err(); err != nil {
			return err
		}
		if _, err := in.Seek(off, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(off, io.SeekStart); err != nil {
			return err
		}
		var n int64
		err := fault.Do("write", out.Name(), func() (err error) {
			// By copy_file_range(2), where the system has it.
			n, err = io.Copy(out, io.LimitReader(in, min(step, end-off)))
			return err
		})
		if err != nil || n == 0 {
			return err // cut short meanwhile; the rest is a hole
		}
		off += n
	}
	return nil
}

// copyAttrs copies owner, mode, xattrs and times; the owner only as far as this
// process may. The order matters: a new owner clears setuid bits, and every change
// but the last touches a time.
func (cp *copier) copyAttrs(src xattrs, dst place, st *unix.Stat_t) error {
	err := unix.Fchownat(dst.fd(), dst.base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	cp.held.xattrs += xattrBytes(linkXattrs(dst))
	if err := cp.hold(cp.held); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := nofollow.Chmod(dst.fd(), dst.base, uint32(st.Mode)&0o7777); err != nil {
			return err
		}
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(dst.fd(), dst.base, ts, unix.AT_SYMLINK_NOFOLLOW)
}
