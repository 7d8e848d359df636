package registry

import (
	"context"
	"errors"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/flock"
)

// Entry is an image of a cache.
type Entry struct {
	Name   string // whole, with host and tag or digest
	Digest string // of its manifest
	Size   int64  // bytes of its blobs, of which others may have some, too; 0: it is damaged
	Used   time.Time
}

// List lists the images of the cache, the one that was used last first.
func (c *Cache) List() []Entry {
	var list []Entry
	for _, d := range c.sortByLastUse(c.readIndex()) {
		list = append(list, c.describeEntry(d))
	}
	return list
}

// describeEntry describes an image of the index. A damaged one has size 0, so that it is
// listed and can be removed.
func (c *Cache) describeEntry(d v1.Descriptor) Entry {
	e := Entry{Name: d.Annotations[refAnnotation], Digest: d.Digest.String()}
	if st, err := c.root.Stat(blobPath(d.Digest)); err == nil {
		e.Used = st.ModTime()
	}
	if m, err := c.readManifest(d); err == nil {
		blobs := map[v1.Hash]int64{d.Digest: d.Size}
		addBlobSizes(blobs, *m)
		e.Size = sumBlobSizes(blobs)
	}
	return e
}

// Remove deletes the images that match selects, returns them, and deletes the blobs that
// belong to no image then. ErrInUse: images are being unpacked all the time. Blobs that kept
// images share with removed ones stay, which is why all manifests are read.
func (c *Cache) Remove(ctx context.Context, match func(Entry) bool) (removed []Entry, err error) {
	lock, err := flock.WaitIn(ctx, c.dir, pullLock)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	index := c.readIndex()
	kept, blobs := index.Manifests[:0:0], map[v1.Hash]int64{}
	for _, d := range index.Manifests {
		if e := c.describeEntry(d); match(e) {
			removed = append(removed, e)
			continue
		}
		kept = append(kept, d)
		blobs[d.Digest] = d.Size
		if m, err := c.readManifest(d); err == nil {
			addBlobSizes(blobs, *m)
		}
	}
	err = c.evictAllExcept(ctx, index, kept, blobs)
	if errors.Is(err, errCacheInUse) && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return removed, nil
}

// Matching returns a function that selects the images that ref means: one by its name, or
// those that have a digest, which may stand alone.
func Matching(ref string) (func(Entry) bool, error) {
	if strings.HasPrefix(ref, "sha256:") || strings.HasPrefix(ref, "sha512:") {
		if h, err := v1.NewHash(ref); err == nil {
			return func(e Entry) bool { return e.Digest == h.String() }, nil
		}
	}
	r, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return func(e Entry) bool {
		return e.Name == r.String() || r.ref.Identifier() == e.Digest && r.sameRepository(e.Name)
	}, nil
}

// sameRepository reports whether a name is of the repository of r.
func (r Reference) sameRepository(name string) bool {
	other, err := ParseReference(name)
	return err == nil && other.ref.Context() == r.ref.Context()
}

// errCacheInUse: the lock of uses is held by processes that unpack images.
var errCacheInUse = driver.Errorf(vole.ErrInUse, "sandboxes are being started from images just now; try again")
