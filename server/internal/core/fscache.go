package core

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/volehq/vole"
)

// fsCache keeps the file systems of an organisation open between requests, since opening one
// costs a round trip or more. File systems of disk volumes are closed right after use, so that
// the disks can be attached.
//
// mu guards the table and the fields of its entries. File systems are opened and closed without
// it; a file system out of the table (evicted) is closed by its last user.
type fsCache struct {
	org     *org
	maxOpen int // file systems; beyond it unused ones are closed

	mu      sync.Mutex // guards what follows, and the fields of cachedFS
	entries map[fsKey]*cachedFS
	closed  bool
}

// fsKey identifies an entry: readers and writers of a disk volume open it differently.
type fsKey struct {
	volume   string // id
	readOnly bool
}

// cachedFS is an open file system with the count of requests that use it.
type cachedFS struct {
	fs       *vole.FS
	kind     vole.Kind
	name     string // of the volume when it was opened
	users    int
	lastUsed time.Time
	evicted  bool // no longer in the table; its last user closes it
}

// fsIdleTimeout is how long an unused file system stays open.
const fsIdleTimeout = 10 * time.Second

// newFSCache returns an empty cache that closes unused file systems beyond maxOpen.
func newFSCache(o *org, most int) *fsCache {
	return &fsCache{org: o, maxOpen: most, entries: map[fsKey]*cachedFS{}}
}

// acquireCached returns the entry of key with one more user, nil if there is none.
func (f *fsCache) acquireCached(key fsKey) *cachedFS {
	f.mu.Lock()
	defer f.mu.Unlock()
	entry := f.entries[key]
	if entry != nil {
		entry.users++
	}
	return entry
}

// acquireOrOpen returns the cached file system of a volume or opens it. done must be called with
// the error that its use ended with.
func (f *fsCache) acquireOrOpen(ctx context.Context, v *vole.Volume, readOnly bool) (fsys *vole.FS, done func(error), err error) {
	info := v.Info()
	key := fsKey{info.ID, readOnly}
	entry := f.acquireCached(key)
	if entry == nil {
		fsys, err := v.OpenFS(ctx, vole.FSOptions{ReadOnly: readOnly})
		if err != nil {
			return nil, nil, err
		}
		entry = f.insertOrJoin(key, &cachedFS{fs: fsys, kind: info.Kind, name: info.Name, users: 1})
	}
	return entry.fs, func(err error) { f.releaseFS(key, entry, err) }, nil
}

// insertOrJoin puts entry into the table. If another request was faster it closes entry and returns the
// entry of that one, with one more user.
func (f *fsCache) insertOrJoin(key fsKey, entry *cachedFS) *cachedFS {
	f.mu.Lock()
	have := f.entries[key]
	if have != nil {
		have.users++
	} else if f.closed {
		entry.evicted = true
	} else {
		f.entries[key] = entry
	}
	many := len(f.entries) > f.maxOpen
	f.mu.Unlock()
	if many {
		f.evictMatching(func(_ fsKey, entry *cachedFS) bool { return entry.users == 0 })
	}
	if have == nil {
		return entry
	}
	f.closeFS(entry)
	return have
}

// releaseFS ends one use of entry. An err that says that the volume is gone evicts it.
func (f *fsCache) releaseFS(key fsKey, entry *cachedFS, err error) {
	f.mu.Lock()
	entry.users--
	entry.lastUsed = time.Now()
	stale := errors.Is(err, vole.ErrNotFound) || errors.Is(err, vole.ErrClosed)
	if !entry.evicted && (stale || entry.users == 0 && entry.kind == vole.KindDisk) {
		entry.evicted = true
		delete(f.entries, key)
	}
	last := entry.evicted && entry.users == 0
	f.mu.Unlock()
	if last {
		f.closeFS(entry)
	}
}

// closeFS closes a file system without users. No request waits for the error, so it is logged.
func (f *fsCache) closeFS(entry *cachedFS) {
	err := entry.fs.Close()
	if err != nil && !errors.Is(err, vole.ErrNotFound) && !errors.Is(err, vole.ErrClosed) {
		f.org.log.Warn("cannot close the files of a volume", "org", f.org.name, "volume", entry.fs.Volume().ID(), "error", err)
	}
}

// evictVolume evicts the file systems of a volume; those in use are closed by their last user.
func (f *fsCache) evictVolume(volume string) {
	f.evictMatching(func(k fsKey, _ *cachedFS) bool { return k.volume == volume })
}

// evictIdle closes what has been unused for fsIdleTimeout.
func (f *fsCache) evictIdle(now time.Time) {
	f.evictMatching(func(_ fsKey, entry *cachedFS) bool {
		return entry.users == 0 && now.Sub(entry.lastUsed) > fsIdleTimeout
	})
}

// evictAll evicts everything; what is opened later is not kept.
func (f *fsCache) evictAll() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.evictMatching(func(fsKey, *cachedFS) bool { return true })
}

// evictMatching takes matching entries out of the table and closes those without users.
func (f *fsCache) evictMatching(fits func(fsKey, *cachedFS) bool) {
	var list []*cachedFS
	f.mu.Lock()
	for k, entry := range f.entries {
		if !fits(k, entry) {
			continue
		}
		entry.evicted = true
		delete(f.entries, k)
		if entry.users == 0 {
			list = append(list, entry)
		}
	}
	f.mu.Unlock()
	for _, entry := range list {
		f.closeFS(entry)
	}
}
