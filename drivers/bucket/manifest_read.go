package bucket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole/driver"
)

// Kinds of records, as recordKind returns them.
const (
	kindHead = iota
	kindBlob
	kindInode
	kindEntry
	kindXattr
	kindChunk
	kindOrphan
	kindEnd
)

// manifestReader reads a manifest that may contain anything. Each record that it returns is
// valid by itself. Whether records agree with one another is checked in the database.
type manifestReader struct {
	src       *failureTrackingReader
	z         *zstd.Decoder
	r         *bufio.Reader
	line      []byte
	lineCount int // lines read
	sum       hash.Hash

	head      manifestHead
	last      record // the last record of each kind
	kind      int    // of the last line; -1: there was none
	count     manifestCount
	fileBytes int64 // sum of the sizes of files
}

// lineError is the error for a line that is damaged.
func (m *manifestReader) lineError(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, "line %d: %s", m.lineCount, fmt.Sprintf(format, args...))
}

// newManifestReader reads the head, which must be of the volume and generation that the key
// says.
func newManifestReader(r io.Reader, org, vol []byte, generation int64) (*manifestReader, error) {
	src := &failureTrackingReader{r: r}
	z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, err
	}
	m := &manifestReader{src: src, z: z, r: bufio.NewReaderSize(z, 64<<10), sum: sha256.New(), kind: -1}
	rec, err := m.nextRecord()
	if err == nil && rec.Head == nil {
		err = m.lineError("the first record is not a head")
	}
	if err == nil && (!bytes.Equal(m.head.Org, org) || !bytes.Equal(m.head.Volume, vol) || m.head.Generation != generation) {
		err = m.lineError("the head is of generation %d of volume %s of organisation %s, unlike the key",
			m.head.Generation, formatID(m.head.Volume), formatID(m.head.Org))
	}
	if err != nil {
		z.Close()
		return nil, err
	}
	return m, nil
}

func (m *manifestReader) close() { m.z.Close() }

// readLine reads up to the next newline. Memory grows with the bytes that arrive.
func (m *manifestReader) readLine() error {
	m.line = m.line[:0]
	for {
		part, err := m.r.ReadSlice('\n')
		m.line = append(m.line, part...)
		switch {
		case err == nil:
			m.lineCount++
			return nil
		case len(m.line) > maxManifestLine:
			m.lineCount++
			return m.lineError("longer than %d bytes", maxManifestLine)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(m.line) == 0:
			return io.EOF
		case errors.Is(err, io.EOF):
			return driver.Errorf(driver.ErrCorrupt, "it ends in line %d, before its trailer", m.lineCount+1)
		default:
			return m.readError(err)
		}
	}
}

// failureTrackingReader remembers an error of the store. Any other error is damage to the
// object.
type failureTrackingReader struct {
	r   io.Reader
	err error
}

func (s *failureTrackingReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// readError returns the error of the store, or ErrCorrupt if the store had none.
func (m *manifestReader) readError(err error) error {
	if m.src.err != nil {
		return m.src.err
	}
	return driver.Errorf(driver.ErrCorrupt, "after line %d: %v", m.lineCount, err)
}

// nextRecord returns the next record, and io.EOF after the trailer.
func (m *manifestReader) nextRecord() (*record, error) {
	if err := m.readLine(); err != nil {
		if err == io.EOF && m.kind != kindEnd {
			err = driver.Errorf(driver.ErrCorrupt, "it ends after line %d, without its trailer", m.lineCount)
		}
		return nil, err
	}
	var r record
	if err := decodeStrictJSON(m.line, &r); err != nil {
		return nil, m.lineError("%v", err)
	}
	kind := r.recordKind()
	switch {
	case kind < 0:
		return nil, m.lineError("not exactly one record")
	case m.kind < 0 != (kind == kindHead), m.kind == kindEnd, kind < m.kind:
		return nil, m.lineError("a record of this kind must not follow the one before")
	}
	if err := m.checkRecord(&r, kind); err != nil {
		return nil, m.lineError("%v", err)
	}
	m.kind = kind
	if kind != kindEnd {
		m.sum.Write(m.line)
		m.count.countRecord(&r)
	}
	return &r, nil
}

// checkRecord checks a record by itself, and that it comes after the last one of its kind.
func (m *manifestReader) checkRecord(r *record, kind int) error {
	switch kind {
	case kindHead:
		m.head = *r.Head
		return r.Head.validate()
	case kindBlob:
		defer func() { m.last.Blob = r.Blob }()
		return r.Blob.validateAfter(m.last.Blob)
	case kindInode:
		defer func() { m.last.Inode = r.Inode }()
		return m.checkInode(r.Inode)
	case kindEntry:
		defer func() { m.last.Entry = r.Entry }()
		return m.checkEntry(r.Entry)
	case kindXattr:
		defer func() { m.last.Xattr = r.Xattr }()
		return m.checkXattr(r.Xattr)
	case kindChunk:
		defer func() { m.last.Chunk = r.Chunk }()
		return m.checkChunk(r.Chunk)
	case kindOrphan:
		defer func() { m.last.Orphan = r.Orphan }()
		if m.last.Orphan != nil && r.Orphan.Ino <= m.last.Orphan.Ino {
			return errOrder
		}
		return m.checkInodeNumber(r.Orphan.Ino)
	}
	want := m.count
	want.SHA256 = hex.EncodeToString(m.sum.Sum(nil))
	if *r.End != want {
		return fmt.Errorf("the trailer's counts or sum differ from the records")
	}
	return nil
}

var errOrder = errors.New("a duplicate record, or one out of order")

// validate checks the head.
func (h *manifestHead) validate() error {
	if h.Format != manifestFormat || h.Version != manifestVersion {
		return fmt.Errorf("format %q version %d is not supported by this version of vole", h.Format, h.Version)
	}
	if len(h.Org) != 16 || len(h.Volume) != 16 {
		return errors.New("ids are missing")
	}
	if err := driver.ValidateName(h.OrgName); err != nil {
		return fmt.Errorf("the organisation's name: %w", err)
	}
	if err := driver.ValidateName(h.Name); err != nil {
		return fmt.Errorf("the volume's name: %w", err)
	}
	if h.Quota < 0 || h.NextIno < 2 || h.NextIno > maxGeneration || h.Generation < 0 || h.Generation > maxGeneration {
		return errors.New("a number out of range")
	}
	if h.Labels == "" {
		return nil
	}
	labels := driver.Labels{}
	if err := json.Unmarshal([]byte(h.Labels), &labels); err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	return labels.Validate()
}

// validateAfter checks a blob, and that it comes after the last one.
func (b *blobRecord) validateAfter(last *blobRecord) error {
	if len(b.ID) != 16 {
		return errors.New("a blob without an id")
	}
	if last != nil && bytes.Compare(b.ID, last.ID) <= 0 {
		return errOrder
	}
	if b.Size < 1 || b.Size > chunkSize {
		return fmt.Errorf("a blob of %d bytes", b.Size)
	}
	sums := 4 * int((b.Size+sumSize-1)/sumSize)
	if b.Data != nil && (int64(len(b.Data)) != b.Size || b.Sums != nil) || b.Data == nil && len(b.Sums) != sums {
		return errors.New("a blob's bytes or checksums do not match its size")
	}
	return nil
}

// checkInodeNumber checks that a number is one of the volume's inodes.
func (m *manifestReader) checkInodeNumber(ino int64) error {
	if ino < rootIno || ino >= m.head.NextIno {
		return fmt.Errorf("inode %d is not in the range up to %d", ino, m.head.NextIno-1)
	}
	return nil
}

// checkInode checks an inode. The first one must be the root.
func (m *manifestReader) checkInode(n *inodeRecord) error {
	if err := m.checkInodeNumber(n.Ino); err != nil {
		return err
	}
	switch last := m.last.Inode; {
	case last == nil && n.Ino != rootIno:
		return errors.New("the root inode is missing")
	case last != nil && n.Ino <= last.Ino:
		return errOrder
	}
	typ := n.Mode & typeMask
	switch typ {
	case typeFifo, typeChar, typeDir, typeBlock, typeFile, typeLink, typeSocket:
	default:
		return fmt.Errorf("mode %o has no type", n.Mode)
	}
	if n.Mode&^(typeMask|0o7777) != 0 || n.Ino == rootIno && typ != typeDir {
		return fmt.Errorf("mode %o", n.Mode)
	}
	for _, v := range []int64{n.UID, n.GID, n.Nlink} {
		if v < 0 || v > math.MaxUint32 {
			return fmt.Errorf("owner, group or link count of %d", v)
		}
	}
	if n.Size < 0 || n.Alloc < 0 || n.Rdev < 0 {
		return errors.New("a negative size or device")
	}
	if typ == typeFile {
		if n.Size > math.MaxInt64-m.fileBytes {
			return errors.New("all files together have more bytes than can be counted")
		}
		m.fileBytes += n.Size
	}
	if (typ == typeLink) != (n.Target != nil) || typ == typeLink && (len(n.Target) == 0 || len(n.Target) > maxTarget || bytes.IndexByte(n.Target, 0) >= 0) {
		return errors.New("an invalid target of a symbolic link")
	}
	return nil
}

// maxTarget is the longest target of a symbolic link, in bytes: PATH_MAX of Linux.
const maxTarget = 4096

// checkEntry checks a directory entry.
func (m *manifestReader) checkEntry(e *entryRecord) error {
	if err := errors.Join(m.checkInodeNumber(e.Parent), m.checkInodeNumber(e.Ino)); err != nil {
		return err
	}
	// An invalid name is accepted, and replaced when it is loaded: see sanitizeName.
	if e.Ino == rootIno || e.Ino == e.Parent {
		return fmt.Errorf("inode %d contains itself", e.Ino)
	}
	if last := m.last.Entry; last != nil && (e.Parent < last.Parent || e.Parent == last.Parent && bytes.Compare(e.Name, last.Name) <= 0) {
		return errOrder
	}
	return nil
}

// isInvalidName reports whether a file cannot have a name.
func isInvalidName(name string) bool {
	return name == "" || name == "." || name == ".." || len(name) > driver.MaxElemLen || strings.ContainsAny(name, "/\x00")
}

// sanitizeName returns a valid name for a file whose name is invalid: a similar one, made
// unique by a hash.
func sanitizeName(name string) string {
	sum := sha256.Sum256([]byte(name))
	tail := fmt.Sprintf("~%x", sum[:8])
	name = strings.NewReplacer("/", "_", "\x00", "_").Replace(name)
	return name[:min(len(name), driver.MaxElemLen-len(tail))] + tail
}

// shortenForMessage keeps messages readable.
func shortenForMessage(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// checkXattr checks an attribute.
func (m *manifestReader) checkXattr(x *xattrRecord) error {
	if err := m.checkInodeNumber(x.Ino); err != nil {
		return err
	}
	if err := checkXattrName(string(x.Name)); err != nil || len(x.Name) > 255 || bytes.IndexByte(x.Name, 0) >= 0 || len(x.Value) > maxXattrs {
		return fmt.Errorf("%q is not a valid attribute", shortenForMessage(string(x.Name)))
	}
	if last := m.last.Xattr; last != nil && (x.Ino < last.Ino || x.Ino == last.Ino && bytes.Compare(x.Name, last.Name) <= 0) {
		return errOrder
	}
	return nil
}

// checkChunk checks a chunk, and that it does not overlap the last one.
func (m *manifestReader) checkChunk(c *chunkRecord) error {
	if err := m.checkInodeNumber(c.Ino); err != nil {
		return err
	}
	if len(c.Blob) != 16 || c.Len < 1 || c.Len > chunkSize || c.Pos < 0 || c.Pos > math.MaxInt64-c.Len || c.BlobPos < 0 || c.BlobPos > chunkSize-c.Len {
		return errors.New("a chunk with an invalid range")
	}
	if last := m.last.Chunk; last != nil && (c.Ino < last.Ino || c.Ino == last.Ino && c.Pos < last.Pos+last.Len) {
		return errOrder
	}
	return nil
}

// readManifest reads all of a manifest and calls fn with each record before the trailer; fn
// may be nil. ErrCorrupt, with the line: the manifest is damaged or incomplete.
func (ns *Namespace) readManifest(ctx context.Context, org, vol []byte, generation int64, fn func(r *record) error) (manifestHead, error) {
	return ns.scanManifest(ctx, org, vol, generation, func(r *record) error {
		if r.End != nil || fn == nil {
			return nil
		}
		return fn(r)
	})
}

// readManifestSum reads all of a manifest and returns the sum in its trailer.
func (ns *Namespace) readManifestSum(ctx context.Context, org, vol []byte, generation int64) (sum string, err error) {
	_, err = ns.scanManifest(ctx, org, vol, generation, func(r *record) error {
		if r.End != nil {
			sum = r.End.SHA256
		}
		return nil
	})
	return sum, err
}

// scanManifest calls fn with each record of a manifest, the trailer included.
func (ns *Namespace) scanManifest(ctx context.Context, org, vol []byte, generation int64, fn func(r *record) error) (head manifestHead, err error) {
	key := manifestKey(org, vol, generation)
	defer func() {
		if err != nil {
			err = fmt.Errorf("manifest %s: %w", key, err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	obj, err := ns.blobs.Open(ctx, key)
	if err != nil {
		return head, err
	}
	defer obj.Close()
	m, err := newManifestReader(obj, org, vol, generation)
	if err != nil {
		return head, err
	}
	defer m.close()
	for {
		r, err := m.nextRecord()
		if err == io.EOF {
			return m.head, nil
		}
		if err == nil {
			err = fn(r)
		}
		if err != nil {
			return m.head, err
		}
	}
}
