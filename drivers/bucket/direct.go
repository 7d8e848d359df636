package bucket

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/sqldb"
)

// Request is an HTTP request that its holder may make without credentials, until it expires.
// All of it is signed.
type Request struct {
	Method string
	URL    string
	Header http.Header
}

// Range is a range of a file, and where its bytes are. What no range covers is a hole.
type Range struct {
	Pos, Len int64
	Data     []byte // the bytes, if they are few
	// Get fetches them, if Data is nil. It is nil too if the object has other bytes than the
	// file, which were overwritten or cut off: then read the range through the server.
	Get    *Request
	Offset int64  // where in the object that Get fetches the range begins
	Size   int64  // of that object
	Sums   []byte // CRC-32C of every 64 KiB of that object, 4 bytes each, big-endian
}

// locateData bounds the bytes that one call of Locate returns, unless they are a single range:
// callers may hold many answers in memory.
const locateData = 128 << 10

// Locate says where the bytes of a file are from offset off on, so that a host can fetch them
// from the blob store itself. Requests are valid for ttl, which is at most half of the grace
// time, so that the objects outlive them. next is the offset for the next call, -1 at the end
// of the file. ErrUnsupported: the blob store is a directory.
func (b *Backend) Locate(ctx context.Context, id, path string, off int64, ttl time.Duration) (list []Range, next int64, err error) {
	defer b.ns.metrics.observeSince("locate", time.Now())
	if ttl > b.ns.opts.Grace/2 {
		return nil, 0, driver.Errorf(driver.ErrInvalid, "requests cannot be valid for %v: the most is half the grace time, %v", ttl, b.ns.opts.Grace/2)
	}
	path, err = driver.CleanPath(path)
	if err != nil {
		return nil, 0, err
	}
	if off < 0 {
		return nil, 0, driver.Errorf(driver.ErrInvalid, "offset %d: must not be negative", off)
	}
	if ttl > b.ns.minimumGrace() {
		return nil, 0, driver.Errorf(driver.ErrInvalid, "requests for %v: objects are only kept for %v", ttl, b.ns.minimumGrace())
	}
	fsys, err := b.openVolumeFS(ctx, id, driver.FSOptions{ReadOnly: true})
	if err != nil {
		return nil, 0, err
	}
	defer closeInTime(&fsys.life)
	h, err := fsys.openPath(ctx, path, driver.OpenOptions{})
	if err != nil {
		return nil, 0, err
	}
	defer closeInTime(&h.life)
	if err := b.flushVolumeBestEffort(ctx, parseID(id)); err != nil {
		return nil, 0, err
	}
	window, err := h.inode.windowAt(ctx, off)
	if err != nil {
		return nil, 0, err
	}
	whole, err := h.inode.findWholeBlobs(ctx, window.list)
	if err != nil {
		return nil, 0, err
	}
	data := 0
	for i := range window.list {
		ext := &window.list[i]
		if ext.pos+ext.len <= off {
			continue
		}
		if data += len(ext.data); len(list) > 0 && data > locateData {
			return list, ext.pos, nil
		}
		r, err := b.locateExtent(ctx, ext, whole[string(ext.blob)], ttl)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, r)
	}
	if window.hi < h.inode.committedSize() {
		return list, window.hi, nil
	}
	return list, -1, nil
}

// locateExtent returns the range of an extent. Only if the file has the whole blob is there a
// request for it.
func (b *Backend) locateExtent(ctx context.Context, ext *extent, whole bool, ttl time.Duration) (Range, error) {
	r := Range{Pos: ext.pos, Len: ext.len}
	if ext.data != nil {
		r.Data = make([]byte, ext.len)
		return r, b.readBlobRange(ctx, ext, r.Data, ext.blobPos)
	}
	if !whole {
		return r, nil
	}
	get, err := b.ns.blobs.PresignGet(ctx, blob.Key(b.org, ext.blob), ttl)
	r.Get, r.Offset, r.Size, r.Sums = (*Request)(&get), ext.blobPos, ext.blobSize, ext.sums
	return r, err
}

// findWholeBlobs returns which blobs of some extents the file has to the last byte. A reader
// of the file may have those objects. Others contain what was overwritten or cut off, or bytes
// of another volume that shares blobs with a clone.
func (o *openInode) findWholeBlobs(ctx context.Context, list []extent) (map[string]bool, error) {
	whole := map[string]bool{}
	parts := map[string]*[]chunkRow{} // chunks of this file, by blob that one chunk does not cover
	sizes := map[string]int64{}
	var asks []sqldb.Query
	b, vol := o.fs.b, []byte(o.key.vol)
	for _, x := range list {
		key := string(x.blob)
		switch {
		case x.data != nil || whole[key] || parts[key] != nil:
		case x.blobPos == 0 && x.len == x.blobSize:
			whole[key] = true
		default:
			parts[key], sizes[key] = new([]chunkRow), x.blobSize
			asks = append(asks, sqldb.SelectAll(parts[key], (*chunkRow).scanDest, `SELECT pos, len, blob, blob_pos FROM chunks
				WHERE org = $1 AND blob = $2 AND vol = $3 AND ino = $4 ORDER BY blob_pos`, b.org, x.blob, vol, o.key.ino))
		}
	}
	if len(asks) == 0 {
		return whole, nil
	}
	if err := b.ns.db.RunQueries(ctx, asks...); err != nil {
		return nil, err
	}
	for key, rows := range parts {
		end := int64(0)
		for _, r := range *rows {
			if r.blobPos <= end {
				end = max(end, r.blobPos+r.len)
			}
		}
		whole[key] = end >= sizes[key]
	}
	return whole, nil
}

// Part is a range of a new file, of 1 byte to 8 MiB, whose bytes a host puts into the blob
// store itself.
type Part struct {
	Pos  int64
	Size int64
	Sum  uint32 // CRC-32C of the bytes, which the store checks
	Sums []byte // CRC-32C of every 64 KiB of them, 4 bytes each, big-endian
}

// Reserved is the request that puts a part, and the id that commits it.
type Reserved struct {
	Blob string
	Put  Request
}

// maxReserve bounds how many parts one call reserves.
const maxReserve = 1000

// Reserve registers the blobs of parts and returns the requests that put them, valid for ttl.
// From now on they count as stored. What is not committed within 15 minutes after ttl is
// garbage collected. ErrNoSpace: the organisation has too many bytes that nothing refers to.
func (b *Backend) Reserve(ctx context.Context, parts []Part, ttl time.Duration) ([]Reserved, error) {
	defer b.ns.metrics.observeSince("reserve", time.Now())
	if err := b.checkWritable(ctx); err != nil {
		return nil, err
	}
	if len(parts) > maxReserve {
		return nil, driver.Errorf(driver.ErrInvalid, "%d parts at once; at most %d", len(parts), maxReserve)
	}
	if ttl > b.ns.opts.Grace/2 {
		return nil, driver.Errorf(driver.ErrInvalid, "requests cannot be valid for %v: the most is half the grace time, %v", ttl, b.ns.opts.Grace/2)
	}
	list := make([]Reserved, len(parts))
	reservations := make([]reservation, len(parts))
	for i, p := range parts {
		if err := p.validateSums(); err != nil {
			return nil, err
		}
		// The checksums are fixed now: the store checks the bytes against Sum, and Sums were
		// found to agree with it.
		reservations[i] = reservation{id: newID(), size: max(p.Size, leastReserved), sums: p.Sums, life: ttl + lateRequest}
		put, err := b.ns.blobs.PresignPut(ctx, blob.Key(b.org, reservations[i].id), p.Size, p.Sum, ttl)
		if err != nil {
			return nil, err
		}
		list[i] = Reserved{Blob: rows.FormatID(reservations[i].id), Put: Request(put)}
	}
	_, err := b.ns.reserveBlobs(ctx, b.org, reservations, len(reservations), nil)
	return list, err
}

// leastReserved is the least that a reserved part counts as. However small it is, its row and
// the deletion of an object that may never arrive cost something.
const leastReserved = sumSize

// lateRequest is how long after its signature has expired a request may end that began before.
const lateRequest = 15 * time.Minute

// validateSums checks a part's range, and that Sums give Sum.
func (p *Part) validateSums() error {
	if p.Pos < 0 || p.Size <= 0 || p.Size > chunkSize || p.Pos > maxFileSize-p.Size {
		return driver.Errorf(driver.ErrInvalid, "a part of %d bytes at %d: parts have 1 to %d bytes, within a file of at most %d", p.Size, p.Pos, chunkSize, int64(maxFileSize))
	}
	if want := (p.Size + sumSize - 1) / sumSize * 4; int64(len(p.Sums)) != want {
		return driver.Errorf(driver.ErrInvalid, "a part of %[2]d bytes has %[1]d bytes of checksums; it must have %[3]d", len(p.Sums), p.Size, want)
	}
	if got := blob.CombineChecksums(p.Sums, p.Size); got != p.Sum {
		return driver.Errorf(driver.ErrInvalid, "the checksums of a part's 64 KiB blocks combine to %08x, but its own is %08x", got, p.Sum)
	}
	return nil
}

// CommitFile makes a file of parts that have been put, as FS.WriteFile does of a stream.
// parts[i] was reserved as blobs[i]. Ranges ascend, and what they leave out of size bytes is a
// hole. ErrNotExist: a part was not put. ErrInvalid: a blob was not reserved, was put with
// another size, or is in use.
func (b *Backend) CommitFile(ctx context.Context, id, path string, size int64, parts []Part, blobs []string, opts driver.WriteOptions, under driver.FSOptions) error {
	defer b.ns.metrics.observeSince("commit_file", time.Now())
	path, err := driver.CleanPath(path)
	if err != nil {
		return err
	}
	list, err := b.checkPartsStored(ctx, size, parts, blobs)
	if err != nil {
		return err
	}
	fsys, err := b.openVolumeFS(ctx, id, under)
	if err != nil {
		return err
	}
	defer closeInTime(&fsys.life)
	return fsys.runTxIfWritable(ctx, []string{path}, func(tx *volumeTx) error {
		for _, p := range list {
			if err := tx.checkBlobReserved(p.blob); err != nil {
				return err
			}
		}
		return tx.replaceFile(path, size, list, opts)
	})
}

// checkPartsStored checks parts, and that the store has an object of the right size for each.
// It returns the chunks to commit.
func (b *Backend) checkPartsStored(ctx context.Context, size int64, parts []Part, blobs []string) ([]newChunk, error) {
	if len(parts) != len(blobs) || size < 0 || size > maxFileSize {
		return nil, driver.Errorf(driver.ErrInvalid, "%d parts, %d blobs, a file of %d bytes: each part has a blob, and a file at most %d bytes", len(parts), len(blobs), size, int64(maxFileSize))
	}
	list := make([]newChunk, len(parts))
	end := int64(0)
	twice := map[string]bool{}
	for i, p := range parts {
		if err := p.validateSums(); err != nil {
			return nil, err
		}
		id := parseID(blobs[i])
		if id == nil || twice[string(id)] || p.Pos < end || p.Pos+p.Size > size {
			return nil, driver.Errorf(driver.ErrInvalid, "part %d (%d bytes at %d, blob %q): parts ascend and end within the file, and each has a blob of its own that Reserve returned", i, p.Size, p.Pos, blobs[i])
		}
		end = p.Pos + p.Size
		twice[string(id)] = true
		info, err := b.ns.blobs.Stat(ctx, blob.Key(b.org, id))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, driver.Errorf(driver.ErrNotExist, "part %d was not put", i)
		}
		if err != nil {
			return nil, err
		}
		if info.Size != p.Size {
			return nil, driver.Errorf(driver.ErrInvalid, "part %d was put with %d bytes, not %d", i, info.Size, p.Size)
		}
		list[i] = newChunk{p.Pos, p.Size, &newBlob{id: id, size: p.Size, sums: p.Sums}, 0}
	}
	return list, nil
}

// checkBlobReserved fails unless this organisation has reserved the blob for these bytes, and
// nothing refers to it.
func (tx *volumeTx) checkBlobReserved(b *newBlob) error {
	missing := driver.Errorf(driver.ErrInvalid, "blob %s was not reserved for these bytes, or is in use", rows.FormatID(b.id))
	return tx.RunQueries(sqldb.SelectRow(missing, []any{new(int)}, `SELECT 1 FROM blobs WHERE org = $1 AND id = $2 AND sums = $3 AND size >= $4
		AND data IS NULL AND owner IS NULL AND expires IS NOT NULL AND freed IS NOT NULL`, tx.b.org, b.id, b.sums, b.size))
}
