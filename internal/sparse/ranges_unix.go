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
	start, err := c.f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	end, err := c.f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	_, err = c.f.Seek(start, io.SeekStart)
	return start, end - start, err
}
