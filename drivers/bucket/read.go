package bucket

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/drivers/bucket/internal/rows"
	"github.com/volehq/vole/internal/budget"
	"github.com/volehq/vole/internal/sqldb"
)

// extent is a chunk with the data needed to read and check its bytes.
type extent struct {
	pos, len int64
	blob     []byte
	blobPos  int64
	blobSize int64
	sums     []byte // of the whole blob, see blob.Checksums
	data     []byte // the extent's bytes, if the blob is inline
}

// extentSize is about how many bytes an extent takes without what it points to.
const extentSize = 128

// memorySize is about how many bytes the extent takes while it is cached.
func (ext *extent) memorySize() int64 {
	return extentSize + int64(cap(ext.blob)+cap(ext.sums)+cap(ext.data))
}

func (ext *extent) scanDest() []any {
	return []any{&ext.pos, &ext.len, &ext.blob, &ext.blobPos, &ext.blobSize, &ext.sums, &ext.data}
}

// extentWindow caches extents of a file: all that reach into [lo, hi).
type extentWindow struct {
	lo, hi int64
	list   []extent
	epoch  int64 // of the file's chunks
	memory int64 // that it takes, about, in bytes
}

const (
	// windowRows is how many extents one load asks for.
	windowRows = 256
	// windowData bounds the bytes of inline blobs in a window of several extents.
	windowData = 1 << 20
	// windowMemoryPart: windows may take a quarter of an organisation's memory, since clients
	// may keep any number of files open.
	windowMemoryPart = 4
	// smallWindow is the size up to which a window is cached if there is any memory at all:
	// an open file can then be read even if another host removes it.
	smallWindow = 8 << 10
)

// selectExtents is followed by a condition. Of an inline blob only the bytes of the extent are
// fetched, since many extents may share it. Rows with impossible numbers get no bytes, so that
// reading them reports corruption.
const selectExtents = `SELECT c.pos, c.len, c.blob, c.blob_pos, b.size, b.sums,
	CASE WHEN c.blob_pos >= 0 AND c.blob_pos <= 1073741823 AND c.len >= 0 AND c.len <= 1073741823
		THEN substr(b.data, CAST(c.blob_pos + 1 AS INTEGER), CAST(c.len AS INTEGER)) ELSE substr(b.data, 1, 0) END AS data
	FROM chunks c JOIN blobs b ON b.org = c.org AND b.id = c.blob`

// selectFile selects a file's size, as the position of a row without a blob, and its extents.
// It is one statement, so that they are of the same state: another host may commit between two.
//
// CAST keeps SQLite from preparing the statement again each time the limit is bound, in order
// to plan with its value. That is half the cost of a small read.
const selectFile = `SELECT i.size AS pos, 0, CAST(NULL AS {bytes}), 0, 0, CAST(NULL AS {bytes}), CAST(NULL AS {bytes})
		FROM inodes i JOIN volumes v ON v.org = $1 AND v.id = i.vol AND v.state <> 'removing' WHERE i.vol = $2 AND i.ino = $3
	UNION ALL SELECT * FROM (` + selectExtents + `
		WHERE c.org = $1 AND c.vol = $2 AND c.ino = $3 AND c.pos > $4 AND c.pos + c.len > $5 ORDER BY c.pos LIMIT CAST($6 AS INTEGER)) x`

// loadWindow reads the file's size and its extents from off on, and caches them. current is
// false, and the window is not usable, if this process committed to the file or a later load
// was answered since it began.
func (o *openInode) loadWindow(ctx context.Context, off int64) (window extentWindow, current bool, err error) {
	o.mu.Lock()
	epoch := o.epoch
	o.loadsStarted++
	turn := o.loadsStarted
	o.mu.Unlock()
	var list []extent
	b, vol := o.fs.b, []byte(o.key.vol)
	err = b.ns.db.RunQueries(ctx, sqldb.SelectAll(&list, (*extent).scanDest, selectFile, b.org, vol, o.key.ino, off-chunkSize, off, windowRows))
	if err != nil {
		return extentWindow{}, false, err
	}
	at := slices.IndexFunc(list, func(x extent) bool { return x.blob == nil })
	if at < 0 {
		return extentWindow{}, false, b.missingInodeError(ctx, vol)
	}
	size := list[at].pos
	list = slices.Delete(list, at, at+1)
	slices.SortFunc(list, func(x, y extent) int { return cmp.Compare(x.pos, y.pos) })
	window = newWindow(off, list, epoch)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.epoch != epoch || turn <= o.lastLoadKept {
		return extentWindow{}, false, nil
	}
	o.size, o.lastLoadKept = size, turn
	o.cacheWindow(window)
	return window, true, nil
}

// newWindow makes a window of the extents that a load from off on has returned.
func newWindow(off int64, list []extent, epoch int64) extentWindow {
	window := extentWindow{lo: off, hi: 1<<63 - 1, epoch: epoch}
	keep, data := 0, 0
	for keep < len(list) {
		if data += len(list[keep].data); keep > 0 && data > windowData {
			break
		}
		keep++
	}
	if keep < len(list) || len(list) == windowRows {
		window.hi = list[keep-1].pos + list[keep-1].len
	}
	window.list = slices.Clone(list[:keep]) // frees the rest of the array
	for i := range window.list {
		window.memory += window.list[i].memorySize()
	}
	return window
}

// cacheWindow replaces the cached window, if there is memory for the new one. The caller holds
// mu.
func (o *openInode) cacheWindow(window extentWindow) {
	o.evictWindow()
	if m := o.fs.b.memory; m != nil {
		full := m.Windows.Load()+window.memory > m.Part(windowMemoryPart)
		if o.closed || full && window.memory > smallWindow || !m.Try(budget.Buffer, window.memory) {
			return
		}
		m.Windows.Add(window.memory)
	}
	o.window = window
}

// evictWindow drops the cached window and returns its memory. The caller holds mu.
func (o *openInode) evictWindow() {
	if m := o.fs.b.memory; m != nil {
		m.Windows.Add(-o.window.memory)
		m.Release(o.window.memory)
	}
	o.window = extentWindow{}
}

// windowAt returns a window that covers off, cached or loaded.
func (o *openInode) windowAt(ctx context.Context, off int64) (extentWindow, error) {
	for {
		o.mu.Lock()
		window, epoch := o.window, o.epoch
		o.mu.Unlock()
		if window.epoch == epoch && len(window.list) > 0 && window.lo <= off && off < window.hi {
			return window, nil
		}
		if window.epoch == epoch && len(window.list) == 0 && window.hi > 0 && window.lo <= off {
			return window, nil // from there on the file is a hole
		}
		window, current, err := o.loadWindow(ctx, off)
		if current || err != nil {
			return window, err
		}
	}
}

// ReadAt implements driver.File.
func (h *handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	defer h.b.ns.metrics.observeSince("file_read_at", time.Now())
	if err := h.enter(ctx); err != nil {
		return 0, err
	}
	defer h.life.Leave()
	if off < 0 {
		return 0, negativeError(off)
	}
	total := 0
	for len(p) > 0 {
		n, err := h.readWithinWindow(ctx, p, off)
		total += n
		if err != nil {
			return total, err
		}
		p, off = p[n:], off+int64(n)
	}
	return total, nil
}

// readWithinWindow reads up to the end of one window. The dirty bytes of this process are laid
// over the committed ones: they are copied under the lock, before the blobs are read, in the
// epoch of the window.
func (h *handle) readWithinWindow(ctx context.Context, p []byte, off int64) (int, error) {
	o := h.inode
	for tries := 0; ; tries++ {
		window, err := o.windowAt(ctx, off)
		if err != nil {
			return 0, err
		}
		o.mu.Lock()
		if o.epoch != window.epoch {
			o.mu.Unlock()
			continue // a flush has ended: its bytes are neither dirty nor in this window
		}
		size := max(o.size, o.dirty.end(), o.flushing.end())
		p := p[:max(0, min(int64(len(p)), size-off, window.hi-off))]
		over := o.copyDirtyWithin(p, off)
		o.mu.Unlock()
		if len(p) == 0 {
			return 0, io.EOF
		}
		clear(p)
		err = h.ahead.readThrough(ctx, h, window, p, off, size)
		if errors.Is(err, fs.ErrNotExist) && tries < 3 {
			// Another host removed or rewrote the file, longer ago than the grace time.
			o.recordCommit(o.committedSize())
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			// The object is missing, not the file: its bytes are lost, or the store is away.
			err = &driver.Fault{Part: driver.Storage, Kind: driver.ErrCorrupt, Err: errors.New(err.Error())}
			if away := o.fs.b.ns.blobs.Ping(ctx); away != nil {
				err = away
			}
		}
		if err != nil {
			return 0, err
		}
		for _, x := range over {
			copy(p[x.pos-off:], x.data)
		}
		return len(p), nil
	}
}

// committedSize is the committed size as this process last saw it.
func (o *openInode) committedSize() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.size
}

// copyDirtyWithin returns copies of the dirty and flushing bytes in the range of p, those to
// lay over others last. The caller holds mu.
func (o *openInode) copyDirtyWithin(p []byte, off int64) dirtyRanges {
	var out dirtyRanges
	for _, ranges := range []dirtyRanges{o.flushing, o.dirty} {
		for _, x := range ranges[ranges.firstEndingAfter(off):] {
			if x.pos >= off+int64(len(p)) {
				break
			}
			lo, hi := max(x.pos, off), min(x.end(), off+int64(len(p)))
			out = append(out, dirtyRange{lo, append([]byte(nil), x.data[lo-x.pos:hi-x.pos]...)})
		}
	}
	return out
}

// readBlobRange reads a range of a blob and checks it. Corruption is a fault of the storage.
func (b *Backend) readBlobRange(ctx context.Context, ext *extent, p []byte, pos int64) error {
	err := b.readVerified(ctx, ext, p, pos)
	if errors.Is(err, driver.ErrCorrupt) && !errors.As(err, new(*driver.Fault)) {
		return &driver.Fault{Part: driver.Storage, Err: err}
	}
	return err
}

// readVerified reads the range widened to whole checksums. A store that returns wrong bytes is
// asked up to three times.
func (b *Backend) readVerified(ctx context.Context, ext *extent, p []byte, pos int64) error {
	if ext.data != nil || ext.blobSize == 0 {
		at := pos - ext.blobPos
		if at < 0 || at > int64(len(ext.data))-int64(len(p)) {
			return driver.Errorf(driver.ErrCorrupt, "blob %s is shorter than the file says", rows.FormatID(ext.blob))
		}
		copy(p, ext.data[at:])
		return nil
	}
	lo := pos / sumSize * sumSize
	hi := min((pos+int64(len(p))+sumSize-1)/sumSize*sumSize, ext.blobSize)
	if pos+int64(len(p)) > hi || hi-lo > chunkSize {
		return driver.Errorf(driver.ErrCorrupt, "blob %s is shorter than the file says", rows.FormatID(ext.blob))
	}
	buf := p
	if lo != pos || hi-lo != int64(len(p)) {
		buf = make([]byte, hi-lo)
	}
	var err error
	for range 3 {
		if err = b.ns.blobs.ReadAt(ctx, blob.Key(b.org, ext.blob), buf, lo); err == nil {
			err = blob.VerifyChecksums(buf, lo, ext.sums)
		}
		if !errors.Is(err, driver.ErrCorrupt) {
			break
		}
		b.ns.metrics.corrupt.Inc()
		b.ns.log.WarnContext(ctx, "blob store: wrong checksum, reading again", "blob", rows.FormatID(ext.blob), "error", err)
	}
	if err == nil && len(buf) != len(p) {
		copy(p, buf[pos-lo:])
	}
	return err
}
