package transfer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// maxWindow bounds the memory that a zstd or xz stream may ask for (the highest levels of
// both use up to this much).
const maxWindow = 128 << 20

// MagicBytes is how many bytes tell what a stream is compressed with.
const MagicBytes = 4

// compression is what a compressed stream begins with, and how it is read.
type compression struct {
	name, magic string
	open        func(b *bufio.Reader) (io.Reader, error)
}

// compressions are those that are read.
var compressions = []compression{
	{"gzip", "\x1f\x8b", func(b *bufio.Reader) (io.Reader, error) { return gzip.NewReader(b) }},
	{"bzip2", "BZh", func(b *bufio.Reader) (io.Reader, error) { return bzip2.NewReader(b), nil }},
	{"zstd", "\x28\xb5\x2f\xfd", func(b *bufio.Reader) (io.Reader, error) {
		return zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	}},
	{"xz", "\xfd7zX", func(b *bufio.Reader) (io.Reader, error) { return xz.NewReader(b, maxWindow) }},
	{"lz4", "\x04\x22\x4d\x18", func(b *bufio.Reader) (io.Reader, error) { return lz4.NewReader(b), nil }},
	{"lz4", "\x02\x21\x4c\x18", func(b *bufio.Reader) (io.Reader, error) { return lz4.NewReader(b), nil }}, // its older format
}

// unreadable are what streams begin with that are told by name.
var unreadable = []struct{ magic, name string }{
	{"LZIP", "lzip"}, {"\x1f\x9d", "compress (.Z)"}, {"\x5d\x00\x00", "lzma"}, {"\x89LZO", "lzop"},
	{"PK\x03\x04", "zip"}, {"7z\xbc\xaf", "7-zip"}, {"Rar!", "rar"},
}

// isSkippableFrame reports whether a frame begins that zstd and lz4 have readers skip: pzstd says
// in one how long the next frame is.
func isSkippableFrame(magic []byte) bool {
	return len(magic) == MagicBytes && binary.LittleEndian.Uint32(magic)&^0xf == 0x184d2a50
}

// Compressed reports whether Decompress would do something about a stream that begins
// with these four bytes.
func Compressed(magic []byte) bool {
	return isSkippableFrame(magic) || slices.ContainsFunc(compressions, func(c compression) bool { return strings.HasPrefix(string(magic), c.magic) })
}

// Decompress recognises a stream of gzip, bzip2, zstd, xz or lz4 by its first bytes and
// returns its contents; any other stream is returned as it is.
func Decompress(r io.Reader) (io.Reader, error) {
	src := &packedSource{r: r}
	buffered := bufio.NewReaderSize(src, copyBuf)
	magic, err := peekMagicBytes(buffered)
	for err == nil && isSkippableFrame(magic) {
		if err = discardFrame(buffered); err == nil {
			magic, err = peekMagicBytes(buffered)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, c := range compressions {
		if bytes.HasPrefix(magic, []byte(c.magic)) {
			src.format = c.name
			r, err := c.open(buffered)
			if err != nil {
				return nil, src.explainError(err)
			}
			return &decompressed{r, src}, nil
		}
	}
	for _, u := range unreadable {
		if bytes.HasPrefix(magic, []byte(u.magic)) {
			return nil, driver.Errorf(vole.ErrUnsupported, "it is compressed with %s, which is not read; decompress it first, or use gzip, bzip2, zstd, xz or lz4", u.name)
		}
	}
	return buffered, nil
}

// packedSource is what a decompressor reads from.
type packedSource struct {
	r      io.Reader
	format string // the name of the compression
	failed bool
	begun  bool // something was decompressed
}

func (s *packedSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = true
	}
	return n, err
}

// explainError says what an error of the decompressor means, which may be one of the source.
func (s *packedSource) explainError(err error) error {
	switch {
	case err == nil || s.failed || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case !s.begun && errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, xz.ErrMemlimit): // after the first byte it is damage
		return driver.Errorf(vole.ErrUnsupported, "it was compressed with a window of more than %d MiB; decompress it first", maxWindow>>20)
	}
	return &damagedError{s.format, err}
}

// decompressed reads the contents of a compressed stream.
type decompressed struct {
	io.Reader
	src *packedSource
}

func (d *decompressed) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	d.src.begun = d.src.begun || n > 0
	return n, d.src.explainError(err)
}

// damagedError says that a compressed stream is damaged. It is ErrCorrupt, and the error of
// the decompressor.
type damagedError struct {
	format string
	err    error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("it cannot be decompressed (%s): %v", e.format, e.err)
}

func (e *damagedError) Unwrap() []error { return []error{vole.ErrCorrupt, e.err} }

// peekMagicBytes returns the next bytes of b, fewer than MagicBytes at its end.
func peekMagicBytes(b *bufio.Reader) ([]byte, error) {
	magic, err := b.Peek(MagicBytes)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return magic, err
}

// discardFrame reads past a skippable frame: its magic, its length, and so many bytes.
func discardFrame(b *bufio.Reader) error {
	var head [8]byte
	_, err := io.ReadFull(b, head[:])
	if err == nil {
		_, err = io.CopyN(io.Discard, b, int64(binary.LittleEndian.Uint32(head[4:])))
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
