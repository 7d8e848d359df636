package bucket

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/volehq/vole/internal/budget"
)

const (
	// firstAhead is what is fetched ahead when reading has only begun to be sequential.
	firstAhead = 512 << 10
	// maxAheadAll is how much all handles of a namespace hold of what they fetched ahead.
	maxAheadAll = 512 << 20
)

// readAhead fetches what a handle is going to ask for next.
type readAhead struct {
	mu    sync.Mutex // guards what follows
	next  int64      // where a sequential read goes on
	width int64      // how far ahead is fetched, in bytes
	list  []*fetch   // in order of the file
	ended bool
}

// fetch is a range that is being fetched, or has been.
type fetch struct {
	pos    int64
	data   []byte
	epoch  int64
	done   chan struct{}
	err    error // set when done is closed
	cancel context.CancelFunc
	all    *atomic.Int64 // bytes of all fetches of the namespace
	share  *budget.Share // where the buffer counts
	// users are those that may still touch data: what fetches it, the list, and reads.
	// The last one gives it back. Guarded by readAhead.mu.
	users int
}

// buffers are of chunkSize, for reading ahead and for uploads. A new one for each range
// would be cleared first, which is a fifth of the work of reading a long file, and would
// take as much memory again until it is collected.
var buffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// bufferSize is the size of the buffer for a fetch of n bytes.
func bufferSize(n int64) int64 {
	if n > chunkSize/2 {
		return chunkSize
	}
	return n
}

func newFetch(pos, n, epoch int64, cancel context.CancelFunc, all *atomic.Int64, share *budget.Share) *fetch {
	f := &fetch{pos: pos, epoch: epoch, done: make(chan struct{}), cancel: cancel, users: 2, all: all, share: share}
	if bufferSize(n) == chunkSize {
		f.data = buffers.Get().(*[chunkSize]byte)[:n]
	} else {
		f.data = make([]byte, n)
	}
	return f
}

// left notes that a user of f is done with it. The caller holds readAhead.mu.
func (f *fetch) left() {
	if f.users--; f.users > 0 {
		return
	}
	f.all.Add(-int64(len(f.data)))
	f.share.Release(int64(cap(f.data)))
	if cap(f.data) == chunkSize {
		buffers.Put((*[chunkSize]byte)(f.data[:chunkSize]))
	}
}

// drop is for what is taken off the list. The caller holds readAhead.mu.
func (f *fetch) drop() {
	f.cancel()
	f.left()
}

func (f *fetch) end() int64 { return f.pos + int64(len(f.data)) }

// read fills p, which is cleared, with what the window's extents have from off on.
func (a *readAhead) read(ctx context.Context, h *handle, w window, p []byte, off, size int64) error {
	list := a.plan(h, w, off, int64(len(p)), size)
	defer a.leave(list)
	end := off + int64(len(p))
	for i := range w.list {
		x := &w.list[i]
		lo, hi := max(off, x.pos), min(end, x.pos+x.len)
		for lo < hi {
			n, err := a.some(ctx, h, list, x, p[lo-off:hi-off], lo)
			if err != nil {
				return err
			}
			lo += n
		}
	}
	return nil
}

// some reads from what is being fetched if it has the first byte, and by itself
// otherwise.
func (a *readAhead) some(ctx context.Context, h *handle, list []*fetch, x *extent, p []byte, pos int64) (int64, error) {
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
			a.discard(f)
			break // it is read below, and fails there if it must
		}
		return int64(copy(p, f.data[pos-f.pos:])), nil
	}
	p = p[:min(int64(len(p)), chunkSize-sumSize)] // aligned outwards it is no more than a blob
	return int64(len(p)), h.b.readBlob(ctx, x, p, x.blobPos+pos-x.pos)
}

// plan notes a read and returns the fetches that may have its bytes, having begun those
// that follow.
func (a *readAhead) plan(h *handle, w window, off, n, size int64) []*fetch {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Not strictly: two goroutines that read one file may overtake each other.
	sequential := off >= a.next-chunkSize && off <= a.next && (off > 0 || n >= firstAhead/2) && a.next > 0 || off == 0 && n >= firstAhead/2
	a.next = max(off+n, min(a.next, off+n+chunkSize))
	if !sequential || a.ended {
		if off != 0 {
			a.width = 0
			a.clear() // what was fetched ahead is not wanted after all
		}
		return a.of(w.epoch)
	}
	keep := a.list[:0]
	for _, f := range a.list {
		if f.epoch == w.epoch && f.end() > off && f.pos <= off+2*int64(h.b.ns.atOnce)*chunkSize {
			keep = append(keep, f)
		} else {
			f.drop()
		}
	}
	clear(a.list[len(keep):])
	a.list = keep
	a.width = min(max(2*a.width, firstAhead, 2*n), int64(h.b.ns.atOnce)*chunkSize)
	a.begin(h, w, off, min(off+n+a.width, size))
	return a.of(w.epoch)
}

// of returns the fetches of an epoch, for a caller that leaves them. It holds mu.
func (a *readAhead) of(epoch int64) []*fetch {
	var list []*fetch
	for _, f := range a.list {
		if f.epoch == epoch {
			f.users++
			list = append(list, f)
		}
	}
	return list
}

// leave ends the use of fetches that of returned.
func (a *readAhead) leave(list []*fetch) {
	if len(list) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range list {
		f.left()
	}
}

// begin starts fetches so that [off, end) is on its way. The caller holds mu.
func (a *readAhead) begin(h *handle, w window, off, end int64) {
	at := off
	if len(a.list) > 0 {
		at = max(at, a.list[len(a.list)-1].end())
	}
	for i := range w.list {
		x := &w.list[i]
		if x.data != nil || x.pos+x.len <= at {
			continue
		}
		if x.pos >= end || len(a.list) >= h.b.ns.atOnce {
			return
		}
		lo := max(at, x.pos)
		// To the extent's end, once this is a long read: blobs are meant to be read whole.
		hi := x.pos + x.len
		if a.width < chunkSize {
			hi = min(hi, max(end, lo+firstAhead))
		}
		all := &h.b.ns.ahead
		if all.Add(hi-lo) > maxAheadAll {
			all.Add(lo - hi)
			return
		}
		if !h.b.memory.Try(budget.Buffer, bufferSize(hi-lo)) {
			all.Add(lo - hi)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		f := newFetch(lo, hi-lo, w.epoch, cancel, all, h.b.memory)
		a.list = append(a.list, f)
		go func() {
			f.err = h.b.readBlob(ctx, x, f.data, x.blobPos+lo-x.pos)
			cancel()
			close(f.done)
			a.leave([]*fetch{f})
		}()
		at = hi
	}
}

// discard forgets a fetch that failed.
func (a *readAhead) discard(bad *fetch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, f := range a.list {
		if f == bad {
			f.drop()
			a.list = append(a.list[:i:i], a.list[i+1:]...)
			return
		}
	}
}

// stop ends what is being fetched.
func (a *readAhead) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.clear()
}

// clear forgets all fetches. The caller holds mu.
func (a *readAhead) clear() {
	for _, f := range a.list {
		f.drop()
	}
	a.list = nil
}
