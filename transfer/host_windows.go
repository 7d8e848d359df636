package transfer

import (
	"context"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/sparse"
	"golang.org/x/sys/windows"
)

// hostSource is a hostTree to read from.
type hostSource struct {
	*hostTree
	plain bool // Options.Plain; no attributes are read in any case
}

func newHostSource(h *Host) *hostSource { return &hostSource{hostTree: &hostTree{h, nil}} }

// Close implements io.Closer.
func (s *hostSource) Close() error { return nil }

// describeEntry is lstat without the target of a link.
func (s *hostSource) describeEntry(p string) (item, error) {
	return s.hostTree.lstat(context.Background(), p)
}

func (s *hostSource) lstat(_ context.Context, p string) (item, error) {
	it, err := s.describeEntry(p)
	if err == nil && it.mode&fs.ModeSymlink != 0 {
		it.target, err = s.root.Readlink(p)
	}
	return it, s.wrapError("read", p, err)
}

func (s *hostSource) listNames(_ context.Context, p string, _ *item) ([]string, error) {
	dir, err := s.root.Open(p)
	if err != nil {
		return nil, s.wrapError("open", p, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, s.wrapError("list", p, err)
}

func (s *hostSource) openFile(ctx context.Context, p string, _ int64) (sparse.Content, error) {
	f, err := s.root.Open(p)
	if err != nil {
		return nil, s.wrapError("open", p, err)
	}
	return sparse.File(ctx, f), nil
}

// describeSystem gives an item the permissions that files have elsewhere: here they are those
// of access lists, of which os.Lstat knows only whether the file may be changed.
func describeSystem(it *item, _ fs.FileInfo) {
	it.mode &^= 0o022
	if it.mode.IsRegular() {
		it.mode &^= 0o111
	}
	it.nlink = 1
}

func (t *hostTree) makeNode(_ context.Context, p string, _ fs.FileMode, _ uint64) error {
	return t.wrapError("mknod", p, driver.Errorf(vole.ErrUnsupported, "fifos and devices can be copied out on Linux only"))
}

// setMetadata sets the times of a directory; links and directories have no more metadata here.
func (t *hostTree) setMetadata(ctx context.Context, p string, it *item) error {
	if !it.mode.IsDir() {
		return nil
	}
	if err := t.setXattrs(ctx, p, it); err != nil {
		return err
	}
	return t.wrapError("chtimes", p, t.root.Chtimes(p, it.mtime, it.mtime))
}

func (t *hostTree) setXattrs(_ context.Context, p string, it *item) error {
	return t.setOpenXattrs(p, nil, it)
}

// setOpenXattrs loses the attributes.
func (t *hostTree) setOpenXattrs(p string, _ *os.File, it *item) error {
	t.opts.countLostSystemAttrs(it)
	for name := range it.xattrs {
		if err := t.opts.leaveOut(t.displayPath(p), "the attribute "+name, vole.ErrUnsupported); err != nil {
			return err
		}
	}
	return nil
}

// setFileTimes sets the times of a file that is open for writing. By its name they would be
// overwritten when it is closed.
func (t *hostTree) setFileTimes(f *os.File, _ string, mtime time.Time) error {
	when := windows.NsecToFiletime(mtime.UnixNano())
	return windows.SetFileTime(windows.Handle(f.Fd()), nil, &when, &when)
}

// These are no flags here.
const (
	noFollow       = 0
	blockExclusive = 0
)

// OpenFileLink reports whether the link at path stands for an open file, as those of Linux's
// /proc do: here none does.
func OpenFileLink(string) bool { return false }

// CheckDescriptor returns an error when path stands for a file of this process's own.
func CheckDescriptor(string) error { return nil }

func openInherited(string) (*os.File, error) { return nil, nil }
