package bucket

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"golang.org/x/sync/errgroup"
)

// WriteFile implements driver.FS. Blobs are put while the source is read; the file appears
// with the commit.
func (fsys *volumeFS) WriteFile(ctx context.Context, path string, r io.Reader, opts driver.WriteOptions) (int64, error) {
	defer fsys.b.ns.metrics.observeSince("fs_write_file", time.Now())
	if err := fsys.checkWritable(ctx); err != nil {
		return 0, err
	}
	if err := opts.RefuseMeta(); err != nil {
		return 0, err
	}
	if opts.Size > maxFileSize {
		return 0, errTooLarge
	}
	if opts.Size > 0 && fsys.quotaHint.Load() > 0 {
		if err := fsys.precheckQuota(ctx, path, opts.Size); err != nil {
			return 0, err
		}
	}
	if err := fsys.b.ns.checkPuttable(opts); err != nil {
		return 0, err
	}
	if opts.Size < 0 {
		return 0, negativeError(opts.Size)
	}
	up := newBlobUpload(ctx, fsys, opts.Size)
	size, err := up.uploadSource(r, opts)
	err = cmp.Or(err, up.group.Wait())
	parts := up.chunks
	if err == nil && size > maxFileSize {
		err = errTooLarge
	}
	if err == nil {
		err = fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error { return tx.replaceFile(path, size, parts, opts) })
	}
	if err != nil {
		fsys.b.abandonBlobs(ctx, parts)
		return 0, err
	}
	return size, nil
}

// precheckQuota refuses a file that will not fit, before its bytes are uploaded. The commit
// checks again.
func (fsys *volumeFS) precheckQuota(ctx context.Context, path string, size int64) error {
	row, err := fsys.b.getVolume(ctx, driver.ByID(rows.FormatID(fsys.vol)))
	if err != nil {
		return err
	}
	fsys.quotaHint.Store(row.quota)
	if row.quota == 0 || size <= row.quota-row.used {
		return nil
	}
	old := int64(0)
	target, err := fsys.resolvePath(ctx, path, resolveMode{allowMissingParents: true})
	if err != nil {
		return err
	}
	if target.node != nil && target.node.isRegular() && target.node.nlink == 1 {
		old = target.node.size
	}
	if size > row.quota-row.used+old {
		return driver.Errorf(driver.ErrQuota, "%d bytes do not fit: the quota is %v, and %v are free", size, driver.Size(row.quota), driver.Size(max(0, row.quota-row.used)))
	}
	return nil
}

// replaceFile replaces the file at path by a new one of chunks.
func (tx *volumeTx) replaceFile(path string, size int64, parts []newChunk, opts driver.WriteOptions) error {
	target, err := tx.walker.resolve(path, resolveMode{allowMissingParents: true})
	if err != nil {
		return err
	}
	n := inode{mode: typeFile | 0o644, nlink: 1, size: size}
	if target.node != nil {
		if opts.Exclusive {
			return driver.ErrExists
		}
		if target.node.isDir() {
			return driver.ErrIsDir
		}
		if target.node.isRegular() {
			n.mode = target.node.mode
		}
	}
	if opts.Mode != 0 {
		n.mode = typeFile | permissionBits(opts.Mode)
	}
	for _, x := range parts {
		n.alloc += x.len
	}
	tx.sizeDelta += size
	tx.replaceInode(&target, &n)
	tx.addChunks(n.ino, parts)
	return nil
}

// replaceInode creates n under the name of target, in place of the inode that has it, and
// creates missing parents.
func (tx *volumeTx) replaceInode(target *resolved, n *inode) {
	dir := tx.makeMissingParents(target, 0o755)
	if target.node == nil {
		tx.createInode(dir, target.name, n)
		return
	}
	n.ino = tx.allocateInodeNumber()
	n.atime, n.mtime, n.ctime = tx.now, tx.now, tx.now
	tx.insertInode(n)
	tx.QueueExec(`UPDATE dirents SET ino = $4 WHERE vol = $1 AND parent = $2 AND name = $3`, tx.vol, dir.ino, []byte(target.name), n.ino)
	tx.noteTouchedDir(dir.ino, 0)
	tx.unlinkInode(target.node)
}

// blobUpload turns a stream into blobs.
type blobUpload struct {
	fs       *volumeFS
	ctx      context.Context // of the one call that the upload is for
	group    *errgroup.Group // the puts under way
	chunks   []newChunk
	sizeHint int64 // size of the stream; 0: unknown
	total    int64 // bytes read so far
}

// newBlobUpload starts an upload of a source of sizeHint bytes; 0: unknown.
func newBlobUpload(ctx context.Context, fsys *volumeFS, sizeHint int64) *blobUpload {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fsys.b.ns.blobParallelism)
	return &blobUpload{fs: fsys, ctx: ctx, group: g, sizeHint: sizeHint}
}

// uploadSource reads the source, with its holes, and returns the size of the file that it
// makes.
func (up *blobUpload) uploadSource(r io.Reader, opts driver.WriteOptions) (int64, error) {
	if opts.NextData == nil {
		return up.uploadStream(r, 0, -1)
	}
	for {
		off, n, err := opts.NextData(up.ctx)
		if errors.Is(err, io.EOF) {
			return opts.Size, nil
		}
		if err != nil {
			return 0, err
		}
		got, err := up.uploadStream(r, off, n)
		if err != nil {
			return 0, err
		}
		if got < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
}

// uploadStream puts n bytes of r, or all if n is negative, as chunks at pos.
func (up *blobUpload) uploadStream(r io.Reader, pos, n int64) (int64, error) {
	got := int64(0)
	for n < 0 || got < n {
		if err := up.ctx.Err(); err != nil {
			return got, up.cancelCause(err)
		}
		want := int64(chunkSize)
		if n >= 0 {
			want = min(want, n-got)
		} else if expected := up.sizeHint - got; expected > 0 {
			want = min(want-1, expected) + 1 // one byte more than expected shows the end
		} else if got == 0 {
			want = firstRead
		}
		x, err := up.readChunk(r, want)
		if k := int64(len(x.data)); k > 0 {
			up.startPut(pos+got, x)
			got += k
			up.total += k
		} else {
			recycleBuffer(x.data)
			x.releaseMemory()
		}
		if errors.Is(err, io.EOF) {
			return got, nil // the caller sees whether that is enough
		}
		if err != nil {
			return got, err
		}
		if err := up.checkSourceQuota(); err != nil {
			return got, err
		}
	}
	return got, nil
}

// checkSourceQuota stops the upload of a source that is larger than the volume may be.
func (up *blobUpload) checkSourceQuota() error {
	if q := up.fs.quotaHint.Load(); q == 0 || up.total <= q {
		return nil
	}
	row, err := up.fs.b.getVolume(up.ctx, driver.ByID(rows.FormatID(up.fs.vol))) // it may have been raised
	if err != nil {
		return up.cancelCause(err)
	}
	up.fs.quotaHint.Store(row.quota)
	if row.quota > 0 && up.total > row.quota {
		return driver.Errorf(driver.ErrQuota, "the source is larger than the volume's quota of %v", driver.Size(row.quota))
	}
	return nil
}

// firstRead is how much is read of a source of unknown size before its buffer is that of a
// chunk.
const firstRead = 256 << 10

// cancelCause returns the error that ended the upload's context, or err.
func (up *blobUpload) cancelCause(err error) error {
	if c := context.Cause(up.ctx); c != nil {
		return c
	}
	return err
}

// startPut puts a chunk in the background.
func (up *blobUpload) startPut(pos int64, x *chunkBuffer) {
	p := newChunk{pos, int64(len(x.data)), &newBlob{}, 0}
	up.chunks = append(up.chunks, p)
	up.group.Go(func() error {
		defer x.releaseMemory()
		b, err := up.fs.b.putBlob(up.ctx, x.data)
		if err != nil {
			return err // the store may still read the buffer: it is not recycled
		}
		if b.data != nil {
			b.data = slices.Clone(b.data) // it lives in the row
		}
		*p.blob = *b
		recycleBuffer(x.data)
		return nil
	})
}
