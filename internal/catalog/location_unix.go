//go:build unix

package catalog

import (
	"errors"
	"io/fs"
	"os"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// suffixes of the files that make a database: itself, the write-ahead log, its index, and
// the journal of a transaction that is not in the log.
var suffixes = []string{"", "-wal", "-shm", "-journal"}

// locateDatabase returns the location of the database at path, which is in dir if dir is not
// nil. ErrCorrupt: one of its files is not a regular file, or has a second name.
func locateDatabase(path string, dir *os.File) (location, error) {
	if dir == nil {
		return location{path: path}, nil
	}
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return location{}, err
	}
	l := location{path: path, dir: os.NewFile(uintptr(fd), dir.Name())}
	if held, vfs, ok := pathInOpenDir(l.dir, l.baseName()); ok {
		l.path, l.vfs = held, vfs
	}
	for _, s := range suffixes {
		if err := l.checkRegularFile(s); err != nil {
			l.closeDirectory()
			return location{}, err
		}
	}
	return l, nil
}

// checkRegularFile returns ErrCorrupt for anything but a regular file with one name: SQLite
// would follow a link, wait for the other end of a fifo, and write to a file that has another
// name elsewhere.
func (l location) checkRegularFile(suffix string) error {
	st, err := beneath.Lstat(l.dir, l.baseName()+suffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return driver.Errorf(driver.ErrCorrupt, "%s%s is no regular file, but a link or something else; put the file itself there", l.baseName(), suffix)
	case st.Nlink > 1:
		return driver.Errorf(driver.ErrCorrupt, "%s%s has another name elsewhere, a hard link; copy the file, and put the copy in its place", l.baseName(), suffix)
	}
	return nil
}
