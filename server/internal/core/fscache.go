package core

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/volehq/vole"
)

// fsCache keeps the file systems of an organisation open that requests use one after the
// other. Those of disk volumes are closed at once after use, so that they can be attached.
type fsCache struct {
	org     *org
	maxOpen int // that are open and not in use

	mu      sync.Mutex // guards what follows, and the fields of cachedFS
	entries map[fsKey]*cachedFS
	closed  bool
}

type fsKey struct {
	volume   string // id
	readOnly bool
}

// cachedFS is an open file system with its users.
type cachedFS struct {
	fs       *vole.FS
	kind     vole.Kind
	name     string // of the volume when it was opened
	users    int
	lastUsed time.Time
	evicted  bool // out of the table; closed with its last user
}

// fsIdleTimeout is how long a file system is kept that nobody uses.
const fsIdleTimeout = 10 * time.Second

func newFSCache(o *org, most int) *fsCache {
	return &fsCache{org: o, maxOpen: most, entries: map[fsKey]*cachedFS{}}
}

// acquireCached returns the open file system of a volume, nil if there is none.
func (f *fsCache) acquireCached(key fsKey) *cachedFS {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.entries[key]
	if x != nil {
		x.users++
	}
	return x
}

// acquireOrOpen opens a volume's files, or joins those who have. done must be called with the error
// that came of using it.
func (f *fsCache) acquireOrOpen(ctx context.Context, v *vole.Volume, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	info := v.Info()
	key := fsKey{info.ID, readOnly}
	x := f.acquireCached(key)
	if x == nil {
		fsys, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: readOnly})
		if err != nil {
			return nil, nil, err
		}
		x = f.insertOrJoin(key, &cachedFS{fs: fsys, kind: info.Kind, name: info.Name, users: 1})
	}
	return x.fs, func(err error) { f.releaseFS(key, x, err) }, nil
}

// insertOrJoin puts x into the table, unless another was quicker, which is used then.
func (f *fsCache) insertOrJoin(key fsKey, x *cachedFS) *cachedFS {
	f.mu.Lock()
	have := f.entries[key]
	if have != nil {
		have.users++
	} else if f.closed {
		x.evicted = true
	} else {
		f.entries[key] = x
	}
	many := len(f.entries) > f.maxOpen
	f.mu.Unlock()
	if many {
		f.evictMatching(func(_ fsKey, x *cachedFS) bool { return x.users == 0 })
	}
	if have == nil {
		return x
	}
	f.closeFS(x)
	return have
}

func (f *fsCache) releaseFS(key fsKey, x *cachedFS, err error) {
	f.mu.Lock()
	x.users--
	x.lastUsed = time.Now()
	stale := errors.Is(err, vole.ErrNotFound) || errors.Is(err, vole.ErrClosed)
	if !x.evicted && (stale || x.users == 0 && x.kind == vole.KindDisk) {
		x.evicted = true
		delete(f.entries, key)
	}
	last := x.evicted && x.users == 0
	f.mu.Unlock()
	if last {
		f.closeFS(x)
	}
}

// closeFS closes files that nobody uses. Nobody is told of an error, so it is logged.
func (f *fsCache) closeFS(x *cachedFS) {
	err := x.fs.Close()
	if err != nil && !errors.Is(err, vole.ErrNotFound) && !errors.Is(err, vole.ErrClosed) {
		f.org.log.Warn("closing the files of a volume", "org", f.org.name, "volume", x.fs.Volume().ID(), "error", err)
	}
}

// evictVolume closes what is open of a volume, now or when its users are done.
func (f *fsCache) evictVolume(volume string) {
	f.evictMatching(func(k fsKey, _ *cachedFS) bool { return k.volume == volume })
}

func (f *fsCache) evictIdle(now time.Time) {
	f.evictMatching(func(_ fsKey, x *cachedFS) bool { return x.users == 0 && now.Sub(x.lastUsed) > fsIdleTimeout })
}

func (f *fsCache) evictAll() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.evictMatching(func(fsKey, *cachedFS) bool { return true })
}

func (f *fsCache) evictMatching(fits func(fsKey, *cachedFS) bool) {
	var list []*cachedFS
	f.mu.Lock()
	for k, x := range f.entries {
		if !fits(k, x) {
			continue
		}
		x.evicted = true
		delete(f.entries, k)
		if x.users == 0 {
			list = append(list, x)
		}
	}
	f.mu.Unlock()
	for _, x := range list {
		f.closeFS(x)
	}
}
