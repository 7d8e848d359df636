package main

import (
	"context"
	"io"
)

// copyBuf is the size of one read of a stream: large enough that the cost of a call
// does not show.
const copyBuf = 256 << 10

// input returns r as a stream that ends when ctx does, even while a read of r waits
// for a terminal or a pipe. What was read ahead of the caller is lost, so r is to be
// used through one input only.
func input(ctx context.Context, r io.Reader) io.ReadCloser {
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
