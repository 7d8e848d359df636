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
// for a terminal or a pipe, or when the command does. What was read ahead of the caller is lost,
// so use r through one input only. The goroutine that reads r lives until r ends, which for a terminal is the end of
// the process.
func (a *app) openInput(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
	go func() {
		defer stop()
		// Hidden methods of both ends keep io from taking a short cut that would
		// bring its own small buffer.
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, copyBuf))
		pw.CloseWithError(err)
	}()
	a.closeAtEnd(pr)
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
	return abandonWhenDone(ctx, func() (*os.File, error) { return os.Open(name) })
}

// abandonWhenDone returns what a call returns that cannot be interrupted, or the error of ctx as
// soon as that is done. The goroutine of an abandoned call lives until the process ends.
func abandonWhenDone[T any](ctx context.Context, call func() (T, error)) (result T, err error) {
	done := make(chan struct{})
	var got T
	var gotErr error
	go func() {
		defer close(done)
		got, gotErr = call()
	}()
	select {
	case <-done:
		return got, gotErr
	case <-ctx.Done():
		return result, ctx.Err()
	}
}
