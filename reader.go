package vole

import (
	"context"
	"errors"
	"io"

	"github.com/volehq/vole/driver"
)

// Reader streams a range of a file, as io.ReadSeeker and io.WriterTo. It serves io.Copy with
// large reads of its own. It must not be used from several goroutines at once.
type Reader struct {
	ctx   context.Context // of NewReader: io.Reader has no place for one
	f     *File
	start int64 // of the range; Seek counts from there
	off   int64 // of the file, as start and end
	end   int64 // first byte not to read; < 0: the file's end

	// atEOF is true when the last read returned bytes together with io.EOF. The next Read
	// reports that EOF without asking the backend, where it would be a request; the one after
	// it asks again, because the file may have grown.
	atEOF bool
}

// Stat describes the file that is read.
func (r *Reader) Stat() (Entry, error) { return r.f.Stat(r.ctx) }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.end >= 0 {
		p = p[:min(int64(len(p)), max(0, r.end-r.off))]
	}
	if r.atEOF || len(p) == 0 {
		r.atEOF = false
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		r.atEOF, err = true, nil
	}
	return n, err
}

// Seek implements io.Seeker. Offsets count from the start of the range that the Reader was made
// for, io.SeekEnd from its end, or from that of the file as it is now.
func (r *Reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		off += r.start
	case io.SeekCurrent:
		off += r.off
	case io.SeekEnd:
		end := r.end
		if end < 0 {
			e, err := r.Stat()
			if err != nil {
				return 0, err
			}
			end = e.Size
		}
		off += end
	default:
		return 0, r.f.wrapError("seek", driver.Errorf(ErrInvalid, "whence %d: use io.SeekStart, io.SeekCurrent or io.SeekEnd", whence))
	}
	if err := refuseNegative("offset", off-r.start); err != nil {
		return 0, r.f.wrapError("seek", err)
	}
	r.off, r.atEOF = off, false
	return off - r.start, nil
}

// streamBuf is the size of one read when a stream is copied: large enough that the
// cost of a call does not show, small enough for the processor's cache.
const streamBuf = 256 << 10

// WriteTo implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	// Neither side may bring its own, smaller buffer.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, streamBuf))
}

// Close closes the file.
func (r *Reader) Close() error { return r.f.Close() }
