package bucket

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/volehq/vole/internal/budget"
)

const (
	// firstReadAhead is what is fetched ahead when reading has only begun to be sequential.
	firstReadAhead = 512 << 10
	// maxReadAheadTotal is how much all handles of a namespace hold of what they fetched ahead.
	maxReadAheadTotal = 512 << 20
)

// readAhead fetches what a handle is going to ask for next.
type readAhead struct {
	mu      sync.Mutex  // guards what follows
	next    int64       // where a sequential read goes on
	width   int64       // how far ahead is fetched, in bytes
	fetches []*prefetch // in order of the file
	stopped bool
}

// prefetch is a range that is being fetched, or has been.
type prefetch struct {
	pos        int64
	data       []byte
	epoch      int64
	done       chan struct{}
	err        error // set when done is closed
	cancel     context.CancelFunc
	budgetUsed *atomic.Int64 // bytes of all fetches of the namespace
	share      *budget.Share // where the buffer counts
	// refCount are those that may still touch data: what fetches it, the list, and reads.
	// The last one gives it back. Guarded by readAhead.mu.
	refCount int
}

// buffers are of chunkSize, for reading ahead and for uploads. A new one for each range
// would be cleared first, which is a fifth of the work of reading a long file, and would
// take as much memory again until it is collected.
var buffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// fetchBufferSize is the size of the buffer for a fetch of n bytes.
func fetchBufferSize(n int64) int64 {
	if n > chunkSize/2 {
		return chunkSize
	}
	return n
}

func newPrefetch(pos, n, epoch int64, cancel context.CancelFunc, all *atomic.Int64, share *budget.Share) *prefetch {
	f := &prefetch{pos: pos, epoch: epoch, done: make(chan struct{}), cancel: cancel, refCount: 2, budgetUsed: all, share: share}
	if fetchBufferSize(n) == chunkSize {
		f.data = buffers.Get().(*[chunkSize]byte)[:n]
	} else {
		f.data = make([]byte, n)
	}
	return f
}

// unref notes that a user of f is done with it. The caller holds readAhead.mu.
func (f *prefetch) unref() {
	if f.refCount--; f.refCount > 0 {
		return
	}
	f.budgetUsed.Add(-int64(len(f.data)))
	f.share.Release(int64(cap(f.data)))
	if cap(f.data) == chunkSize {
		buffers.Put((*[chunkSize]byte)(f.data[:chunkSize]))
	}
}

// evict is for what is taken off the list. The caller holds readAhead.mu.
func (f *prefetch) evict() {
	f.cancel()
	f.unref()
}

func (f *prefetch) end() int64 { return f.pos + int64(len(f.data)) }

// readThrough fills p, which is cleared, with what the window's extents have from off on.
func (a *readAhead) readThrough(ctx context.Context, h *handle, w extentWindow, p []byte, off, size int64) error {
	list := a.planPrefetch(h, w, off, int64(len(p)), size)
	defer a.releaseFetches(list)
	end := off + int64(len(p))
	for i := range w.list {
		x := &w.list[i]
		lo, hi := max(off, x.pos), min(end, x.pos+x.len)
		for lo < hi {
			n, err := a.copyOrRead(ctx, h, list, x, p[lo-off:hi-off], lo)
			if err != nil {
				return err
			}
			lo += n
		}
	}
	return nil
}

// copyOrRead reads from what is being fetched if it has the first byte, and by itself
// otherwise.
func (a *readAhead) copyOrRead(ctx context.Context, h *handle, list []*prefetch, x *extent, p []byte, pos int64) (int64, error) {
	for _, f := range list {
		if pos < f.pos {
			p = p[:min(int64(len(p)), f.pos-pos)]
			break
		}
		if pos >= f.end() {
			continue
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if f.err != nil {
			a.evictFailed(f)
			break // it is read below, and fails there if it must
		}
		return int64(copy(p, f.data[pos-f.pos:])), nil
	}
	p = p[:min(int64(len(p)), chunkSize-sumSize)] // aligned outwards it is no more than a blob
	return int64(len(p)), h.b.readBlobRange(ctx, x, p, x.blobPos+pos-x.pos)
}

// planPrefetch notes a read and returns the fetches that may have its bytes, having begun those
// that follow.
func (a *readAhead) planPrefetch(h *handle, w extentWindow, off, n, size int64) []*prefetch {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Not strictly: two goroutines that read one file may overtake each other.
	sequential := off >= a.next-chunkSize && off <= a.next && (off > 0 || n >= firstReadAhead/2) && a.next > 0 || off == 0 && n >= firstReadAhead/2
	a.next = max(off+n, min(a.next, off+n+chunkSize))
	if !sequential || a.stopped {
		if off != 0 {
			a.width = 0
			a.evictAll() // what was fetched ahead is not wanted after all
		}
		return a.acquireFetches(w.epoch)
	}
	keep := a.fetches[:0]
	for _, f := range a.fetches {
		if f.epoch == w.epoch && f.end() > off && f.pos <= off+2*int64(h.b.ns.blobParallelism)*chunkSize {
			keep = append(keep, f)
		} else {
			f.evict()
		}
	}
	clear(a.fetches[len(keep):])
	a.fetches = keep
	a.width = min(max(2*a.width, firstReadAhead, 2*n), int64(h.b.ns.blobParallelism)*chunkSize)
	a.startFetches(h, w, off, min(off+n+a.width, size))
	return a.acquireFetches(w.epoch)
}

// acquireFetches returns the fetches of an epoch, for a caller that leaves them. It holds mu.
func (a *readAhead) acquireFetches(epoch int64) []*prefetch {
	var list []*prefetch
	for _, f := range a.fetches {
		if f.epoch == epoch {
			f.refCount++
			list = append(list, f)
		}
	}
	return list
}

// releaseFetches ends the use of fetches that of returned.
func (a *readAhead) releaseFetches(list []*prefetch) {
	if len(list) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range list {
		f.unref()
	}
}

// startFetches starts fetches so that [off, end) is on its way. The caller holds mu.
func (a *readAhead) startFetches(h *handle, w extentWindow, off, end int64) {
	at := off
	if len(a.fetches) > 0 {
		at = max(at, a.fetches[len(a.fetches)-1].end())
	}
	for i := range w.list {
		x := &w.list[i]
		if x.data != nil || x.pos+x.len <= at {
			continue
		}
		if x.pos >= end || len(a.fetches) >= h.b.ns.blobParallelism {
			return
		}
		lo := max(at, x.pos)
		// To the extent's end, once this is a long read: blobs are meant to be read whole.
		hi := x.pos + x.len
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
		f := newPrefetch(lo, hi-lo, w.epoch, cancel, all, h.b.memory)
		a.fetches = append(a.fetches, f)
		go func() {
			f.err = h.b.readBlobRange(ctx, x, f.data, x.blobPos+lo-x.pos)
			cancel()
			close(f.done)
			a.releaseFetches([]*prefetch{f})
		}()
		at = hi
	}
}

// evictFailed forgets a fetch that failed.
func (a *readAhead) evictFailed(bad *prefetch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, f := range a.fetches {
		if f == bad {
			f.evict()
			a.fetches = append(a.fetches[:i:i], a.fetches[i+1:]...)
			return
		}
	}
}

// stopPrefetching ends what is being fetched.
func (a *readAhead) stopPrefetching() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.evictAll()
}

// evictAll forgets all fetches. The caller holds mu.
func (a *readAhead) evictAll() {
	for _, f := range a.fetches {
		f.evict()
	}
	a.fetches = nil
}
