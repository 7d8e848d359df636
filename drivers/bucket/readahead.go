package bucket

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/volehq/vole/internal/budget"
)

const (
	// firstReadAhead is how many bytes are prefetched when reads have just become sequential.
	// It doubles with each read.
	firstReadAhead = 512 << 10
	// maxReadAheadTotal bounds the bytes that all handles of a namespace hold prefetched.
	maxReadAheadTotal = 512 << 20
)

// readAhead prefetches, while a handle is read sequentially, what it will read next.
type readAhead struct {
	mu      sync.Mutex  // guards what follows
	next    int64       // offset at which a sequential read goes on
	width   int64       // how many bytes beyond a read are prefetched
	fetches []*prefetch // in ascending order, not overlapping
	stopped bool        // the handle is closed: nothing more is prefetched
}

// prefetch is a range of the file that is being fetched, or was. Its goroutine, the list and
// each read that uses it hold a reference; the last one released returns the buffer.
type prefetch struct {
	pos        int64
	data       []byte
	epoch      int64         // of the file's chunks that it reads
	done       chan struct{} // closed when data, or err, is set
	err        error         // valid once done is closed
	cancel     context.CancelFunc
	budgetUsed *atomic.Int64 // bytes of all prefetches of the namespace
	share      *budget.Share // the memory budget that the buffer counts against
	// refCount is guarded by readAhead.mu.
	refCount int
}

// buffers holds buffers of chunkSize, for prefetches and uploads. A new one for each range
// would have to be zeroed, a fifth of the time it takes to read a long file, and would double
// the memory until it is collected.
var buffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// fetchBufferSize returns the size of the buffer for a prefetch of n bytes: beyond half a
// chunk it is a pooled one.
func fetchBufferSize(n int64) int64 {
	if n > chunkSize/2 {
		return chunkSize
	}
	return n
}

// newPrefetch returns a prefetch with a reference for the list and one for the goroutine. The
// caller has reserved n bytes of budgetUsed and the buffer of share.
func newPrefetch(pos, n, epoch int64, cancel context.CancelFunc, all *atomic.Int64, share *budget.Share) *prefetch {
	return &prefetch{pos: pos, data: allocateBuffer(fetchBufferSize(n))[:n], epoch: epoch, done: make(chan struct{}), cancel: cancel, refCount: 2, budgetUsed: all, share: share}
}

// unref releases a reference. The caller holds readAhead.mu.
func (fetch *prefetch) unref() {
	if fetch.refCount--; fetch.refCount > 0 {
		return
	}
	fetch.budgetUsed.Add(-int64(len(fetch.data)))
	fetch.share.Release(int64(cap(fetch.data)))
	recycleBuffer(fetch.data)
}

// evict cancels a prefetch and releases the list's reference. The caller takes it off the
// list, and holds readAhead.mu.
func (fetch *prefetch) evict() {
	fetch.cancel()
	fetch.unref()
}

func (fetch *prefetch) end() int64 { return fetch.pos + int64(len(fetch.data)) }

// readThrough fills p with the bytes that the window's extents have from off on, prefetched or
// not. p is zeroed: holes stay zero. The window covers p.
func (a *readAhead) readThrough(ctx context.Context, h *handle, window extentWindow, p []byte, off, size int64) error {
	list := a.planPrefetch(h, window, off, int64(len(p)), size)
	defer a.releaseFetches(list)
	end := off + int64(len(p))
	for i := range window.list {
		ext := &window.list[i]
		lo, hi := max(off, ext.pos), min(end, ext.pos+ext.len)
		for lo < hi {
			n, err := a.copyOrRead(ctx, h, list, ext, p[lo-off:hi-off], lo)
			if err != nil {
				return err
			}
			lo += n
		}
	}
	return nil
}

// copyOrRead copies bytes of an extent from the prefetch that has the byte at pos, or reads
// them itself. It returns how many it got, at least one.
func (a *readAhead) copyOrRead(ctx context.Context, h *handle, list []*prefetch, ext *extent, p []byte, pos int64) (int64, error) {
	for _, fetch := range list {
		if pos < fetch.pos {
			p = p[:min(int64(len(p)), fetch.pos-pos)]
			break
		}
		if pos >= fetch.end() {
			continue
		}
		select {
		case <-fetch.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if fetch.err != nil {
			a.evictFailed(fetch)
			break // read it below; if that fails too, the error is returned
		}
		return int64(copy(p, fetch.data[pos-fetch.pos:])), nil
	}
	p = p[:min(int64(len(p)), chunkSize-sumSize)] // aligned to checksums it is at most chunkSize
	return int64(len(p)), h.b.readBlobRange(ctx, ext, p, ext.blobPos+pos-ext.pos)
}

// planPrefetch notes a read of n bytes, and starts the prefetches of what follows if reads are
// sequential. It returns those that may have bytes of this read; the caller releases them.
func (a *readAhead) planPrefetch(h *handle, window extentWindow, off, n, size int64) []*prefetch {
	a.mu.Lock()
	defer a.mu.Unlock()
	// A read up to a chunk before next still counts: two goroutines that read one file may
	// overtake each other.
	sequential := off >= a.next-chunkSize && off <= a.next && (off > 0 || n >= firstReadAhead/2) && a.next > 0 || off == 0 && n >= firstReadAhead/2
	a.next = max(off+n, min(a.next, off+n+chunkSize))
	if !sequential || a.stopped {
		if off != 0 {
			a.width = 0
			a.evictAll()
		}
		return a.acquireFetches(window.epoch)
	}
	keep := a.fetches[:0]
	for _, fetch := range a.fetches {
		if fetch.epoch == window.epoch && fetch.end() > off && fetch.pos <= off+2*int64(h.b.ns.blobParallelism)*chunkSize {
			keep = append(keep, fetch)
		} else {
			fetch.evict()
		}
	}
	clear(a.fetches[len(keep):])
	a.fetches = keep
	a.width = min(max(2*a.width, firstReadAhead, 2*n), int64(h.b.ns.blobParallelism)*chunkSize)
	a.startFetches(h, window, off, min(off+n+a.width, size))
	return a.acquireFetches(window.epoch)
}

// acquireFetches takes a reference on each prefetch of an epoch. The caller holds mu.
func (a *readAhead) acquireFetches(epoch int64) []*prefetch {
	var list []*prefetch
	for _, fetch := range a.fetches {
		if fetch.epoch == epoch {
			fetch.refCount++
			list = append(list, fetch)
		}
	}
	return list
}

// releaseFetches releases the references that acquireFetches took.
func (a *readAhead) releaseFetches(list []*prefetch) {
	if len(list) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, fetch := range list {
		fetch.unref()
	}
}

// startFetches starts prefetches of the extents in [off, end), behind those that are under
// way, as far as the bounds on number and memory allow. The caller holds mu.
func (a *readAhead) startFetches(h *handle, window extentWindow, off, end int64) {
	at := off
	if len(a.fetches) > 0 {
		at = max(at, a.fetches[len(a.fetches)-1].end())
	}
	for i := range window.list {
		ext := &window.list[i]
		if ext.data != nil || ext.pos+ext.len <= at {
			continue
		}
		if ext.pos >= end || len(a.fetches) >= h.b.ns.blobParallelism {
			return
		}
		lo := max(at, ext.pos)
		// A long read fetches to the end of the extent: one request for a whole blob.
		hi := ext.pos + ext.len
		if a.width < chunkSize {
			hi = min(hi, max(end, lo+firstReadAhead))
		}
		all := &h.b.ns.readAheadBytes
		if all.Add(hi-lo) > maxReadAheadTotal {
			all.Add(lo - hi)
			return
		}
		if !h.b.memory.Try(budget.Buffer, fetchBufferSize(hi-lo)) {
			all.Add(lo - hi)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		fetch := newPrefetch(lo, hi-lo, window.epoch, cancel, all, h.b.memory)
		a.fetches = append(a.fetches, fetch)
		go func() {
			fetch.err = h.b.readBlobRange(ctx, ext, fetch.data, ext.blobPos+lo-ext.pos)
			cancel()
			close(fetch.done)
			a.releaseFetches([]*prefetch{fetch})
		}()
		at = hi
	}
}

// evictFailed takes a prefetch that failed off the list.
func (a *readAhead) evictFailed(bad *prefetch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.fetches, bad); i >= 0 {
		bad.evict()
		a.fetches = slices.Delete(a.fetches, i, i+1)
	}
}

// stopPrefetching cancels all prefetches and starts no more.
func (a *readAhead) stopPrefetching() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.evictAll()
}

// evictAll cancels all prefetches. The caller holds mu.
func (a *readAhead) evictAll() {
	for _, fetch := range a.fetches {
		fetch.evict()
	}
	a.fetches = nil
}
