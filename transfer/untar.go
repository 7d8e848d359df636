package transfer

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/filemode"
	"github.com/volehq/vole/internal/sparse"
)

// xattrRecord begins the name of a PAX record that holds an extended attribute
// (star's format, which GNU tar and bsdtar write too).
const xattrRecord = "SCHILY.xattr."

// The name of a PAX record ends at the first "=". GNU tar escapes those of attributes.
var (
	recordEscape   = strings.NewReplacer("%", "%25", "=", "%3D")
	recordUnescape = strings.NewReplacer("%25", "%", "%3D", "=")
)

// FromTar unpacks a tar stream (plain, or compressed as Decompress knows it) into the directory dir of
// dst. The stream is not trusted: names are checked here and resolved beneath the root of
// dst, and a quota limits the storage that it takes. Entries without those of
// their directories make them, 0755.
//
// When it fails, the entries before the failure stay; each file is there whole or not at all.
// ctx is checked between reads of r: a caller that cancels must also end a read that waits.
func FromTar(ctx context.Context, dst Tree, dir string, r io.Reader, opts Options) (Stats, error) {
	c := newCopier(dst, &opts)
	c.pendingIndex = map[string]int{}
	return c.finishCopy(ctx, c.unpackTar(ctx, r, dir))
}

// StreamError says that a stream could not be read: it is no archive, a damaged one, or
// its reader failed.
type StreamError struct {
	what string
	Err  error
}

func (e *StreamError) Error() string { return e.what + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StreamError) Unwrap() error { return e.Err }

// unpackTar implements FromTar.
func (c *copier) unpackTar(ctx context.Context, r io.Reader, dir string) error {
	r, err := Decompress(r)
	if err != nil {
		return &StreamError{c.opts.opName() + ": read the stream", err}
	}
	t := newTarEntries(r)
	for entries := 0; ; entries++ {
		hdr, err := t.nextHeader(ctx)
		end := errors.Is(err, io.EOF)
		if end && !t.filter.ended && !c.opts.AllowTruncated {
			err = missingEndError(t.filter.entries)
		} else if end {
			err = checkArchiveEnd(r, t.filter.entries)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return &StreamError{c.opts.opName() + ": read the tar stream", explainStreamError(err, entries)}
		}
		if end {
			return c.setDirectoryMetadata(ctx, 0)
		}
		global, err := t.applyGlobals(hdr)
		if err == nil && !global {
			err = c.unpackEntry(ctx, t, hdr, dir)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return &StreamError{fmt.Sprintf("%s: tar entry %q: the stream ends in the middle of it", c.opts.opName(), hdr.Name), io.ErrUnexpectedEOF}
		}
		if bad := (*damagedError)(nil); errors.As(err, &bad) {
			return &StreamError{fmt.Sprintf("%s: tar entry %q", c.opts.opName(), hdr.Name), bad}
		}
		if err != nil {
			return fmt.Errorf("%s: tar entry %q: %w", c.opts.opName(), hdr.Name, err)
		}
	}
}

// tarEntries reads a tar stream entry by entry, with what archive/tar leaves to its caller:
// global headers, and sparse files of which only the ranges are read.
type tarEntries struct {
	filter  *sparseFilter
	tar     *tar.Reader
	globals globalRecords
}

func newTarEntries(r io.Reader) *tarEntries {
	f := newSparseFilter(r)
	return &tarEntries{filter: f, tar: tar.NewReader(f)}
}

// nextHeader reads past the rest of an entry and returns the header of the next one. io.EOF:
// the archive has ended, or the stream between two entries.
func (t *tarEntries) nextHeader(ctx context.Context) (*tar.Header, error) {
	_, err := io.Copy(io.Discard, t.tar)
	t.filter.endEntry()
	if err != nil {
		return nil, err
	}
	hdr, err := t.tar.Next()
	if err == nil {
		err = ctx.Err()
	}
	return hdr, err
}

// applyGlobals reports whether an entry is a global header, which it takes; it gives any
// other what global headers before it say.
func (t *tarEntries) applyGlobals(hdr *tar.Header) (global bool, err error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return true, t.globals.addRecords(hdr.PAXRecords)
	}
	if holes := t.filter.file; holes != nil && holes.name != "" {
		hdr.Name = holes.name
	}
	return false, t.globals.applyTo(hdr)
}

// openContent returns the content of a regular file, and completes its description by where
// the file has holes.
func (t *tarEntries) openContent(it *item) (sparse.Content, error) {
	holes := t.filter.file
	if holes == nil {
		return sparse.Stream(t.tar), nil
	}
	content, err := holes.openContent(t.tar, it.size)
	if err != nil {
		return nil, err
	}
	it.size, it.sparse, it.stored = holes.size, true, max(content.data, 1)
	return content, nil
}

// explainStreamError says what an error of archive/tar means for a stream of which so many
// entries were read.
func explainStreamError(err error, entries int) error {
	switch {
	case errors.Is(err, tar.ErrHeader) && entries == 0:
		return driver.Errorf(ErrNoArchive, "it is no tar archive, plain or compressed (gzip, bzip2, zstd, xz, lz4), or a damaged one")
	case errors.Is(err, tar.ErrHeader):
		return driver.Errorf(driver.ErrCorrupt, "the archive is damaged after its entry %d", entries)
	case errors.Is(err, ErrNoEnd):
	case errors.Is(err, io.ErrUnexpectedEOF) && entries == 0:
		return driver.Errorf(io.ErrUnexpectedEOF, "it is no tar archive, or one that is cut off before its first entry: unexpected EOF")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return driver.Errorf(io.ErrUnexpectedEOF, "it ends in the middle of an entry, after %d whole ones: unexpected EOF", entries)
	}
	return err
}

// ErrNoEnd is matched by the error of a stream that ends where an archive does not: its
// producer died, perhaps between two entries.
var ErrNoEnd = fmt.Errorf("the stream ends without the end of an archive: %w", io.ErrUnexpectedEOF)

func missingEndError(entries int) error {
	if entries == 0 {
		return driver.Errorf(ErrNoEnd, "it is empty, not even an empty archive")
	}
	return driver.Errorf(ErrNoEnd, "it ends after %d entries without the end of the archive, so more may be missing", entries)
}

// maxPadding is how many bytes behind the end of an archive are looked at: programs fill
// up their last record, which is 10 KiB for most.
const maxPadding = 1 << 20

// ErrNoArchive is matched by the error of a stream that begins with no header of an archive,
// or like an empty archive, with zeros, and goes on with something else: an image of a file
// system, for example.
var ErrNoArchive = fmt.Errorf("no archive: %w", driver.ErrCorrupt)

// checkArchiveEnd reads the rest of a compressed stream whose archive has ended, for
// the checksum at its end. Behind an archive without entries only padding may follow.
func checkArchiveEnd(r io.Reader, entries int) error {
	if _, plain := r.(*bufio.Reader); plain && entries > 0 {
		return nil
	}
	padding := io.Writer(io.Discard)
	if entries == 0 {
		padding = zerosOnly{}
	}
	_, err := io.CopyN(padding, r, maxPadding)
	if errors.Is(err, io.EOF) || errors.Is(err, gzip.ErrHeader) { // nothing follows, or nothing in gzip
		return nil
	}
	return err
}

// zerosOnly refuses all but zeros.
type zerosOnly struct{}

func (zerosOnly) Write(b []byte) (int, error) {
	for i, c := range b {
		if c != 0 {
			return i, driver.Errorf(ErrNoArchive, "it is no archive: it begins with zeros, and other data follows")
		}
	}
	return len(b), nil
}

// unpackEntry unpacks one entry into the directory dir of the target.
func (c *copier) unpackEntry(ctx context.Context, t *tarEntries, hdr *tar.Header, dir string) error {
	if skip, err := c.skipsEntry(hdr); skip || err != nil {
		return err
	}
	name, err := driver.CleanPath(hdr.Name)
	if err != nil {
		return err
	}
	at := path.Join(dir, name)
	it := itemOfHeader(hdr)
	if err := c.readTarAttrs(at, hdr, &it); err != nil {
		return err
	}
	write := func() error { return c.writeSpecial(ctx, at, &it) }
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont:
		content, err := t.openContent(&it)
		if err != nil {
			return err
		}
		return c.writeFile(ctx, at, &it, content)
	case tar.TypeLink:
		old, err := driver.CleanPath(hdr.Linkname)
		if err != nil {
			return err
		}
		write = func() error { return c.copyHardLink(ctx, path.Join(dir, old), at) }
	}
	err = write()
	// An archive need not have entries for directories. Files make theirs.
	if errors.Is(err, fs.ErrNotExist) {
		parent := path.Dir(at)
		perr := c.reserveRoom(ctx, parentsNeed(parent))
		if perr == nil {
			perr = c.to.makeParentDirs(ctx, parent)
		}
		if perr == nil {
			err = write()
		}
	}
	return err
}

// itemOfHeader describes an entry as an item.
func itemOfHeader(hdr *tar.Header) item {
	it := item{
		mode: filemode.Go(uint32(hdr.Mode & 0o7777)), size: hdr.Size, uid: hdr.Uid, gid: hdr.Gid, mtime: hdr.ModTime,
		rdev: makeDeviceNumber(uint64(hdr.Devmajor), uint64(hdr.Devminor)), target: hdr.Linkname, nlink: 1,
	}
	it.mode |= tarTypes[hdr.Typeflag]
	return it
}

// tarTypes are the types of entries that are neither regular files nor links to one.
var tarTypes = map[byte]fs.FileMode{
	tar.TypeDir: fs.ModeDir, tar.TypeSymlink: fs.ModeSymlink, tar.TypeFifo: fs.ModeNamedPipe,
	tar.TypeChar: fs.ModeDevice | fs.ModeCharDevice, tar.TypeBlock: fs.ModeDevice,
}

// readTarAttrs gives an item the attributes and access lists that its extended header has.
func (c *copier) readTarAttrs(at string, hdr *tar.Header, it *item) error {
	for k, v := range hdr.PAXRecords {
		if n, ok := strings.CutPrefix(k, xattrRecord); ok {
			if n = recordUnescape.Replace(n); isCopiedAttribute(n) {
				it.setAttribute(n, []byte(v))
			}
			continue
		}
		attr := aclRecords[k]
		if _, binary := hdr.PAXRecords[xattrRecord+attr]; attr == "" || binary {
			continue // GNU tar's --xattrs-include='*' has lists of both forms
		}
		list, err := parseACL(v, c.lookupName)
		if err != nil {
			if err := c.opts.leaveOut(c.to.displayPath(at), "the access list", err); err != nil {
				return err
			}
			continue
		}
		it.setAttribute(attr, list)
	}
	return nil
}

// makeDeviceNumber makes a device number as Linux's makedev(3) does.
func makeDeviceNumber(major, minor uint64) uint64 {
	return minor&0xff | (major&0xfff)<<8 | (minor&^0xff)<<12 | (major&^0xfff)<<32
}

func deviceMajor(dev uint64) uint64 { return dev>>8&0xfff | dev>>32&^0xfff }
func deviceMinor(dev uint64) uint64 { return dev&0xff | dev>>12&^0xff }
