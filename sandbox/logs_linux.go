package sandbox

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	nolinks "github.com/volehq/vole/internal/beneath"
	"golang.org/x/sys/unix"
)

// maxLog bounds each of the two files of a log: the newest 8 to 16 MiB are kept.
const maxLog = 8 << 20

// logWriter writes a bounded log: a full file replaces the older one, and a new one begins.
// Writing never fails, so that a full disk does not stop the sandbox; output that cannot be
// written is lost.
type logWriter struct {
	top  *os.File // the log is beneath it, by that name; no link is followed
	name string

	mu   sync.Mutex // guards the fields below
	f    *os.File
	size int64
}

// Write appends to the log. Its error is always nil.
func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		if l.f != nil && l.size >= maxLog {
			l.f.Close()
			l.f = nil
			_ = l.rotateLog() // else this file grows no further either
		}
		if l.f == nil {
			f, err := nolinks.OpenFile(l.top, l.name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
			if err != nil {
				return len(p), nil
			}
			l.f, l.size = f, 0
		}
		n := min(int64(len(rest)), maxLog-l.size)
		_, _ = l.f.Write(rest[:n])
		l.size += n
		rest = rest[n:]
	}
	return len(p), nil
}

// rotateLog makes the file the older one.
func (l *logWriter) rotateLog() error {
	dir, err := nolinks.OpenDir(l.top, path.Dir(l.name))
	if err != nil {
		return err
	}
	defer dir.Close()
	base := path.Base(l.name)
	return unix.Renameat(int(dir.Fd()), base, int(dir.Fd()), base+".1")
}

func (l *logWriter) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

// logReader reads a log from its beginning, and on as it grows.
type logReader struct {
	top  *os.File // as of logWriter
	name string
	f    *os.File
}

// openLogReader opens a log at its oldest line. One that is missing is empty.
func openLogReader(top *os.File, name string) *logReader {
	l := &logReader{top: top, name: name}
	f, err := nolinks.OpenFile(top, name+".1", os.O_RDONLY, 0)
	if err == nil {
		l.f = f
	}
	return l
}

// copyLogTo copies all that has been logged since the last call.
func (l *logReader) copyLogTo(w io.Writer) error {
	for {
		if l.f != nil {
			if _, err := io.Copy(w, l.f); err != nil {
				return err
			}
		}
		next, err := nolinks.OpenFile(l.top, l.name, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if l.f != nil && isSameFile(l.f, next) {
			next.Close()
			return nil
		}
		// The log was rotated. The file that was open is complete by now.
		if l.f != nil {
			_, err = io.Copy(w, l.f)
			l.f.Close()
		}
		l.f = next
		if err != nil {
			return err
		}
	}
}

func isSameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func (l *logReader) Close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
