package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// xattrRecord begins the name of a PAX record that holds an extended attribute
// (star's format, which GNU tar and bsdtar write too).
const xattrRecord = "SCHILY.xattr."

// zstdWindow bounds the memory that a zstd stream may ask for (its --ultra levels use
// up to this much).
const zstdWindow = 128 << 20

// untar unpacks a tar stream into the directory dir of the target. The stream may come
// from whom nobody trusts: names are checked here and resolved beneath the volume's
// root, sizes are limited by the quota.
func (c *copier) untar(ctx context.Context, r io.Reader, dir string) error {
	r, err := decompress(r)
	if err != nil {
		return fmt.Errorf("cp: read the stream: %w", err)
	}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return c.finish(ctx, 0)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("cp: read the tar stream: %w", err)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue // what git archive writes: a comment
		}
		if err := c.entry(ctx, tr, hdr, dir); err != nil {
			return fmt.Errorf("cp: tar entry %q: %w", hdr.Name, err)
		}
	}
}

// What compressed streams begin with.
var (
	gzipMagic  = []byte{0x1f, 0x8b}
	bzip2Magic = []byte("BZh")
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// compressed reports whether a stream that begins so is compressed.
func compressed(magic []byte) bool {
	return bytes.HasPrefix(magic, gzipMagic) || bytes.HasPrefix(magic, bzip2Magic) || bytes.HasPrefix(magic, zstdMagic)
}

// decompress recognises a compressed stream by its first bytes.
func decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, copyBuf)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, bzip2Magic):
		return bzip2.NewReader(b), nil
	case bytes.HasPrefix(magic, zstdMagic):
		return zstd.NewReader(b, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1))
	}
	return b, nil
}

// entry unpacks one entry.
func (c *copier) entry(ctx context.Context, tr *tar.Reader, hdr *tar.Header, dir string) error {
	name, err := driver.CleanPath(hdr.Name)
	if err != nil {
		return err
	}
	at := path.Join(dir, name)
	it := tarItem(hdr)
	write := func() error { return c.special(ctx, at, &it) }
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return c.file(ctx, at, &it, newTarContent(tr))
	case tar.TypeLink:
		old, err := driver.CleanPath(hdr.Linkname)
		if err != nil {
			return err
		}
		write = func() error { return c.hardLink(ctx, path.Join(dir, old), at) }
	case tar.TypeDir, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	default:
		return driver.Errorf(vole.ErrUnsupported, "unknown type %q", hdr.Typeflag)
	}
	err = write()
	// An archive need not have entries for directories. Files make theirs.
	if errors.Is(err, fs.ErrNotExist) {
		if perr := c.to.mkdirAll(ctx, path.Dir(at)); perr == nil {
			err = write()
		}
	}
	return err
}

// tarItem describes an entry as an item.
func tarItem(hdr *tar.Header) item {
	it := item{
		mode: goMode(uint32(hdr.Mode & 0o7777)), size: hdr.Size, uid: hdr.Uid, gid: hdr.Gid, mtime: hdr.ModTime,
		rdev: makedev(uint64(hdr.Devmajor), uint64(hdr.Devminor)), target: hdr.Linkname, nlink: 1,
	}
	it.mode |= map[byte]fs.FileMode{
		tar.TypeDir: fs.ModeDir, tar.TypeSymlink: fs.ModeSymlink, tar.TypeFifo: fs.ModeNamedPipe,
		tar.TypeChar: fs.ModeDevice | fs.ModeCharDevice, tar.TypeBlock: fs.ModeDevice,
	}[hdr.Typeflag]
	it.sparse = hdr.Typeflag == tar.TypeGNUSparse
	for k, v := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			it.sparse = true
		}
		if n, ok := strings.CutPrefix(k, xattrRecord); ok && strings.HasPrefix(n, "user.") {
			if it.xattrs == nil {
				it.xattrs = map[string][]byte{}
			}
			it.xattrs[n] = []byte(v)
		}
	}
	return it
}

// makedev makes a device number as Linux's makedev(3) does.
func makedev(major, minor uint64) uint64 {
	return minor&0xff | (major&0xfff)<<8 | (minor&^0xff)<<12 | (major&^0xfff)<<32
}

func devMajor(dev uint64) uint64 { return dev>>8&0xfff | dev>>32&^0xfff }
func devMinor(dev uint64) uint64 { return dev&0xff | dev>>12&^0xff }

// tarContent reads one entry. archive/tar gives the holes of a sparse one as zeros, so
// nextData looks for blocks of them.
type tarContent struct {
	r    io.Reader
	buf  []byte // a block that nextData read
	rest []byte // what of it Read has still to give
	off  int64
}

const tarBlock = 64 << 10

func newTarContent(r io.Reader) *tarContent { return &tarContent{r: r} }

func (c *tarContent) Close() error { return nil }

func (c *tarContent) Read(p []byte) (int, error) {
	if c.buf == nil {
		return c.r.Read(p)
	}
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *tarContent) nextData(ctx context.Context) (off, n int64, err error) {
	if c.buf == nil {
		c.buf = make([]byte, tarBlock)
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		m, err := io.ReadFull(c.r, c.buf)
		if m == 0 {
			return 0, 0, err
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, 0, err
		}
		off, c.off = c.off, c.off+int64(m)
		if !allZero(c.buf[:m]) {
			c.rest = c.buf[:m]
			return off, int64(m), nil
		}
	}
}

var zeros [tarBlock]byte

func allZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }
