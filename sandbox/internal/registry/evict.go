package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/flock"
)

// maxImages is how many images a cache names, so that its index stays small.
const maxImages = 1000

// evictTimeout is how long a pull waits for processes that unpack images before it lets the
// cache grow beyond its bound; the next pull tries again.
const evictTimeout = time.Minute

// evictForImage evicts the least recently used images until the blobs of an image that is about
// to be fetched fit beside the rest. The caller holds the lock of pulls.
func (c *Cache) evictForImage(ctx context.Context, coming v1.Manifest) error {
	blobs := map[v1.Hash]int64{}
	addBlobSizes(blobs, coming)
	if need := sumBlobSizes(blobs); need > c.max {
		return driver.Errorf(vole.ErrNoSpace, "the image has %v, and the cache of images at most %v; a file of it, as 'docker save' makes, can be run all the same",
			vole.Size(need), vole.Size(c.max))
	}
	index := c.readIndex()
	kept := index.Manifests[:0:0]
	for _, d := range c.sortByLastUse(index) {
		m, err := c.readManifest(d)
		if err != nil {
			continue // damaged
		}
		with := maps.Clone(blobs)
		with[d.Digest] = d.Size
		addBlobSizes(with, *m)
		if sumBlobSizes(with) > c.max || len(kept) == maxImages-1 {
			break
		}
		kept, blobs = append(kept, d), with
	}
	err := c.evictAllExcept(ctx, index, kept, blobs)
	if errors.Is(err, errCacheInUse) {
		return ctx.Err() // nothing is deleted this time
	}
	return err
}

// addBlobSizes adds the blobs of an image with their sizes. A shared blob counts once.
func addBlobSizes(blobs map[v1.Hash]int64, m v1.Manifest) {
	for _, d := range append(slices.Clone(m.Layers), m.Config) {
		blobs[d.Digest] = d.Size
	}
}

// sumBlobSizes is how many bytes blobs take together.
func sumBlobSizes(blobs map[v1.Hash]int64) (sum int64) {
	for _, n := range blobs {
		sum += n // of at most a thousand layers and images, each of at most c.max: no overflow
	}
	return sum
}

// sortByLastUse lists the images of an index, the one that was used last first.
func (c *Cache) sortByLastUse(index v1.IndexManifest) []v1.Descriptor {
	used := map[v1.Hash]int64{}
	for _, d := range index.Manifests {
		if st, err := c.root.Stat(blobPath(d.Digest)); err == nil {
			used[d.Digest] = st.ModTime().UnixNano()
		}
	}
	list := slices.Clone(index.Manifests)
	slices.SortStableFunc(list, func(a, b v1.Descriptor) int { return cmp.Compare(used[b.Digest], used[a.Digest]) })
	return list
}

// evictAllExcept deletes all images but some, and what belongs to none. errCacheInUse: nothing.
func (c *Cache) evictAllExcept(ctx context.Context, index v1.IndexManifest, kept []v1.Descriptor, blobs map[v1.Hash]int64) error {
	garbage, err := c.listGarbage(blobs)
	if err != nil || len(garbage) == 0 && len(kept) == len(index.Manifests) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	lock, err := flock.WaitIn(wait, c.dir, useLock)
	if err != nil {
		return errCacheInUse
	}
	defer lock.Release()
	index.Manifests = kept
	if err := c.writeIndex(index); err != nil {
		return err
	}
	for _, file := range garbage {
		if err := c.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeIndex replaces the index. The caller holds the lock of pulls.
func (c *Cache) writeIndex(index v1.IndexManifest) error {
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return c.writeBytes(indexFile, b)
}

// listGarbage lists the files of blobs that are not among some, and what interrupted pulls left.
func (c *Cache) listGarbage(blobs map[v1.Hash]int64) (files []string, err error) {
	for _, dir := range []string{"blobs/sha256", "blobs/sha512", tempDir} {
		list, err := fs.ReadDir(c.root.FS(), dir)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			_, keep := blobs[v1.Hash{Algorithm: path.Base(dir), Hex: e.Name()}]
			if !keep && !e.IsDir() {
				files = append(files, path.Join(dir, e.Name()))
			}
		}
	}
	return files, nil
}
