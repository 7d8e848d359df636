package sparse

import (
	"context"
	"io"
)

// NextData takes all that is left of the file for data.
func (c *file) NextData(context.Context) (off, n int64, err error) {
	off, err = c.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, 0, err
	}
	info, err := c.f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if n = info.Size() - off; n <= 0 {
		return 0, 0, io.EOF
	}
	return off, n, nil
}
