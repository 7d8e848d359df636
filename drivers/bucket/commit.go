package bucket

import (
	"context"
	"errors"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/budget"
)

const (
	// maxFresh is how much may have been written to a file before it is committed.
	maxFresh = 32 << 20
	// maxFreshAll is how much to all files of the process, before that of each that is
	// written to is committed.
	maxFreshAll = 256 << 20
)

// write keeps what is written until it is committed; full says that it should be now.
func (n *node) write(ctx context.Context, f *fileSystem, p []byte, off int64) (full bool, err error) {
	for {
		n.mu.Lock()
		if n.bytes >= 2*maxFresh {
			// It could not be committed before, and does not grow without bounds.
			n.mu.Unlock()
			if err := n.flushFor(ctx, f); err != nil {
				return false, err
			}
			continue
		}
		if len(n.fresh) == 0 || sameRights(n.writer, f) {
			n.fresh, n.writer = n.fresh.write(off, p), f
			n.mtime = time.Now().UnixNano()
			n.bytes += int64(len(p))
			all := f.b.ns.fresh.Add(int64(len(p)))
			room := n.hold(int64(len(p)))
			full = n.bytes >= maxFresh || all >= maxFreshAll || !room
			n.mu.Unlock()
			return full, nil
		}
		n.mu.Unlock()
		if err := n.flushFor(ctx, f); err != nil {
			return false, err
		}
	}
}

// hold takes memory for n bytes more that are not committed; false: there is none. The
// caller holds mu.
func (n *node) hold(size int64) bool {
	m := n.f.b.memory
	if m == nil {
		return true
	}
	if m.Dirty.Load()+size > m.Part(dirtyPart) || !m.Try(budget.Buffer, size) {
		return false
	}
	m.Dirty.Add(size)
	n.held += size
	return true
}

// letGo gives the memory of bytes back that hold took.
func (n *node) letGo(size int64) {
	if m := n.f.b.memory; m != nil {
		m.Dirty.Add(-size)
		m.Release(size)
	}
}

// dirtyPart is the part of an organisation's memory that may be written and not committed:
// the more files are written to at once, the sooner each is committed.
const dirtyPart = 4

// sameRights reports whether what two FSes write may go into one commit.
func sameRights(a, b *fileSystem) bool {
	return string(a.att) == string(b.att) && a.opts.Batch == b.opts.Batch
}

// flushFor commits what was written before f goes on. That another may not commit what
// it wrote is not f's trouble: it is lost, and its own handles are told.
func (n *node) flushFor(ctx context.Context, f *fileSystem) error {
	n.mu.Lock()
	others := n.writer != nil && !sameRights(n.writer, f)
	n.mu.Unlock()
	err := n.flush(ctx)
	if others && hopeless(err) {
		return nil
	}
	return err
}

// hopeless reports whether what a commit refused will be refused for ever: the right to
// write has ended or is another's, or the file is gone.
func hopeless(err error) bool {
	return errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrInUse) || errors.Is(err, driver.ErrNotExist) || errors.Is(err, driver.ErrNotFound)
}

// lose gives up what was written and not committed. Every handle that may have written
// it is told once, by Sync or Close.
func (n *node) lose(why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.fresh) == 0 {
		return
	}
	n.forget()
	n.lost, n.loser = why, n.writer
	n.losses++
}

// forget takes what was written off the books. The caller holds mu.
func (n *node) forget() {
	n.f.b.ns.fresh.Add(-n.bytes)
	n.letGo(n.held)
	n.fresh, n.bytes, n.held = nil, 0, 0
}

// maxFileSize is the largest file: what ext4 takes with blocks of 4 KiB.
const maxFileSize = 1<<44 - 1

var errTooLarge = driver.Errorf(driver.ErrInvalid, "a file has at most %d bytes", int64(maxFileSize))

// row reads the inode as it is now.
func (n *node) row(ctx context.Context) (inode, error) {
	vol := []byte(n.key.vol)
	for {
		var i inode
		var found bool
		n.mu.Lock()
		epoch := n.epoch
		n.mu.Unlock()
		err := n.f.b.ns.db.read(ctx, one(&found, i.dest(), `SELECT `+inodeCols+` FROM inodes i JOIN volumes v ON v.id = i.vol
		WHERE v.org = $1 AND i.vol = $2 AND i.ino = $3 AND v.state <> 'removing'`, n.f.b.org, vol, n.key.ino))
		if err != nil {
			return i, err
		}
		if !found {
			return i, n.f.b.whyGone(ctx, vol)
		}
		n.mu.Lock()
		same := n.epoch == epoch // else what was laid over it may be in neither
		n.show(&i)
		n.mu.Unlock()
		if same {
			return i, nil
		}
	}
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
	n.sending = n.fresh
	list, bytes, held, f, mtime := n.sending, n.bytes, n.held, n.writer, n.mtime
	n.held = 0 // until it is sent
	n.forget()
	n.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	err := n.send(ctx, f, list, mtime)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sending = nil
	n.letGo(held)
	switch {
	case hopeless(err) && ctx.Err() == nil:
		n.lost, n.loser = err, f
		n.losses++
	case err != nil:
		if len(n.fresh) == 0 {
			n.writer = f
		}
		n.fresh = n.fresh.over(list)
		n.bytes += bytes
		n.f.b.ns.fresh.Add(bytes)
		n.hold(held)
	}
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
		n.f.b.abandonBlobs(ctx, parts)
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
	n.f.b.commits.Add(1)
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
	} else if err := b.ns.reserves.takeInline(ctx, b.org, int64(b.ns.opts.Inline)); err != nil {
		return 0, err // what is there already may be written once more
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
		b.abandonBlobs(ctx, blobs)
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
	if size < 0 {
		return negative(size)
	}
	if size > maxFileSize {
		return errTooLarge
	}
	if err := n.flushFor(ctx, f); err != nil {
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
