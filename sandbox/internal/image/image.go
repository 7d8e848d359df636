// Package image reads images: a plain tar of a root file system, an archive of docker save,
// an OCI image archive, each also compressed (gzip, bzip2, zstd, xz, lz4), and directories in
// the form of an OCI image layout. Package transfer unpacks their layers.
//
// The content is not trusted: what is read is bounded, and the digests that an image gives
// are verified.
package image

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/transfer"
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
// kept while it unpacks. The image is a file, or a directory in the form of an OCI layout. Errors
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
	dst, err := transfer.OpenHost(dir)
	if err != nil {
		return Config{}, err
	}
	defer dst.Close()
	u := &unpacker{ctx: ctx, dst: dst, opts: opts}
	var cfg Config
	if st.IsDir() {
		cfg, err = u.unpackLayout(file)
	} else {
		cfg, err = u.unpackFile(f, st.Size(), scratch)
	}
	if err == nil {
		err = u.layers.Finish(ctx)
	}
	return cfg, explainError(cmp.Or(opts.Name, filepath.Base(file)), err)
}

// unpacker unpacks one image into a directory.
type unpacker struct {
	ctx    context.Context
	dst    *transfer.Host
	opts   Options
	left   int64 // bytes that layers may still have
	layers *transfer.Layers
}

// begin starts to unpack layers, bounded by the size of the image as it is packed.
func (u *unpacker) begin(packedSize int64) {
	u.opts.Limits = u.opts.Limits.scaledToFile(packedSize)
	u.left = u.opts.Limits.Bytes
	u.layers = transfer.NewLayers(u.dst, transfer.LayerOptions{
		Owner: u.opts.Chown, MaxBytes: u.opts.Limits.Bytes, MaxEntries: u.opts.Limits.Entries,
	})
}

// unpackFile unpacks an image file, after decompressing it into scratch if need be.
func (u *unpacker) unpackFile(f *os.File, size int64, scratch string) (Config, error) {
	u.begin(size)
	plain, err := decompressToFile(u.ctx, f, scratch, u.opts.Limits)
	if err != nil {
		return Config{}, err
	}
	defer plain.Close()
	return unpackArchive(u.ctx, plain, u)
}

// unpackLayout unpacks the image of a directory in the form of an OCI layout.
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
	u.begin(img.compressedSize())
	return unpackImage(u.ctx, layoutDir{root}, img, u)
}

// explainError says of which image an error tells, and that a tar or compressed stream that
// cannot be read is corrupt.
func explainError(image string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return driver.Errorf(vole.ErrCorrupt, "image %s is corrupt: %v", image, err)
	}
	return fmt.Errorf("image %s: %w", image, err)
}

// decompressToFile returns the tar file that f is: f itself, or decompressed into an unnamed
// file in scratch when it is compressed, so that its parts can be read in any order.
func decompressToFile(ctx context.Context, f *os.File, scratch string, limits Limits) (*os.File, error) {
	magic := make([]byte, transfer.MagicBytes)
	n, err := f.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r, err := transfer.Decompress(f)
	if err != nil {
		return nil, err
	}
	if !transfer.Compressed(magic[:n]) {
		_, err := f.Seek(0, io.SeekStart)
		return f, err
	}
	tmp, err := os.CreateTemp(scratch, "image-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		tmp.Close()
		return nil, err
	}
	left := limits.Bytes
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

// Read fails with the error of the context once that has ended.
func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
