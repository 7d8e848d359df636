package bucket

import (
	"io"

	"github.com/volehq/vole/internal/budget"
)

// firstBuffer is the first size of the buffer for a source that has not sent anything yet.
const firstBuffer = 64 << 10

// chunkBuffer holds a chunk that is read from a source, and its memory of the organisation's
// share.
type chunkBuffer struct {
	share *budget.Share
	held  int64
	data  []byte
}

// readChunk reads a chunk of up to n bytes. The buffer grows with what arrives, so that a slow
// source takes little memory. If there is no memory to grow, the chunk ends early: if uploads
// waited for memory while they held some, all could wait for ever.
func (up *blobUpload) readChunk(r io.Reader, n int64) (*chunkBuffer, error) {
	x := &chunkBuffer{share: up.fs.b.memory}
	most := n
	if x.share != nil && up.total < chunkSize {
		most = min(n, firstBuffer)
	}
	size, err := x.share.UpTo(up.ctx, budget.Buffer, min(n, firstBuffer), most)
	if err != nil {
		return x, err
	}
	x.held = size
	x.data = allocateBuffer(size)
	for at := 0; ; {
		m, err := readUntilFull(r, x.data[at:])
		at += m
		size := int64(at)
		if err != nil || size == n || !x.tryGrow(min(8*size, n)) {
			x.data = x.data[:at]
			return x, err
		}
	}
}

// tryGrow enlarges the buffer to n bytes, and returns false if there is no memory for that.
func (x *chunkBuffer) tryGrow(n int64) bool {
	old := int64(len(x.data))
	if !x.share.Try(budget.Buffer, n-old) {
		return false
	}
	x.held += n - old
	larger := allocateBuffer(n)
	copy(larger, x.data)
	x.data = larger
	return true
}

// releaseMemory returns the memory to the budget.
func (x *chunkBuffer) releaseMemory() {
	x.share.Release(x.held)
	x.held = 0
}

// recycleBuffer returns a buffer of allocateBuffer to the pool. Nothing may use it any more.
func recycleBuffer(data []byte) {
	if cap(data) == chunkSize {
		buffers.Put((*[chunkSize]byte)(data[:chunkSize]))
	}
}

// allocateBuffer returns a buffer of n bytes, out of the pool if it is a whole chunk. It is
// not zeroed.
func allocateBuffer(n int64) []byte {
	if n < chunkSize {
		return make([]byte, n)
	}
	return buffers.Get().(*[chunkSize]byte)[:n]
}

// readUntilFull fills p as far as r goes. Unlike io.ReadFull it returns io.EOF only for the
// end of r, not for a source that ends with io.ErrUnexpectedEOF.
func readUntilFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}
