package bucket

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/volehq/vole/driver"
	"golang.org/x/sync/errgroup"
)

const (
	// maxFresh is how much a file may have been written before it is committed.
	maxFresh = 32 << 20
	// putsAtOnce is how many blobs of one file are put at the same time.
	putsAtOnce = 4
)

// handle implements driver.File.
type handle struct {
	b     *Backend
	f     *fileSystem
	n     *node
	name  string // of the path by which it was opened
	opts  driver.OpenOptions
	ahead readAhead

	mu     sync.Mutex // guards closed
	closed bool
}

// Open implements driver.FS.
func (f *fileSystem) Open(ctx context.Context, path string, opts driver.OpenOptions) (driver.File, error) {
	writes := opts.Write || opts.Create || opts.Append || opts.Truncate
	if writes {
		if err := f.enterWrite(ctx); err != nil {
			return nil, err
		}
	}
	for tries := 0; ; tries++ {
		ino, err := f.find(ctx, path, opts)
		if err != nil {
			return nil, err
		}
		h, err := f.open(ctx, ino, baseOf(path), opts)
		// It may go between the look at its name and the hold on it.
		if errors.Is(err, driver.ErrNotExist) && tries < 100 {
			continue
		}
		return h, err
	}
}

// find returns the inode of the file at path, which it makes where opts say so.
func (f *fileSystem) find(ctx context.Context, path string, opts driver.OpenOptions) (int64, error) {
	h := how{follow: !opts.NoFollow && !opts.Exclusive}
	p, err := f.look(ctx, path, h)
	if err != nil {
		return 0, err
	}
	if p.node == nil && opts.Create {
		var made int64
		err := f.change(ctx, []string{path}, func(c *change) error {
			made = 0
			p, err = c.w.resolve(path, h)
			if err != nil || p.node != nil {
				return err
			}
			n := inode{mode: typeFile | permOf(opts.Mode), nlink: 1}
			if opts.Mode == 0 {
				n.mode |= 0o644
			}
			c.add(&p.parent, p.name, &n)
			made = n.ino
			return nil
		})
		if err != nil || made != 0 {
			return made, err
		}
	}
	switch {
	case p.node == nil:
		return 0, driver.ErrNotExist
	case opts.Exclusive:
		return 0, driver.ErrExists
	case p.node.isLink():
		return 0, driver.Errorf(driver.ErrLoop, "a symbolic link, which is not to be followed")
	case p.node.isDir():
		return 0, driver.ErrIsDir
	case !p.node.isFile():
		return 0, driver.Errorf(driver.ErrUnsupported, "neither a file nor a directory: it cannot be opened")
	}
	return p.node.ino, nil
}

func (f *fileSystem) open(ctx context.Context, ino int64, name string, opts driver.OpenOptions) (driver.File, error) {
	n, err := f.b.acquire(ctx, f, ino)
	if err != nil {
		return nil, err
	}
	opts.Write = opts.Write || opts.Create || opts.Append
	h := &handle{b: f.b, f: f, n: n, name: name, opts: opts}
	err = n.load(ctx, 0)
	if err == nil && opts.Truncate {
		err = n.truncate(ctx, f, 0)
	}
	if err == nil {
		err = f.b.keep(h)
	}
	if err != nil {
		return nil, errors.Join(err, f.b.release(ctx, n))
	}
	return h, nil
}

func (h *handle) enter(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return driver.ErrClosed
	}
	return h.b.usable(ctx)
}

func (h *handle) enterWrite(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	if !h.opts.Write {
		return driver.Errorf(driver.ErrReadOnly, "the file is open for reading only")
	}
	return nil
}

// WriteAt implements driver.File.
func (h *handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.enterWrite(ctx); err != nil {
		return 0, err
	}
	if h.opts.Append {
		return 0, driver.Errorf(driver.ErrInvalid, "the file is open for appending; write at its end, or open it without Append")
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off > maxFileSize-int64(len(p)) {
		return 0, errTooLarge
	}
	n := h.n
	n.mu.Lock()
	grows := off+int64(len(p)) > n.size && h.f.hint.Load() > 0
	n.mu.Unlock()
	if grows {
		// Under a quota the room is taken at once, so that it is there when the bytes are
		// committed.
		if err := n.resize(ctx, h.f, off+int64(len(p)), false); err != nil {
			return 0, err
		}
	}
	full, err := n.write(ctx, h.f, p, off)
	if err != nil {
		return 0, err
	}
	if full {
		if err := n.flush(ctx); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

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

// Append implements driver.File.
func (h *handle) Append(ctx context.Context, p []byte) (int64, error) {
	if err := h.enterWrite(ctx); err != nil {
		return 0, err
	}
	if err := h.n.flush(ctx); err != nil {
		return 0, err
	}
	return h.n.append(ctx, h.f, p)
}

// Truncate implements driver.File.
func (h *handle) Truncate(ctx context.Context, size int64) error {
	if err := h.enterWrite(ctx); err != nil {
		return err
	}
	return h.n.truncate(ctx, h.f, size)
}

// PunchHole implements driver.File.
func (h *handle) PunchHole(ctx context.Context, off, length int64) error {
	if err := h.enterWrite(ctx); err != nil {
		return err
	}
	if err := h.n.flush(ctx); err != nil {
		return err
	}
	return h.n.punch(ctx, h.f, off, length)
}

// Stat implements driver.File.
func (h *handle) Stat(ctx context.Context) (driver.Entry, error) {
	if err := h.enter(ctx); err != nil {
		return driver.Entry{}, err
	}
	i, err := h.n.row(ctx)
	if err != nil {
		return driver.Entry{}, err
	}
	return i.entry(h.name), nil
}

// Sync implements driver.File.
func (h *handle) Sync(ctx context.Context) error {
	if err := h.enter(ctx); err != nil {
		return err
	}
	return h.n.flush(ctx)
}

// Close implements driver.File.
func (h *handle) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return h.close(ctx)
}

func (h *handle) close(ctx context.Context) error {
	h.mu.Lock()
	was := h.closed
	h.closed = true
	h.mu.Unlock()
	if was {
		return nil
	}
	h.ahead.stop()
	h.b.forget(h)
	err := h.n.flush(ctx)
	if err != nil {
		// It was told; what cannot be committed is not kept for the next handle.
		h.n.mu.Lock()
		h.n.fresh = nil
		h.n.mu.Unlock()
	}
	return errors.Join(err, h.b.release(ctx, h.n))
}

func (h *handle) closeWith(ctx context.Context) error { return h.close(ctx) }

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
			holes[j] = span{p.pos, p.pos + p.blob.size}
		}
		freed, err := c.punchOut(i.ino, holes...)
		if err != nil {
			return err
		}
		alloc -= freed
		for _, p := range parts {
			c.chunk(i.ino, p)
			alloc += p.blob.size
		}
		c.later(`UPDATE inodes SET size = $3, alloc = $4, mtime = $5, ctime = $6 WHERE vol = $1 AND ino = $2`,
			c.vol, i.ino, size, alloc, mtime, c.now)
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

// part is a blob and where in a file it belongs.
type part struct {
	pos  int64
	blob *newBlob
}

// putAll makes blobs of pieces, several at a time.
func (b *Backend) putAll(ctx context.Context, list pieces) ([]part, error) {
	var parts []part
	for _, p := range list {
		for off := 0; off < len(p.data); off += chunkSize {
			data := p.data[off:min(off+chunkSize, len(p.data))]
			parts = append(parts, part{p.pos + int64(off), &newBlob{data: data}})
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(putsAtOnce)
	for i := range parts {
		g.Go(func() (err error) {
			parts[i].blob, err = b.put(ctx, parts[i].blob.data)
			return err
		})
	}
	return parts, g.Wait()
}

// chunk lets a file have a blob at a range that is a hole.
func (c *change) chunk(ino int64, p part) {
	c.b.use(c, p.blob)
	c.later(`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, $3, $4, $5, $6, 0)`,
		c.vol, ino, p.pos, p.blob.size, c.b.org, p.blob.id)
}

// chunkRow is one row of chunks.
type chunkRow struct {
	pos, len int64
	blob     []byte
	blobPos  int64
}

func (r *chunkRow) dest() []any { return []any{&r.pos, &r.len, &r.blob, &r.blobPos} }

// span is a range of a file.
type span struct{ pos, end int64 }

// punchOut makes ranges of a file holes, and returns how many bytes were there. The
// ranges ascend. They are taken at once, because what is queued for the commit is not
// yet seen by a look at the rows, and two of them may be in one chunk.
func (c *change) punchOut(ino int64, holes ...span) (freed int64, err error) {
	lists := make([][]chunkRow, len(holes))
	asks := make([]query, len(holes))
	for i, h := range holes {
		asks[i] = all(&lists[i], (*chunkRow).dest, `SELECT pos, len, blob, blob_pos FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos > $3 AND pos < $4 AND pos + len > $5 ORDER BY pos`, c.vol, ino, h.pos-chunkSize, h.end, h.pos)
	}
	if err := c.run(asks...); err != nil {
		return 0, err
	}
	last := int64(-1)
	for i, list := range lists {
		for _, r := range list {
			if r.pos > last { // else it was in the range before, too
				freed += c.cutOut(ino, r, holes[i:])
				last = r.pos
			}
		}
	}
	return freed, nil
}

// cutOut takes ranges out of a chunk, and returns how many bytes that was.
func (c *change) cutOut(ino int64, r chunkRow, holes []span) (freed int64) {
	c.later(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos = $3`, c.vol, ino, r.pos)
	keep := func(pos, end int64) {
		if pos < end {
			c.again(ino, chunkRow{pos, end - pos, r.blob, r.blobPos + pos - r.pos})
		}
	}
	at, end := r.pos, r.pos+r.len
	for _, h := range holes {
		if h.pos >= end {
			break
		}
		keep(at, h.pos)
		freed += min(h.end, end) - max(h.pos, r.pos)
		at = h.end
	}
	keep(at, end)
	if freed == r.len {
		c.later(`UPDATE blobs SET freed = {now} WHERE org = $1 AND id = $2`, c.b.org, r.blob)
	}
	return freed
}

func (c *change) again(ino int64, r chunkRow) {
	c.later(`INSERT INTO chunks (vol, ino, pos, len, org, blob, blob_pos) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		c.vol, ino, r.pos, r.len, c.b.org, r.blob, r.blobPos)
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
			parts[j] = part{at + x.pos, x.blob}
		}
		if len(blobs) == 0 && len(p) > 0 {
			last, err := c.lengthen(i, p)
			if err != nil {
				return err
			}
			parts = []part{last}
		}
		for _, x := range parts {
			c.chunk(i.ino, x)
		}
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
		return part{i.size, &newBlob{id: newID(), size: int64(len(p)), data: p}}, nil
	}
	c.later(`DELETE FROM chunks WHERE vol = $1 AND ino = $2 AND pos = $3`, c.vol, i.ino, r.pos)
	c.later(`UPDATE blobs SET freed = {now} WHERE org = $1 AND id = $2`, c.b.org, r.blob)
	both := append(append(make([]byte, 0, int(r.len)+len(p)), data[r.blobPos:r.blobPos+r.len]...), p...)
	return part{r.pos, &newBlob{id: newID(), size: int64(len(both)), data: both}}, nil
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

// cutAt takes away what a file has from pos on, and returns how many bytes that was.
func (c *change) cutAt(ino, pos int64) (freed int64, err error) {
	var r chunkRow
	var through, sum bool
	err = c.run(
		one(&through, r.dest(), `SELECT pos, len, blob, blob_pos FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos > $3 AND pos < $4 AND pos + len > $4`, c.vol, ino, pos-chunkSize, pos),
		one(&sum, []any{&freed}, `SELECT CAST(coalesce(sum(len), 0) AS BIGINT) FROM chunks
			WHERE vol = $1 AND ino = $2 AND pos >= $3`, c.vol, ino, pos))
	c.freeFrom(ino, pos)
	if through {
		c.later(`UPDATE chunks SET len = $4 WHERE vol = $1 AND ino = $2 AND pos = $3`, c.vol, ino, r.pos, pos-r.pos)
		freed += r.pos + r.len - pos
	}
	return freed, err
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

// NextData implements driver.File.
func (h *handle) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := h.enter(ctx); err != nil {
		return 0, 0, err
	}
	if !h.n.f.opts.ReadOnly {
		if err := h.n.flush(ctx); err != nil {
			return 0, 0, err
		}
	}
	i, err := h.n.row(ctx)
	if err != nil {
		return 0, 0, err
	}
	for start = -1; ; {
		w, err := h.n.chunksAt(ctx, off)
		if err != nil {
			return 0, 0, err
		}
		for _, x := range w.list {
			switch {
			case x.pos+x.len <= off:
			case start < 0:
				start, end = max(off, x.pos), x.pos+x.len
			case x.pos > end:
				return start, min(end, i.size), nil
			default:
				end = x.pos + x.len
			}
		}
		if w.hi >= i.size {
			if start < 0 || start >= i.size {
				return 0, 0, io.EOF
			}
			return start, min(end, i.size), nil
		}
		off = w.hi
		if start >= 0 && end < w.hi {
			return start, end, nil
		}
	}
}

// Truncate implements driver.FS.
func (f *fileSystem) Truncate(ctx context.Context, path string, size int64) error {
	h, err := f.Open(ctx, path, driver.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	return errors.Join(h.Truncate(ctx, size), h.Close())
}
