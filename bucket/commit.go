package bucket

import (
	"context"
	"time"

	"github.com/volehq/vole/driver"
)

const (
	// maxFresh is how much a file may have been written before it is committed.
	maxFresh = 32 << 20
	// putsAtOnce is how many blobs of one file are put at the same time.
	putsAtOnce = 4
)

// write keeps what is written until it is committed; full says that it should be now.
func (n *node) write(ctx context.Context, f *fileSystem, p []byte, off int64) (full bool, err error) {
	for {
		n.mu.Lock()
		if len(n.fresh) == 0 || string(n.writer.att) == string(f.att) {
			n.fresh, n.writer = n.fresh.write(off, p), f
			n.mtime = time.Now().UnixNano()
			full = n.fresh.size() >= maxFresh
			n.mu.Unlock()
			return full, nil
		}
		n.mu.Unlock()
		// Each writes under its own rights.
		if err := n.flush(ctx); err != nil {
			return false, err
		}
	}
}

// maxFileSize is the largest file: what ext4 takes with blocks of 4 KiB.
const maxFileSize = 1<<44 - 1

var errTooLarge = driver.Errorf(driver.ErrInvalid, "a file has at most %d bytes", int64(maxFileSize))

// row reads the inode as it is now.
func (n *node) row(ctx context.Context) (inode, error) {
	var i inode
	var found bool
	vol := []byte(n.key.vol)
	err := n.f.b.ns.db.read(ctx, one(&found, i.dest(), `SELECT `+inodeCols+` FROM inodes i JOIN volumes v ON v.id = i.vol
		WHERE v.org = $1 AND i.vol = $2 AND i.ino = $3 AND v.state <> 'removing'`, n.f.b.org, vol, n.key.ino))
	if err != nil {
		return i, err
	}
	if !found {
		return i, n.f.b.whyGone(ctx, vol)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.show(&i)
	return i, nil
}

// whyGone tells a removed file from one of a removed volume.
func (b *Backend) whyGone(ctx context.Context, vol []byte) error {
	if _, err := b.get(ctx, driver.ByID(idText(vol))); err != nil {
		return err
	}
	return driver.Errorf(driver.ErrNotExist, "the file was removed")
}

// flush commits what was written.
func (n *node) flush(ctx context.Context) error {
	n.commit.Lock()
	defer n.commit.Unlock()
	n.mu.Lock()
	n.sending, n.fresh = n.fresh, nil
	list, f, mtime := n.sending, n.writer, n.mtime
	n.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	err := n.send(ctx, f, list, mtime)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.fresh = n.fresh.over(list)
	}
	n.sending = nil
	return err
}

// send makes blobs of pieces and commits them. The caller holds commit.
func (n *node) send(ctx context.Context, f *fileSystem, list pieces, mtime int64) error {
	parts, err := n.f.b.putAll(ctx, list)
	if err != nil {
		return err
	}
	var size int64
	err = n.change(ctx, f, func(c *change, i *inode) error {
		size = i.size
		if end := list.end(); end > i.size {
			c.delta += end - i.size
			size = end
		}
		alloc := i.alloc
		holes := make([]span, len(parts))
		for j, p := range parts {
			holes[j] = span{p.pos, p.pos + p.len}
			alloc += p.len
		}
		freed, err := c.punchOut(i.ino, holes...)
		if err != nil {
			return err
		}
		c.chunks(i.ino, parts)
		c.later(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $6 WHERE vol = $1 AND ino = $2`,
			c.vol, i.ino, size, alloc-freed, mtime, c.now)
		return nil
	})
	if err != nil {
		return err
	}
	n.committed(size)
	n.tidy(ctx, f, list[len(list)-1].pos)
	return nil
}

// tidy compacts where that is due. What was written is committed, so a failure is
// nobody's loss.
func (n *node) tidy(ctx context.Context, f *fileSystem, pos int64) {
	if err := n.compact(ctx, f, pos); err != nil && ctx.Err() == nil {
		n.f.b.ns.log.Warn("compacting a file failed", "volume", idText([]byte(n.key.vol)), "inode", n.key.ino, "error", err)
	}
}

// committed notes the size that a change gave the file, and that its chunks are others.
func (n *node) committed(size int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.size = size
	n.epoch++
}

// change runs fn on the file's row in a transaction.
func (n *node) change(ctx context.Context, f *fileSystem, fn func(c *change, i *inode) error) error {
	return n.f.b.change(ctx, f, nil, func(c *change) error {
		var i inode
		var found bool
		if err := c.run(c.inode(&found, &i, n.key.ino)); err != nil {
			return err
		}
		if !found {
			return driver.Errorf(driver.ErrNotExist, "the file was removed on another host")
		}
		return fn(c, &i)
	})
}

// append adds p at the end of the file, wherever that is.
func (n *node) append(ctx context.Context, f *fileSystem, p []byte) (int64, error) {
	if len(p) > maxAppend {
		return 0, driver.Errorf(driver.ErrInvalid, "%d bytes are too many to append in one step; at most %d", len(p), maxAppend)
	}
	b := n.f.b
	var blobs []part
	var err error
	if len(p) > b.ns.opts.Inline {
		if blobs, err = b.putAll(ctx, pieces{{0, p}}); err != nil {
			return 0, err
		}
	}
	n.commit.Lock()
	defer n.commit.Unlock()
	var at int64
	err = n.change(ctx, f, func(c *change, i *inode) error {
		at = i.size
		if at > maxFileSize-int64(len(p)) {
			return errTooLarge
		}
		parts := make([]part, len(blobs))
		for j, x := range blobs {
			parts[j] = x
			parts[j].pos += at
		}
		if len(blobs) == 0 && len(p) > 0 {
			last, err := c.lengthen(i, p)
			if err != nil {
				return err
			}
			parts = []part{last}
		}
		c.chunks(i.ino, parts)
		c.delta += int64(len(p))
		c.later(`UPDATE inodes SET size = $3, alloc = alloc + $4, mtime = $5, ctime = $5 WHERE vol = $1 AND ino = $2`,
			c.vol, i.ino, at+int64(len(p)), int64(len(p)), c.now)
		return nil
	})
	if err != nil {
		return 0, err
	}
	n.committed(at + int64(len(p)))
	n.tidy(ctx, f, at)
	return at, nil
}

// maxAppend bounds what is put before the file's end is known, in bytes.
const maxAppend = 1 << 30

// lengthen makes a blob of few bytes and, where the file ends with a blob that is in
// its row too, of that one's: a log of short lines is not a blob for each.
func (c *change) lengthen(i *inode, p []byte) (part, error) {
	var r chunkRow
	var data []byte
	var found bool
	err := c.run(one(&found, append(r.dest(), &data), `SELECT c.pos, c.len, c.blob, c.blob_pos, b.data
		FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob
		WHERE c.vol = $1 AND c.ino = $2 AND c.pos + c.len = $3 AND c.pos > $4 AND b.data IS NOT NULL`,
		c.vol, i.ino, i.size, i.size-chunkSize))
	if err != nil {
		return part{}, err
	}
	if !found || r.len+int64(len(p)) > int64(c.b.ns.opts.Inline) || r.blobPos+r.len > int64(len(data)) {
		return rowPart(i.size, p), nil
	}
	c.later(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos = $3`, c.vol, i.ino, r.pos)
	c.later(`UPDATE blobs SET freed = {now} WHERE org = $1 AND id = $2`, c.b.org, r.blob)
	both := append(append(make([]byte, 0, int(r.len)+len(p)), data[r.blobPos:r.blobPos+r.len]...), p...)
	return rowPart(r.pos, both), nil
}

// rowPart is a part whose bytes are to live in their blob's row.
func rowPart(pos int64, data []byte) part {
	n := int64(len(data))
	return part{pos, n, &newBlob{id: newID(), size: n, data: data}, 0}
}

// truncate sets the size, after all that was written before.
func (n *node) truncate(ctx context.Context, f *fileSystem, size int64) error {
	if size > maxFileSize {
		return errTooLarge
	}
	if err := n.flush(ctx); err != nil {
		return err
	}
	return n.resize(ctx, f, size, true)
}

// resize sets the size, or makes the file at least that large.
func (n *node) resize(ctx context.Context, f *fileSystem, size int64, shrink bool) error {
	n.commit.Lock()
	defer n.commit.Unlock()
	var got int64
	err := n.change(ctx, f, func(c *change, i *inode) error {
		got = size
		if !shrink {
			got = max(i.size, size)
		}
		c.delta += got - i.size
		alloc := i.alloc
		if got < i.size {
			freed, err := c.cutAt(i.ino, got)
			if err != nil {
				return err
			}
			alloc -= freed
		}
		c.later(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $5 WHERE vol = $1 AND ino = $2`, c.vol, i.ino, got, alloc, c.now)
		return nil
	})
	if err != nil {
		return err
	}
	n.committed(got)
	return nil
}

// punch makes a range a hole.
func (n *node) punch(ctx context.Context, f *fileSystem, off, length int64) error {
	n.commit.Lock()
	defer n.commit.Unlock()
	var size int64
	err := n.change(ctx, f, func(c *change, i *inode) error {
		size = i.size
		end := i.size
		if length < i.size-min(off, i.size) {
			end = off + length
		}
		if off >= end {
			return nil
		}
		freed, err := c.punchOut(i.ino, span{off, end})
		if err != nil {
			return err
		}
		c.later(`UPDATE inodes SET alloc = alloc - $3, mtime = $4, ctime = $4 WHERE vol = $1 AND ino = $2`, c.vol, i.ino, freed, c.now)
		return nil
	})
	if err != nil {
		return err
	}
	n.committed(size)
	return nil
}
