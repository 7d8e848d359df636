package ext4workload

import (
	"bytes"
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"syscall"
	"time"

	"github.com/volehq/vole/ext4"
)

// FS applies operations to a file system of package ext4.
type FS struct {
	FS    *ext4.FS
	Slots map[int]*ext4.File
}

// NewFS returns an FS without open files.
func NewFS(fs *ext4.FS) *FS { return &FS{fs, map[int]*ext4.File{}} }

// CloseAll closes all open files.
func (f *FS) CloseAll() error {
	var err error
	for k, file := range f.Slots {
		err = errors.Join(err, file.Close())
		delete(f.Slots, k)
	}
	return err
}

// fileModeOf converts st_mode to an io/fs mode.
func fileModeOf(m uint32) iofs.FileMode {
	mode := iofs.FileMode(m & 0o777)
	for bit, v := range map[uint32]iofs.FileMode{0o4000: iofs.ModeSetuid, 0o2000: iofs.ModeSetgid, 0o1000: iofs.ModeSticky} {
		if m&bit != 0 {
			mode |= v
		}
	}
	switch m & syscall.S_IFMT {
	case syscall.S_IFIFO:
		mode |= iofs.ModeNamedPipe
	case syscall.S_IFSOCK:
		mode |= iofs.ModeSocket
	case syscall.S_IFBLK:
		mode |= iofs.ModeDevice
	case syscall.S_IFCHR:
		mode |= iofs.ModeDevice | iofs.ModeCharDevice
	}
	return mode
}

// Apply applies an operation.
func (f *FS) Apply(ctx context.Context, o *Op) error {
	fs := f.FS
	switch o.Kind {
	case WriteFile:
		_, err := fs.WriteFile(ctx, o.Path, bytes.NewReader(Content(o.Seed, o.Len)), ext4.WriteOptions{Mode: fileModeOf(o.Mode), Exclusive: o.Flag})
		return err
	case WriteSparse:
		return f.writeSparseFile(ctx, o)
	case Open:
		return f.openFileInSlot(o)
	case Close:
		return f.closeFileInSlot(o)
	case WriteAt, Append, Truncate, Punch, Allocate:
		return f.applyFileOp(o)
	case Mkdir:
		return fs.Mkdir(o.Path, fileModeOf(o.Mode))
	case MkdirAll:
		return fs.MkdirAll(o.Path, fileModeOf(o.Mode))
	case Symlink:
		return fs.Symlink(o.Path2, o.Path)
	case Link:
		return fs.Link(o.Path, o.Path2)
	case Mknod:
		return fs.Mknod(o.Path, fileModeOf(o.Mode), o.Dev)
	case Rename:
		return fs.Rename(o.Path, o.Path2, o.Flag)
	case Remove:
		return fs.Remove(o.Path)
	case RemoveAll:
		return fs.RemoveAll(ctx, o.Path)
	case Copy:
		return fs.Copy(ctx, o.Path, o.Path2, o.Flag)
	}
	return f.applyAttributeOp(o)
}

// applyAttributeOp applies a change of metadata.
func (f *FS) applyAttributeOp(o *Op) error {
	switch o.Kind {
	case Chmod:
		return f.FS.Chmod(o.Path, fileModeOf(o.Mode))
	case Chown:
		return f.FS.Chown(o.Path, o.UID, o.GID)
	case Chtimes:
		t := time.Unix(o.Sec, o.Nsec)
		return f.FS.Chtimes(o.Path, t, t)
	case Setxattr:
		return f.FS.Setxattr(o.Path, o.Name, []byte(o.Value))
	}
	return f.FS.Removexattr(o.Path, o.Name)
}

// writeSparseFile writes a file with holes.
func (f *FS) writeSparseFile(ctx context.Context, o *Op) error {
	// The reader yields the data of all ranges, one after the other; next tells where it goes.
	list := sparseRanges(o)
	var r bytes.Buffer
	for _, p := range list {
		r.Write(Content(o.Seed, p[1]))
	}
	next := func(context.Context) (int64, int64, error) {
		if len(list) == 0 {
			return 0, 0, io.EOF
		}
		p := list[0]
		list = list[1:]
		return p[0], p[1], nil
	}
	_, err := f.FS.WriteFile(ctx, o.Path, &r, ext4.WriteOptions{Mode: fileModeOf(o.Mode), Exclusive: o.Flag, Size: o.Len, NextData: next})
	return err
}

// openFileInSlot opens a file, which it creates if it does not exist.
func (f *FS) openFileInSlot(o *Op) error {
	file, err := f.FS.OpenFile(o.Path, ext4.OpenFlags{Create: true, Mode: fileModeOf(o.Mode)})
	if err == nil {
		f.Slots[o.Slot] = file
	}
	return err
}

// closeFileInSlot closes an open file.
func (f *FS) closeFileInSlot(o *Op) error {
	file := f.Slots[o.Slot]
	if file == nil {
		return nil
	}
	delete(f.Slots, o.Slot)
	return file.Close()
}

// applyFileOp applies an operation to the content of a file.
func (f *FS) applyFileOp(o *Op) (err error) {
	file := f.Slots[o.Slot]
	if o.Slot < 0 {
		if file, err = f.FS.OpenFile(o.Path, ext4.OpenFlags{Write: true}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
	}
	if file == nil {
		return syscall.EBADF
	}
	switch o.Kind {
	case WriteAt:
		_, err = file.WriteAt(Content(o.Seed, o.Len), o.Off)
	case Append:
		_, err = file.Append(Content(o.Seed, o.Len))
	case Truncate:
		err = file.Truncate(o.Len)
	case Punch:
		err = file.PunchHole(o.Off, o.Len)
	case Allocate:
		err = file.Allocate(o.Off, o.Len, o.Flag)
	}
	return err
}

// Errno returns the number of an error, which is what different implementations have in
// common; 0 for nil, -1 for an error without a number. EXDEV stands for a path that leads
// out of the tree, ENOTSUP for anything unsupported.
func Errno(err error) syscall.Errno {
	var n syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &n):
		return n
	case errors.Is(err, ext4.ErrEscape) || errors.Is(err, errEscape):
		return syscall.EXDEV
	case errors.Is(err, errors.ErrUnsupported):
		return syscall.ENOTSUP
	}
	return ^syscall.Errno(0)
}

// readAttemptedRange reads the range that a failed write was to write.
func readAttemptedRange(r io.ReaderAt, o *Op, size int64) []byte {
	if o.Kind != WriteAt || o.Off >= size {
		return nil
	}
	b := make([]byte, min(o.Len, size-o.Off))
	n, _ := r.ReadAt(b, o.Off)
	return b[:n]
}

// Partial returns what a failed operation left of a file: the range that it was to write,
// and the size.
func (f *FS) Partial(o *Op) (data []byte, size int64) {
	file := f.Slots[o.Slot]
	if o.Slot < 0 {
		var err error
		if file, err = f.FS.OpenFile(o.Path, ext4.OpenFlags{}); err != nil {
			return nil, -1
		}
		defer file.Close()
	}
	if file == nil {
		return nil, -1
	}
	info, err := file.Stat()
	if err != nil {
		return nil, -1
	}
	return readAttemptedRange(file, o, info.Size), info.Size
}
