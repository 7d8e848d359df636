package core

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/volehq/vole"
)

// FileSource is an open file as io.ReadSeeker for http.ServeContent. It keeps the error of a
// failed read, which ServeContent drops: once the header is sent, the client sees only a broken
// connection.
type FileSource struct {
	r   *vole.Reader
	err error // of the last Read that failed
}

// NewFileSource returns a source of the first size bytes of a file.
func NewFileSource(ctx context.Context, f *vole.File, size int64) *FileSource {
	return &FileSource{r: f.NewReader(ctx, 0, size)}
}

func (s *FileSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Seek implements io.Seeker.
func (s *FileSource) Seek(off int64, whence int) (int64, error) { return s.r.Seek(off, whence) }

// serveContent answers with the parts of the file that the request asks for (Range,
// If-None-Match and so on). The header is sent with the first bytes, so that an unreadable file
// is still answered with an error.
func (s *FileSource) serveContent(w http.ResponseWriter, r *Request, modified time.Time) error {
	lazy := &lazyHeader{ResponseWriter: w}
	http.ServeContent(lazy, r.Request, "", modified, s)
	if s.err != nil && !lazy.sent {
		for _, name := range []string{"Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "Content-Type", "Etag", "Last-Modified"} {
			w.Header().Del(name)
		}
		return s.err
	}
	lazy.sendHeader()
	return s.err
}

// lazyHeader delays the header of an answer until the first bytes of its body.
type lazyHeader struct {
	http.ResponseWriter
	status int
	sent   bool
}

func (l *lazyHeader) WriteHeader(status int) { l.status = status }

// sendHeader sends the delayed header, once.
func (l *lazyHeader) sendHeader() {
	if !l.sent && l.status != 0 {
		l.ResponseWriter.WriteHeader(l.status)
	}
	l.sent = true
}

func (l *lazyHeader) Write(p []byte) (int, error) {
	l.sendHeader()
	return l.ResponseWriter.Write(p)
}

// ReadFrom sends the header after the first successful read and leaves the size of further
// pieces to the writer below.
func (l *lazyHeader) ReadFrom(r io.Reader) (int64, error) {
	first := smallBuffers.Get().(*[]byte)
	defer smallBuffers.Put(first)
	n, err := r.Read(*first)
	if n == 0 && err != nil {
		return 0, ignoreEOF(err)
	}
	written, werr := l.Write((*first)[:n])
	if werr != nil || err != nil {
		return int64(written), cmp.Or(werr, ignoreEOF(err))
	}
	rest, err := io.Copy(l.ResponseWriter, r)
	return int64(written) + rest, err
}
