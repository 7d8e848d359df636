package sandbox

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// streams carries what the command reads and writes. The command gets pipes, or a
// terminal of its own, never the caller's files: by way of /proc it could open those
// again, for more than they were given for.
type streams struct {
	io       IO
	child    [3]*os.File // the command's ends
	in       *os.File    // our ends
	out, err *os.File
	terminal *os.File

	copies sync.WaitGroup // of output
}

// openStreams makes pipes for the command's output, and for its input unless that is empty or a
// terminal's. With a terminal they carry messages of the runtime only.
func openStreams(c IO, terminal bool) (s *streams, err error) {
	s = &streams{io: c}
	defer func() {
		if err != nil {
			s.closeChildEnds()
			s.closeOwnEnds()
		}
	}()
	if c.Stdin == nil || terminal {
		if s.child[0], err = os.Open(os.DevNull); err != nil {
			return s, err
		}
	} else if s.child[0], s.in, err = os.Pipe(); err != nil {
		return s, err
	}
	if s.out, s.child[1], err = os.Pipe(); err != nil {
		return s, err
	}
	s.err, s.child[2], err = os.Pipe()
	return s, err
}

func (s *streams) closeChildEnds() { closeFiles(s.child[:]...) }
func (s *streams) closeOwnEnds()   { closeFiles(s.in, s.out, s.err, s.terminal) }

// closeFiles closes files, some of which may be nil.
func closeFiles(files ...*os.File) {
	for _, f := range files {
		f.Close() // nil is closed already
	}
}

// startCopying begins to copy, once the command runs. What the pipes hold before that is of
// the runtime.
func (s *streams) startCopying(h *helperProcess) {
	select {
	case s.terminal = <-h.terminal:
		s.copyOutput(s.io.Stdout, s.terminal)
		s.copyInput(s.terminal)
		go s.forwardResizes(h)
	default:
		s.copyOutput(s.io.Stdout, s.out)
		s.copyOutput(s.io.Stderr, s.err)
		s.copyInput(s.in)
	}
}

// copyOutput copies the output f of the command to w, in a goroutine that drainAndClose waits for.
// When w fails, f is closed, so that the command finds its pipe broken.
func (s *streams) copyOutput(w io.Writer, f *os.File) {
	if w == nil {
		w = io.Discard
	}
	s.copies.Go(func() {
		_, err := io.Copy(w, f)
		if errors.Is(err, os.ErrDeadlineExceeded) && f != s.terminal {
			err = drainPipe(w, f)
		}
		if err != nil && !errors.Is(err, unix.EIO) {
			// The reader is gone, so the command finds its pipe broken. A
			// terminal whose other side is closed says EIO.
			f.Close()
		}
	})
}

// drainPipe copies the bytes that are in the pipe f now, and does not wait for more.
func drainPipe(w io.Writer, f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	left := 0
	if cerr := conn.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil {
		return cerr
	}
	b := make([]byte, 32<<10)
	for err == nil && left > 0 {
		// It blocks only if another reader has taken these bytes.
		if err = f.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		var n int
		if n, err = f.Read(b[:min(left, len(b))]); n > 0 {
			left -= n
			if _, werr := w.Write(b[:n]); werr != nil {
				return werr
			}
		}
	}
	return err
}

// copyInput is not waited for: it may hang in a read from a terminal for ever.
func (s *streams) copyInput(f *os.File) {
	if s.io.Stdin == nil || f == nil {
		return
	}
	go func() {
		_, err := io.Copy(f, s.io.Stdin)
		if f != s.terminal {
			f.Close()
		} else if err == nil {
			_, _ = f.Write([]byte{4}) // end of file, as from a keyboard
		}
	}()
}

// forwardResizes gives the command's terminal each new size of the caller's.
func (s *streams) forwardResizes(h *helperProcess) {
	for {
		select {
		case <-h.done:
			return
		case w, ok := <-s.io.Resize:
			if !ok {
				return
			}
			// A terminal that is gone, or is being closed, needs no size.
			if conn, err := s.terminal.SyscallConn(); err == nil {
				_ = conn.Control(func(fd uintptr) {
					_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: w.Rows, Col: w.Cols})
				})
			}
		}
	}
}

// readComplaint is what the runtime wrote before a command that did not come to run, once
// the helper is gone; not all failures are in its log.
func (s *streams) readComplaint() string {
	b, _ := io.ReadAll(io.LimitReader(s.err, 4<<10)) // all its writers are dead
	return strings.TrimSpace(string(b))
}

// drainAndClose waits, once the helper is gone, until all that its processes wrote is copied, and
// closes. It does not wait for the pipes' end: a command can hand its own to another
// sandbox, by a socket in a volume.
func (s *streams) drainAndClose(ran bool) {
	if ran {
		if s.terminal != nil {
			// Its other side is closed now, so this cannot last.
			_ = s.terminal.SetReadDeadline(time.Now().Add(patience))
		}
		_ = errors.Join(s.out.SetReadDeadline(time.Now()), s.err.SetReadDeadline(time.Now()))
		s.copies.Wait()
	}
	s.closeOwnEnds()
}
