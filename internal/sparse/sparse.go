// Package sparse copies files with holes: only the ranges that hold data are read and
// written.
package sparse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
)

// Content is the content of a file, read once from the beginning: as a whole by Read alone, or
// range by range with NextData.
type Content interface {
	io.ReadCloser
	// NextData moves to the next range that may hold data and returns it; io.EOF
	// when none is left. The caller reads n bytes before it calls again.
	NextData(ctx context.Context) (off, n int64, err error)
}

const (
	copyBuf = 256 << 10 // bytes of one read: so many that the cost of a call does not show
	block   = 64 << 10  // of zeros, in a stream, that counts as a hole
)

// Copy hands the ranges of c that hold data to write. It leaves out everything beyond size; a
// file that has become shorter ends where it does.
func Copy(ctx context.Context, c Content, size int64, write func(b []byte, off int64) error) error {
	buf := make([]byte, min(copyBuf, max(size, 1)))
	for {
		off, n, err := c.NextData(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n = min(n, size-off) // the file may have grown
		for n > 0 {
			m, err := io.ReadFull(c, buf[:min(n, int64(len(buf)))])
			if m > 0 {
				if err := write(buf[:m], off); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil // the file has shrunk
			}
			if err != nil {
				return err
			}
			off, n = off+int64(m), n-int64(m)
		}
	}
}

// CopyToFile writes content of size bytes into f, which is empty, with its holes.
func CopyToFile(ctx context.Context, c Content, size int64, f *os.File) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	return Copy(ctx, c, size, func(b []byte, off int64) error {
		_, err := f.WriteAt(b, off)
		return err
	})
}

// File returns the content of f, whose holes the file system reports. Close closes f.
func File(ctx context.Context, f *os.File) Content { return &file{ctx, f} }

// Section returns the content of n bytes of f from off on; its offsets count from off. Close
// closes f.
func Section(ctx context.Context, f *os.File, off, n int64) Content {
	return &section{file: file{ctx, f}, off: off, end: off + n}
}

// section is a file of which only a part is read.
type section struct {
	file
	off, end int64
	begun    bool
}

// NextData implements Content.
func (c *section) NextData(ctx context.Context) (off, n int64, err error) {
	if !c.begun {
		if _, err := c.f.Seek(c.off, io.SeekStart); err != nil {
			return 0, 0, err
		}
		c.begun = true
	}
	off, n, err = c.file.NextData(ctx)
	if err == nil && off >= c.end {
		err = io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	return off - c.off, min(n, c.end-off), nil
}

// file reads an open file.
type file struct {
	ctx context.Context // of the copy this belongs to: io.Reader has no place for one
	f   *os.File
}

// Read implements Content.
func (c *file) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.f.Read(p)
}

// Close implements Content.
func (c *file) Close() error { return c.f.Close() }

// Stream returns the content of r. A stream does not say where a file has holes, so blocks of
// zeros count as holes. Close does nothing.
func Stream(r io.Reader) Content { return &stream{r: r} }

// stream reads blocks from a reader, of which NextData skips those that are zero.
type stream struct {
	r    io.Reader
	buf  []byte // a block that NextData read
	rest []byte // the part of it that Read has not returned
	off  int64
}

// Close implements Content.
func (c *stream) Close() error { return nil }

// Read implements Content.
func (c *stream) Read(p []byte) (int, error) {
	if c.buf == nil {
		return c.r.Read(p)
	}
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// NextData implements Content.
func (c *stream) NextData(ctx context.Context) (off, n int64, err error) {
	if c.buf == nil {
		c.buf = make([]byte, block)
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		m, err := io.ReadFull(c.r, c.buf)
		if m == 0 {
			return 0, 0, err
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, 0, err
		}
		off, c.off = c.off, c.off+int64(m)
		if !bytes.Equal(c.buf[:m], zeros[:m]) {
			c.rest = c.buf[:m]
			return off, int64(m), nil
		}
	}
}

// zeros is a block to compare with.
var zeros [block]byte
