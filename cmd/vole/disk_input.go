package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/ext4"
	"github.com/volehq/vole/internal/imagekind"
	"github.com/volehq/vole/internal/sparse"
	"github.com/volehq/vole/transfer"
)

// imageInput is an image that is read once. A file or device that is not compressed is read by
// offset, with its holes (inputFromFile); anything else is a stream, of which only the beginning can
// be looked at before it is copied (inputFromStream), and which may turn out to be cut off only
// at its end (checkComplete).
type imageInput struct {
	name    string
	note    string         // what somebody should know of it; "": nothing
	content sparse.Content // what it holds
	size    vole.Size      // of the volume to make
	least   int64          // bytes that the file system has, of which none may be missing
	came    func() (int64, error)
}

// checkComplete returns an error when the image ended before its file system does. It is
// asked after the content was read.
func (in *imageInput) checkComplete() error {
	came, err := in.came()
	if err != nil || came >= in.least {
		return err
	}
	return driver.Errorf(vole.ErrCorrupt,
		"the file system has %d bytes, but the image ends after %d; part of it is missing", in.least, came)
}

// whereInImage says where in a file the file system begins.
type whereInImage struct {
	offset    int64
	partition int // 0: offset counts
}

// isGiven reports whether the file system is said not to begin where the file does.
func (w whereInImage) isGiven() bool { return w.offset != 0 || w.partition != 0 }

// openImageInput opens an image, plain or compressed, and finds out how large it is.
func (a *app) openImageInput(ctx context.Context, name string, where whereInImage) (*imageInput, error) {
	f, err := a.openInputFile(ctx, name)
	if err != nil {
		return nil, err
	}
	var in *imageInput
	if f == nil {
		in, err = inputFromStream(name, a.openInput(ctx, a.stdin), where)
	} else {
		in, err = a.inputFromFile(ctx, name, f, where)
	}
	return in, wrapImageError("import", name, err)
}

// openInputFile opens a file, a block device or a fifo to be read; nil: standard input.
func (a *app) openInputFile(ctx context.Context, name string) (*os.File, error) {
	if name == "-" {
		return nil, nil
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, wrapImageError("import", name, err)
	}
	seekable := st.Mode().IsRegular() || isBlockDevice(st.Mode())
	switch {
	case !seekable && slices.Contains([]string{"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}, name):
		return nil, nil // a socket can be opened by no name
	case st.Mode()&fs.ModeNamedPipe != 0:
		f, err := openFifoForReading(ctx, name)
		if err == nil {
			a.closeAtEnd(f)
		}
		return f, wrapImageError("import", name, err)
	}
	return a.openImage("import", name, false)
}

// inputFromFile reads an image from an open file.
func (a *app) inputFromFile(ctx context.Context, name string, f *os.File, where whereInImage) (in *imageInput, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	block := isBlockDevice(st.Mode())
	if !st.Mode().IsRegular() && !block {
		return inputFromStream(name, a.openInput(ctx, f), where)
	}
	magic := make([]byte, 4)
	if n, _ := f.ReadAt(magic, 0); transfer.Compressed(magic[:n]) { // of what cannot be read more is told below
		return inputFromStream(name, f, where)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	off, end, note, err := where.locateFilesystem(f, end)
	if err != nil {
		return nil, err
	}
	if in, err = newImageInput(name, io.NewSectionReader(f, off, end-off), end-off, end-off); err != nil {
		return nil, err
	}
	in.note = note
	if block {
		in.content, in.came = sparse.Stream(io.NewSectionReader(f, off, in.least)), func() (int64, error) { return in.least, nil }
		return in, nil
	}
	if !where.isGiven() {
		in.size = max(in.size, vole.Size(st.Size()))
	}
	in.content = sparse.Section(ctx, f, off, min(end-off, int64(in.size)))
	in.came = func() (int64, error) {
		st, err := f.Stat() // it may have been cut meanwhile
		if err != nil {
			return 0, err
		}
		return st.Size() - off, nil
	}
	return in, nil
}

// inputFromStream reads an image, plain or compressed, from its beginning to its end.
func inputFromStream(name string, r io.Reader, where whereInImage) (in *imageInput, err error) {
	if r, err = transfer.Decompress(r); err != nil {
		return nil, compressedError(err)
	}
	count := &countedReader{r: r}
	b := bufio.NewReaderSize(count, copyBuf)
	head, err := peekStream(b)
	if err != nil {
		return nil, err
	}
	off, end := int64(0), int64(0)
	if where.isGiven() {
		if off, end, _, err = where.locateFilesystem(bytes.NewReader(head), 0); err != nil {
			return nil, err
		}
		if n, err := io.CopyN(io.Discard, b, off); errors.Is(err, io.EOF) {
			return nil, driver.Errorf(vole.ErrCorrupt, "the image ends after %d bytes, before the file system begins at %d", n, off)
		} else if err != nil {
			return nil, err
		}
		if head, err = peekStream(b); err != nil {
			return nil, err
		}
	}
	if in, err = newImageInput(name, bytes.NewReader(head), max(end-off, 0), 0); err != nil {
		return nil, err
	}
	in.content = sparse.Stream(b)
	in.came = func() (int64, error) { return count.n - off, nil }
	return in, nil
}

// newImageInput describes the file system that r begins with, in room bytes at most. size is how many
// bytes r has, for the error when it is no ext4. 0: they are not known.
func newImageInput(name string, r io.ReaderAt, room, size int64) (*imageInput, error) {
	d, err := ext4.Describe(partDevice{r}, room)
	if err != nil {
		return nil, notExt4Error(name, r, size, err)
	}
	return &imageInput{name: name, size: max(vole.Size(d.Size), ext4.MinSize), least: d.Size}, nil
}

// peekStream returns what a stream begins with, as much as tells what it is.
func peekStream(b *bufio.Reader) ([]byte, error) {
	head, err := b.Peek(imagekind.HeadSize)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return bytes.Clone(head), err
}

// countedReader counts what an image has, and tells what is wrong with a compressed one.
type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if errors.Is(err, gzip.ErrHeader) {
		err = io.EOF // behind a whole member: gzip takes no notice of what follows, padding for example
	}
	return n, compressedError(err)
}

// compressedError makes ErrCorrupt of the end of a compressed image that is cut off.
func compressedError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return driver.Errorf(vole.ErrCorrupt, "the compressed image ends early; part of it is missing")
	}
	return err
}

// partDevice is a part of an image, to be read.
type partDevice struct{ io.ReaderAt }

func (partDevice) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }
func (partDevice) Sync() error                        { return nil }

// locateFilesystem returns where the file system begins and where it ends at most, in a file that
// ends at end (0: it is not known), and what there is to note about that.
func (w whereInImage) locateFilesystem(r io.ReaderAt, end int64) (from, to int64, note string, err error) {
	if w.partition == 0 {
		if end > 0 && w.offset >= end {
			return 0, 0, "", driver.Errorf(vole.ErrInvalid, "the offset %d is beyond the end of the image, which has %d bytes", w.offset, end)
		}
		return w.offset, end, "", nil
	}
	table, err := readPartitionTable(r, end)
	if err != nil {
		return 0, 0, "", err
	}
	if table.Copy {
		note = "the partition table at the beginning is damaged; its copy at the end was used"
	}
	for _, p := range table.Partitions {
		if p.Number != w.partition {
			continue
		}
		if to = p.Offset + p.Size; end > 0 && to > end {
			return 0, 0, "", driver.Errorf(vole.ErrCorrupt, "partition %d ends at byte %d, but the image after %d; part of it is missing", p.Number, to, end)
		}
		return p.Offset, to, note, nil
	}
	return 0, 0, "", driver.Errorf(vole.ErrInvalid, "there is no partition %d; there %s", w.partition, describePartitions(table.Partitions))
}

// readPartitionTable reads the partition table of a file that ends at end (0: it is a stream).
func readPartitionTable(r io.ReaderAt, end int64) (imagekind.Table, error) {
	table, err := imagekind.Partitions(r, end)
	wrong := (*imagekind.TableError)(nil)
	switch {
	case errors.Is(err, imagekind.ErrNoTable):
		err = driver.Errorf(vole.ErrInvalid, "there is no partition table; import it without --partition")
	case errors.As(err, &wrong) && end == 0:
		err = &hinted{driver.Errorf(vole.ErrCorrupt, "%v", wrong), "save it to a file: of a file the copy of the table at its end can be read"}
	case errors.As(err, &wrong):
		err = &hinted{driver.Errorf(vole.ErrCorrupt, "%v, and there is no good copy at the end", wrong), "--offset says where the file system begins"}
	}
	return table, err
}

// describePartitions goes on a sentence that begins with "there".
func describePartitions(list []imagekind.Partition) string {
	if len(list) == 0 {
		return "are none"
	}
	s := "are"
	for i, p := range list {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf(" %d (%v)", p.Number, vole.Size(p.Size))
	}
	return s
}

// isBlockDevice reports whether a mode is that of a block device.
func isBlockDevice(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }

// notExt4FileError is notExt4Error for an open file.
func notExt4FileError(name string, f *os.File, err error) error {
	size, serr := f.Seek(0, io.SeekEnd)
	if serr != nil {
		size = 0
	}
	return notExt4Error(name, f, size, err)
}

// notExt4Error makes of an error about an image of size bytes (0: not known) that has no ext4 file
// system one that says what the image is and what to do. Other errors it returns as they are.
func notExt4Error(name string, r io.ReaderAt, size int64, err error) error {
	if !errors.Is(err, ext4.ErrNoFileSystem) {
		return err
	}
	kind, kerr := imagekind.Identify(r, size)
	if kerr != nil {
		return err
	}
	if kind.Name == "" {
		return driver.Errorf(vole.ErrCorrupt, "%v, and it is of no kind that Vole knows", ext4.ErrNoFileSystem)
	}
	refused := driver.Errorf(vole.ErrUnsupported, "it is %s, not an ext4 file system", kind.Name)
	hint := ""
	switch kind.Class {
	case imagekind.Empty:
		return &hinted{driver.Errorf(vole.ErrCorrupt, "it is %s, not an ext4 file system", kind.Name),
			"'vole create NAME --kind disk --size SIZE' makes a new disk volume"}
	case imagekind.VirtualDisk:
		hint = "'" + kind.Tool + " " + name + " FILE.raw'"
		hint += " makes a raw image, of which 'vole disk import FILE.raw NAME' takes a file system, with --partition N if it has partitions"
	case imagekind.Compressed:
		refused = driver.Errorf(vole.ErrUnsupported, "it is compressed (%s)", kind.Name)
		hint = "'" + kind.Tool + " " + name + " | vole disk import - NAME' imports what it holds"
	case imagekind.Archive:
		hint = "unpack it; 'vole create NAME --from DIR' makes a volume of the files in a directory"
	case imagekind.Tar:
		hint = "'vole create NAME --from ARCHIVE' makes a volume of the files of a tar archive"
	case imagekind.Partitioned:
		hint = partitionHint(name, r, size)
	case imagekind.Layer:
		hint = "open it, and import the device that then has the file system: 'vole disk import /dev/mapper/DEVICE NAME'"
	case imagekind.NoFiles:
		hint = "there are no files in it; perhaps another partition or file was meant"
	case imagekind.FileSystem:
		hint = "mount it, and copy its files: 'vole cp DIR NAME:/'"
	default:
		return err
	}
	return &hinted{refused, hint}
}

// partitionHint is advice on a disk with a partition table.
func partitionHint(name string, r io.ReaderAt, size int64) string {
	hint := "'vole disk import " + name + " NAME --partition N' imports a partition"
	if table, err := imagekind.Partitions(r, size); err == nil && len(table.Partitions) > 0 {
		hint += "; there " + describePartitions(table.Partitions)
	}
	return hint
}
