package main

import (
	"context"
	"io"
	"io/fs"
	"os"
)

// copyBuf is the size of one read of a stream: large enough that the cost of a call
// does not show.
const copyBuf = 256 << 10

// openInput returns r as a stream that ends when ctx does, even while a read of r waits
// for a terminal or a pipe. What was read ahead of the caller is lost, so r is to be
// used through one input only.
func openInput(ctx context.Context, r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
	go func() {
		defer stop()
		// Hidden methods of both ends keep io from taking a short cut that would
		// bring its own small buffer.
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, copyBuf))
		pw.CloseWithError(err)
	}()
	return pr
}

// openForReading opens a file. That of a fifo waits for somebody to write to it, until ctx is
// done.
func openForReading(ctx context.Context, name string) (*os.File, error) {
	if st, err := os.Stat(name); err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		return openFifoForReading(ctx, name)
	}
	return os.Open(name)
}

// openFifoForReading opens a fifo, which waits for somebody to write to it, until ctx is done.
func openFifoForReading(ctx context.Context, name string) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(name)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return o.f, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
