//go:build unix

package sparse

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// NextData implements Content, by lseek(2).
func (c *file) NextData(ctx context.Context) (off, n int64, err error) {
	at, err := c.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, 0, err
	}
	start, end, err := FindData(int(c.f.Fd()), at)
	if err == nil {
		_, err = c.f.Seek(start, io.SeekStart)
	}
	return start, end - start, err
}

// FindData finds the next range with data of an open file by lseek(2), from off on. io.EOF: there
// is none. It moves the offset of the file.
func FindData(fd int, off int64) (start, end int64, err error) {
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	}
	if !errors.Is(err, unix.EINVAL) {
		return start, end, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st) // a file system that does not know holes
	if err == nil && off >= st.Size {
		err = io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	return off, st.Size, nil
}
