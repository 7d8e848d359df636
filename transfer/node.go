package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sparse"
)

// isSpecialNode reports whether a mode is that of a node: a device, a fifo or a socket of the
// host. Other programs rely on nodes, so they are written to or refused, and never replaced
// by a file.
func isSpecialNode(m fs.FileMode) bool {
	return m&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) != 0
}

// nodeExistsError is the error of a name that would be replaced and is a node's.
func nodeExistsError(m fs.FileMode) error {
	what := "a device"
	switch {
	case m&fs.ModeNamedPipe != 0:
		what = "a fifo"
	case m&fs.ModeSocket != 0:
		what = "a socket"
	}
	return driver.Errorf(vole.ErrExists, "%s is there, which is not replaced; name it as the target to write a file into it, or remove it", what)
}

// NodeAt reports whether path names what OpenNode opens or refuses: no file, directory or
// link that could be replaced.
func NodeAt(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && (isSpecialNode(info.Mode()) || info.Mode()&fs.ModeSymlink != 0 && OpenFileLink(path))
}

// OpenNode opens for writing the device or fifo at path, or what an open file of a process
// is (/proc/self/fd/1, where /dev/stdout leads), which has no name that could be replaced.
// nil: path names none of these. A fifo without a reader makes it wait until ctx is done.
// Links are not followed but for those of /proc.
func OpenNode(ctx context.Context, path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, nil // the caller is about to make it
	}
	flag := os.O_WRONLY | syscall.O_NOCTTY
	switch m := info.Mode(); {
	case m&fs.ModeSymlink != 0 && OpenFileLink(path):
		if f, err := openInherited(path); f != nil || err != nil {
			return f, HostError("open", path, err)
		}
		flag |= os.O_APPEND // behind what others wrote to it
	case m&fs.ModeSocket != 0:
		return nil, HostError("open", path, driver.Errorf(vole.ErrExists, "a socket is there, into which no file can be written; name another target, or remove it"))
	case !isSpecialNode(m):
		return nil, nil
	case m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0:
		flag |= noFollow | blockExclusive
	default:
		flag |= noFollow
	}
	f, err := openCancellable(ctx, path, flag)
	if errors.Is(err, syscall.EBUSY) {
		err = driver.Errorf(vole.ErrInUse, "the device is in use, by a mount perhaps")
	}
	if err == nil {
		// Another user who may write to the directory may have replaced it.
		if now, serr := f.Stat(); serr != nil || flag&os.O_APPEND == 0 && !isSpecialNode(now.Mode()) {
			f.Close()
			err = driver.Errorf(vole.ErrExists, "it was replaced while it was opened")
		}
	}
	return f, HostError("open", path, err)
}

// openCancellable is os.OpenFile that ends with ctx, also while open(2) of a fifo waits for
// somebody to read.
func openCancellable(ctx context.Context, path string, flag int) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	ch := make(chan opened)
	go func() {
		f, err := os.OpenFile(path, flag, 0)
		select {
		case ch <- opened{f, err}:
		case <-ctx.Done():
			f.Close()
		}
	}()
	select {
	case o := <-ch:
		return o.f, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// CopyToNode writes the regular file at p of src to what OpenNode opened, in order, and
// makes it durable on a block device.
func CopyToNode(ctx context.Context, node *os.File, src Tree, p string, opts Options) (Stats, error) {
	s := src.newSource()
	defer closeSource(s)
	it, err := s.lstat(ctx, p)
	if err != nil {
		return Stats{}, err
	}
	if !it.mode.IsRegular() {
		return Stats{}, HostError("write", node.Name(), nodeExistsError(fs.ModeDevice))
	}
	r, err := s.openFile(ctx, p, it.size)
	if err != nil {
		return Stats{}, err
	}
	stats, err := WriteNode(ctx, node, r, opts)
	return stats, errors.Join(err, r.Close())
}

// WriteNode writes what r yields to what OpenNode opened, in order, and makes it durable on
// a block device.
func WriteNode(ctx context.Context, node *os.File, r io.Reader, opts Options) (Stats, error) {
	c := &copier{opts: &opts}
	err := NodeWrite(ctx, node, func() error {
		_, err := io.CopyBuffer(struct{ io.Writer }{node}, &counted{sparse.Stream(r), c}, make([]byte, copyBuf))
		return err
	})
	if err == nil {
		c.stats.Files++
		opts.reportFile(node.Name())
	}
	return c.stats, err
}

// NodeWrite calls write, which writes to a node. When ctx ends, a write that waits for the
// reader of a fifo does, too. A block device is synced.
func NodeWrite(ctx context.Context, node *os.File, write func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = node.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	err := write()
	if err == nil {
		err = syncNode(node)
	}
	if cerr := ctx.Err(); cerr != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return cerr
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) && pe.Path == node.Name() {
		return HostError("write", node.Name(), err)
	}
	return err
}

// syncNode syncs a block device or a file.
func syncNode(node *os.File) error {
	info, err := node.Stat()
	if err != nil {
		return err
	}
	if m := info.Mode(); m.IsRegular() || m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 {
		return node.Sync()
	}
	return nil
}
