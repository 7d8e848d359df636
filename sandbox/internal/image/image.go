// Package image unpacks root file systems from tar files: a plain tar of a root, an
// archive of docker save, or an OCI image archive, each also compressed by gzip or
// zstd; and from directories in the form of an OCI image layout. The content is not trusted: every entry is resolved beneath the target
// directory by the kernel, what is read is bounded, and checksums that the image
// gives are verified.
//
// Device nodes are left out, since a sandbox has its own /dev; setuid and setgid bits
// and extended attributes are, since a sandbox gains nothing by them.
package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// Config is what an image says of the command to run in it. A plain tar says nothing.
type Config struct {
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	User       string
}

// Limits bound what an image may take. Zero fields have the defaults.
type Limits struct {
	// Bytes is of all files unpacked, and of all layers; default 64 GiB. A small file
	// is allowed less: 256 MiB, and 1,100 times its size.
	Bytes   int64
	Entries int64 // of all layers, missing parents included; default 4 million
}

// Options says how to unpack.
type Options struct {
	Limits Limits
	// Chown gives files the owners that the image says; without it, all belong to
	// the caller. An owner that the caller's user namespace lacks is left out.
	Chown bool
	// OS and Arch choose among the images of an OCI index, in Go's words.
	OS, Arch string
	// Digest chooses the manifest of a layout instead.
	Digest string
	Name   string // of the image in errors; "": that of the file
}

// Unpack unpacks the image into dir, an empty directory, using scratch for what must be
// kept meanwhile. The image is a file, or a directory in the form of an OCI layout. Errors
// match ErrCorrupt when it is broken, ErrPathEscape when an entry leads out of dir,
// ErrUnsupported, or ErrNoSpace when a limit is exceeded.
func Unpack(ctx context.Context, file, dir, scratch string, opts Options) (Config, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a fifo
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		err = driver.Errorf(vole.ErrInvalid, "image %s is neither a regular file nor a directory", file)
	}
	if err != nil {
		return Config{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Config{}, err
	}
	defer root.Close()
	u := newUnpacker(ctx, root, opts)
	var cfg Config
	if st.IsDir() {
		cfg, err = u.unpackLayout(file)
	} else {
		cfg, err = u.unpackFile(f, st.Size(), scratch)
	}
	if err == nil {
		err = u.finish()
	}
	return cfg, explainError(cmp.Or(opts.Name, filepath.Base(file)), err)
}

func (u *unpacker) unpackFile(f *os.File, size int64, scratch string) (Config, error) {
	u.limit(size)
	plain, err := decompressToFile(u.ctx, f, scratch, u.opts.Limits)
	if err != nil {
		return Config{}, err
	}
	defer plain.Close()
	return unpackArchive(u.ctx, plain, u)
}

func (u *unpacker) unpackLayout(dir string) (Config, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Config{}, err
	}
	defer root.Close()
	if _, err := root.Stat("index.json"); u.opts.Digest == "" && errors.Is(err, fs.ErrNotExist) {
		return Config{}, driver.Errorf(vole.ErrInvalid, "the directory has no index.json, so it is no OCI layout; for a root file system use --rootfs")
	}
	img, err := openLayout(layoutDir{root}, u.opts)
	if err != nil {
		return Config{}, err
	}
	u.limit(img.compressedSize())
	return unpackImage(u.ctx, layoutDir{root}, img, u)
}

// explainError says of which image an error tells, and that a tar or compressed stream that
// cannot be read is corrupt.
func explainError(image string, err error) error {
	if err == nil {
		return nil
	}
	var kind error
	switch {
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrHeader),
		errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, errStream):
		kind = vole.ErrCorrupt
	default:
		return fmt.Errorf("image %s: %w", image, err)
	}
	return driver.Errorf(kind, "image %s is corrupt: %v", image, err)
}

func (l Limits) maxBytes() int64 {
	if l.Bytes > 0 {
		return l.Bytes
	}
	return 64 << 30
}

func (l Limits) maxEntries() int64 {
	if l.Entries > 0 {
		return l.Entries
	}
	return 4 << 20
}

// errStream marks errors of decompression.
var errStream = errors.New("compressed data is broken")

type streamError struct{ io.Reader }

func (s streamError) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", errStream, err)
	}
	return n, err
}

// decompress returns a reader of what r holds, told by its first bytes, and whether
// that was compressed. The caller closes it.
func decompress(r io.Reader) (io.ReadCloser, bool, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, _ := b.Peek(4) // a shorter file is not compressed
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, true, fmt.Errorf("%w: %w", errStream, err)
		}
		return struct {
			io.Reader
			io.Closer
		}{streamError{z}, z}, true, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, true, fmt.Errorf("%w: %w", errStream, err)
		}
		return struct {
			io.Reader
			io.Closer
		}{streamError{z}, z.IOReadCloser()}, true, nil
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X'}):
		return nil, true, driver.Errorf(vole.ErrUnsupported, "bzip2 and xz are not read; compress with gzip or zstd, or not at all")
	}
	return io.NopCloser(b), false, nil
}

// decompressToFile returns the tar file that f is: f itself, or decompressed into an unnamed file in
// scratch when it is compressed, so that its parts can be read in any order.
func decompressToFile(ctx context.Context, f *os.File, scratch string, limits Limits) (*os.File, error) {
	r, compressed, err := decompress(f)
	if err != nil {
		return nil, err
	}
	if !compressed {
		_, err := f.Seek(0, io.SeekStart)
		return f, err
	}
	defer r.Close()
	tmp, err := os.CreateTemp(scratch, "image-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		tmp.Close()
		return nil, err
	}
	left := limits.maxBytes()
	_, err = io.Copy(tmp, budgetReader{ctxReader{ctx, r}, &left, limits.exceededError})
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err != nil {
		tmp.Close()
		return nil, err
	}
	return tmp, nil
}

// ctxReader ends a long copy when its context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
