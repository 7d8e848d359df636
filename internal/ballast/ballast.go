//go:build unix

// Package ballast keeps a little of a disk free for operations that free space. A file holds
// bytes, and empty files beside it hold inodes. When the disk is full, such an operation gets
// them while it runs, and the ballast takes them again afterwards. So the operation never
// fails because a catalog, a log or a lock that it writes first does not fit.
package ballast

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"sync"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// Name is the file's, in the directory whose disk it is on.
const Name = "ballast"

// Size is how many bytes the file holds at most: transactions of a catalog of SQLite with its shared
// memory take up to 100 KiB, and a removal in an image a few hundred KiB of its log.
const Size = 2 << 20

// InodesName is the directory, beside the file, of the empty files that hold inodes.
const InodesName = Name + "-inodes"

// Inodes is how many inodes are held: the log and the shared memory of a catalog, the locks
// of a process and of a volume, and a temporary file or two take up to 8.
const Inodes = 16

const (
	// maxShare divides the free space: the ballast takes no more than that part of it, so
	// that it does not fill a small disk.
	maxShare = 8
	// minSize is the smallest file that is of use.
	minSize = 128 << 10
	// firstInodes is how many inodes must be free for some to be taken.
	firstInodes = maxShare * Inodes
)

// pageSize is the step in bytes in which the file takes space back.
const pageSize = 4096

// Ballast is the file of one directory, and the empty files beside it. The zero Ballast holds
// nothing, and lends nothing. Its methods may be called concurrently, by several processes too.
// States: held (uses is 0, the file has its storage), lent (uses > 0, the file is open under a
// shared lock and has no storage).
type Ballast struct {
	dir *os.File

	mu   sync.Mutex // guards what follows
	uses int        // operations that the room is lent to
	file *os.File   // while it is lent, under a shared lock
}

// New returns the ballast of an open directory, which the caller keeps open.
func New(dir *os.File) *Ballast { return &Ballast{dir: dir} }

// OpenDir returns the ballast of the directory at path, until Close. If the directory cannot be
// opened the ballast is empty.
func OpenDir(path string) *Ballast {
	dir, err := os.Open(path)
	if err != nil {
		return &Ballast{}
	}
	return New(dir)
}

// Close closes the directory of OpenDir. To close it twice is no error.
func (b *Ballast) Close() error {
	if b.dir == nil {
		return nil
	}
	if err := b.dir.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// Opening runs fn, which opens a database, with the space of the ballast if the disk is full.
// Afterwards the ballast takes back what is left of it.
func (b *Ballast) Opening(fn func() error) error {
	err := b.Freeing(fn)
	if err == nil {
		b.Keep()
	}
	return err
}

// Keep makes the ballast as large as it should be, or as the disk allows. It grows when there is
// more space than before, and does not shrink. Failures are ignored: there is less to lend then.
// While a process has lent it, it stays as it is.
func (b *Ballast) Keep() {
	if b.dir == nil || !b.isOwnedByUser() {
		return
	}
	var held, want int64
	if st, err := beneath.Lstat(b.dir, Name); err == nil {
		// The length is how much it should hold, also while it is lent.
		held, want = int64(st.Blocks)*512, st.Size
	}
	free, _ := b.freeSpace()
	want = max(want, min(Size, (free+held)/maxShare)/pageSize*pageSize)
	full := held >= want
	if full && b.holdsAllInodes() || want < minSize {
		return
	}
	f, err := beneath.OpenFile(b.dir, Name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	if !full {
		growFile(f, min(want, Size))
	}
	b.takeInodes()
}

// isOwnedByUser reports whether the directory belongs to this user. The owner of another
// directory could not lend files made there.
func (b *Ballast) isOwnedByUser() bool {
	var st unix.Stat_t
	return unix.Fstat(int(b.dir.Fd()), &st) == nil && st.Uid == uint32(os.Geteuid())
}

// holdsAllInodes reports whether no more inodes can be taken: the last file exists, which is
// made last and removed first, or the file system does not count inodes.
func (b *Ballast) holdsAllInodes() bool {
	if _, err := beneath.Lstat(b.dir, inodeFileName(Inodes-1)); err == nil {
		return true
	}
	_, inodes := b.freeSpace()
	return inodes == math.MaxInt64
}

// inodeFileName is the name of the ith empty file.
func inodeFileName(i int) string { return fmt.Sprintf("%s/%02d", InodesName, i) }

// takeInodes makes the empty files, as many as there are inodes for.
func (b *Ballast) takeInodes() {
	if _, err := beneath.Lstat(b.dir, InodesName); err != nil {
		if _, inodes := b.freeSpace(); inodes < firstInodes || inodes == math.MaxInt64 {
			return
		}
		if beneath.Mkdir(b.dir, InodesName, 0o700) != nil {
			return
		}
	}
	for i := range Inodes {
		f, err := beneath.OpenFile(b.dir, inodeFileName(i), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		switch {
		case err == nil:
			_ = f.Close()
		case !errors.Is(err, fs.ErrExist):
			return
		}
	}
}

// releaseInodes removes the empty files.
func (b *Ballast) releaseInodes() {
	for i := Inodes - 1; i >= 0; i-- {
		_ = beneath.Remove(b.dir, inodeFileName(i))
	}
}

// growFile gives the file storage, up to size bytes: all of it at once, or as much as bisection
// finds.
func growFile(f *os.File, size int64) {
	if allocateBytes(f, size) == nil {
		return
	}
	_ = f.Truncate(0) // what the failed call may have left
	low, high := int64(0), size/pageSize
	for low+1 < high {
		pages := (low + high) / 2
		if allocateBytes(f, pages*pageSize) == nil {
			low = pages
		} else {
			high = pages
			_ = f.Truncate(low * pageSize)
		}
	}
	_ = f.Truncate(size)
}

// writeRandomBytes is allocateBytes for systems without a call for it. It writes no zeros, and
// not the same bytes again, which some file systems store in no space.
func writeRandomBytes(f *os.File, size int64) error {
	b := make([]byte, size)
	rand.Read(b)
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

// Lend gives up the space until done is called.
func (b *Ballast) Lend() (done func()) {
	if b.dir == nil {
		return func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uses++; b.uses == 1 {
		if f, err := beneath.OpenFile(b.dir, Name, os.O_RDWR, 0); err == nil {
			_ = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
			if st, err := f.Stat(); err == nil {
				_ = f.Truncate(0)
				_ = f.Truncate(st.Size()) // without storage
			}
			b.file = f
		}
		b.releaseInodes()
	}
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.uses--; b.uses > 0 {
			return
		}
		if b.file != nil {
			_ = b.file.Close()
			b.file = nil
		}
		b.Keep()
	})
}

// Freeing runs an operation that frees space: with the space of the ballast if the disk is full,
// or turns out to be full, in which case fn runs twice.
func (b *Ballast) Freeing(fn func() error) error {
	if b.dir == nil {
		return fn()
	}
	if bytes, inodes := b.freeSpace(); bytes < Size || inodes < Inodes {
		defer b.Lend()()
		return fn()
	}
	err := fn()
	if !NoSpace(err) {
		return err
	}
	defer b.Lend()()
	return fn()
}

// freeSpace returns how many bytes this process may still write to the disk, and how many inodes
// are left; math.MaxInt64 if they are not counted.
func (b *Ballast) freeSpace() (bytes, inodes int64) {
	var st unix.Statfs_t
	if unix.Fstatfs(int(b.dir.Fd()), &st) != nil {
		return Size, Inodes
	}
	bytes, inodes = int64(st.Bavail)*int64(st.Bsize), int64(st.Ffree)
	if os.Geteuid() == 0 {
		bytes = int64(st.Bfree) * int64(st.Bsize)
	}
	if st.Files == 0 {
		inodes = math.MaxInt64
	}
	return bytes, inodes
}

// NoSpace reports whether err says that the disk is full.
func NoSpace(err error) bool {
	return errors.Is(err, driver.ErrNoSpace) || errors.Is(err, unix.ENOSPC)
}
