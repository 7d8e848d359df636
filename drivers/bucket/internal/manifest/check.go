package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/filemode"
)

// checker checks the records of one manifest, one after the other.
type checker struct {
	head      Head
	last      [kindCount]*Record // the last record of each kind
	fileBytes int64              // sum of the sizes of files
}

var errOrder = errors.New("a duplicate record, or one out of order")

// checkRecord checks a record by itself, and that it comes after the last one of its kind. The
// trailer is checked by the reader.
func (c *checker) checkRecord(r *Record, kind int) (err error) {
	last := c.last[kind]
	c.last[kind] = r
	switch kind {
	case kindHead:
		c.head = *r.Head
		return r.Head.validateHead()
	case kindBlob:
		if last != nil && bytes.Compare(r.Blob.ID, last.Blob.ID) <= 0 {
			return errOrder
		}
		return r.Blob.validateBlob()
	case kindInode:
		if last == nil && r.Inode.Ino != RootIno {
			return errors.New("the root inode is missing")
		}
		if last != nil && r.Inode.Ino <= last.Inode.Ino {
			return errOrder
		}
		return c.checkInode(r.Inode)
	case kindEntry:
		if last != nil && !isOrderedAfter(r.Entry.Parent, r.Entry.Name, last.Entry.Parent, last.Entry.Name) {
			return errOrder
		}
		return c.checkEntry(r.Entry)
	case kindXattr:
		if last != nil && !isOrderedAfter(r.Xattr.Ino, r.Xattr.Name, last.Xattr.Ino, last.Xattr.Name) {
			return errOrder
		}
		return c.checkXattr(r.Xattr)
	case kindChunk:
		if last != nil && (r.Chunk.Ino < last.Chunk.Ino || r.Chunk.Ino == last.Chunk.Ino && r.Chunk.Pos < last.Chunk.Pos+last.Chunk.Len) {
			return errOrder
		}
		return c.checkChunk(r.Chunk)
	case kindOrphan:
		if last != nil && r.Orphan.Ino <= last.Orphan.Ino {
			return errOrder
		}
		return c.checkInodeNumber(r.Orphan.Ino)
	}
	return nil
}

// isOrderedAfter reports whether a key of an inode number and a name comes after the last one.
func isOrderedAfter(ino int64, name []byte, lastIno int64, lastName []byte) bool {
	return ino > lastIno || ino == lastIno && bytes.Compare(name, lastName) > 0
}

// validateHead checks the numbers, names and labels of the head.
func (h *Head) validateHead() error {
	if h.Format != format || h.Version != version {
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
	if h.Quota < 0 || h.NextIno < 2 || h.NextIno > MaxGeneration || h.Generation < 0 || h.Generation > MaxGeneration {
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

// validateBlob checks a blob by itself.
func (b *Blob) validateBlob() error {
	if len(b.ID) != 16 {
		return errors.New("a blob without an id")
	}
	if b.Size < 1 || b.Size > blob.MaxSize {
		return fmt.Errorf("a blob of %d bytes", b.Size)
	}
	sums := 4 * int((b.Size+blob.SumSize-1)/blob.SumSize)
	if b.Data != nil && (int64(len(b.Data)) != b.Size || b.Sums != nil) || b.Data == nil && len(b.Sums) != sums {
		return errors.New("a blob's bytes or checksums do not match its size")
	}
	return nil
}

// checkInodeNumber checks that a number is one of the volume's inodes.
func (c *checker) checkInodeNumber(ino int64) error {
	if ino < RootIno || ino >= c.head.NextIno {
		return fmt.Errorf("inode %d is not in the range up to %d", ino, c.head.NextIno-1)
	}
	return nil
}

// checkInode checks an inode.
func (c *checker) checkInode(n *Inode) error {
	if err := c.checkInodeNumber(n.Ino); err != nil {
		return err
	}
	typ := n.Mode & filemode.TypeMask
	switch typ {
	case filemode.Fifo, filemode.Char, filemode.Dir, filemode.Block, filemode.File, filemode.Link, filemode.Socket:
	default:
		return fmt.Errorf("mode %o has no type", n.Mode)
	}
	if n.Mode&^(filemode.TypeMask|0o7777) != 0 || n.Ino == RootIno && typ != filemode.Dir {
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
	if typ == filemode.File {
		if n.Size > math.MaxInt64-c.fileBytes {
			return errors.New("all files together have more bytes than can be counted")
		}
		c.fileBytes += n.Size
	}
	isLink := typ == filemode.Link
	if isLink != (n.Target != nil) || isLink && (len(n.Target) == 0 || len(n.Target) > maxTarget || bytes.IndexByte(n.Target, 0) >= 0) {
		return errors.New("an invalid target of a symbolic link")
	}
	return nil
}

// checkEntry checks a directory entry. Any name is accepted.
func (c *checker) checkEntry(e *Entry) error {
	if err := errors.Join(c.checkInodeNumber(e.Parent), c.checkInodeNumber(e.Ino)); err != nil {
		return err
	}
	if e.Ino == RootIno || e.Ino == e.Parent {
		return fmt.Errorf("inode %d contains itself", e.Ino)
	}
	return nil
}

// checkXattr checks an attribute.
func (c *checker) checkXattr(x *Xattr) error {
	if err := c.checkInodeNumber(x.Ino); err != nil {
		return err
	}
	rest, isUser := bytes.CutPrefix(x.Name, []byte("user."))
	if !isUser || len(rest) == 0 || len(x.Name) > 255 || bytes.IndexByte(x.Name, 0) >= 0 || len(x.Value) > MaxXattrs {
		return fmt.Errorf("%.64q is not a valid attribute", x.Name)
	}
	return nil
}

// checkChunk checks a chunk.
func (c *checker) checkChunk(k *Chunk) error {
	if err := c.checkInodeNumber(k.Ino); err != nil {
		return err
	}
	if len(k.Blob) != 16 || k.Len < 1 || k.Len > blob.MaxSize || k.Pos < 0 || k.Pos > math.MaxInt64-k.Len || k.BlobPos < 0 || k.BlobPos > blob.MaxSize-k.Len {
		return errors.New("a chunk with an invalid range")
	}
	return nil
}
