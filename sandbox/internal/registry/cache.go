// Package registry fetches images from registries and keeps them in a cache, which is a
// directory in the form of an OCI image layout. Registries are not trusted: their
// answers are bounded before they are read, and are kept only with the size and digest that
// were stated for them.
package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/uuid"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/flock"
	"github.com/volehq/vole/sandbox/internal/image"
)

// DefaultMax is the most bytes that a cache has.
const DefaultMax = 20 << 30

// Files of a cache beside those of an OCI layout. The lock of pulls is held by the one that
// changes the cache. The lock of uses is held shared by each process that unpacks an image, and
// exclusively by one that evicts. Lock order: pulls, then uses.
const (
	indexFile = "index.json"
	tempDir   = "tmp"
	pullLock  = "pull.lock"
	useLock   = "use.lock"
)

// refAnnotation names an image in the index of a layout.
// https://github.com/opencontainers/image-spec/blob/main/annotations.md
const refAnnotation = "org.opencontainers.image.ref.name"

// Cache keeps images. Any number of processes may use one at a time.
type Cache struct {
	root  *os.Root
	dir   *os.File      // the same directory
	max   int64         // bytes of all blobs
	pause time.Duration // before a blob is asked for again
}

// OpenCache opens a directory as a cache, and makes the missing parts of its layout. It takes
// ownership of root, also when it fails. max is the most bytes of it.
func OpenCache(root *os.Root, max int64) (*Cache, error) {
	c := &Cache{root: root, max: max, pause: 500 * time.Millisecond}
	var err error
	if c.dir, err = root.Open("."); err != nil {
		root.Close()
		return nil, err
	}
	for _, d := range []string{"blobs", "blobs/sha256", "blobs/sha512", tempDir} {
		if err := root.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			c.Close()
			return nil, err
		}
	}
	if _, err := root.Lstat("oci-layout"); errors.Is(err, fs.ErrNotExist) {
		if err := c.writeBytes("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends the use of the cache.
func (c *Cache) Close() error { return errors.Join(c.dir.Close(), c.root.Close()) }

// Image is an image of the cache, which is kept until it is released.
type Image struct {
	Digest string // of its manifest
	lock   *flock.Lock
}

// Release lets the cache delete the image.
func (i *Image) Release() error { return i.lock.Release() }

// acquireImage returns the image of a reference, nil when the cache does not have all of it.
func (c *Cache) acquireImage(ctx context.Context, ref Reference) (*Image, error) {
	lock, err := flock.WaitSharedIn(ctx, c.dir, useLock)
	if err != nil {
		return nil, err
	}
	d := findInIndex(c.readIndex(), ref)
	if d == nil || !c.hasAllBlobs(*d) {
		return nil, lock.Release()
	}
	now := time.Now()
	_ = c.root.Chtimes(blobPath(d.Digest), now, now) // images are evicted in the order of this time
	return &Image{d.Digest.String(), lock}, nil
}

// findInIndex returns the entry of the index that has a reference's name or digest.
func findInIndex(index v1.IndexManifest, ref Reference) *v1.Descriptor {
	for _, d := range index.Manifests {
		if d.Annotations[refAnnotation] == ref.String() || ref.ref.Identifier() == d.Digest.String() {
			return &d
		}
	}
	return nil
}

// hasAllBlobs reports whether all blobs of an image are there.
func (c *Cache) hasAllBlobs(d v1.Descriptor) bool {
	m, err := c.readManifest(d)
	if err != nil {
		return false
	}
	for _, b := range append(m.Layers, m.Config) {
		if !c.hasBlob(b) {
			return false
		}
	}
	return true
}

// hasBlob reports whether a blob exists with the expected size. A file gets the name of a blob
// only once it is verified.
func (c *Cache) hasBlob(d v1.Descriptor) bool {
	st, err := c.root.Stat(blobPath(d.Digest))
	return err == nil && st.Mode().IsRegular() && st.Size() == d.Size
}

// blobPath is where a blob is; digests are parsed, so that they have no slash.
func blobPath(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// readIndex reads the index. One that cannot be read names nothing: all that it had can be
// fetched again.
func (c *Cache) readIndex() v1.IndexManifest {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	b, err := c.readBounded(indexFile)
	if err != nil || json.Unmarshal(b, &index) != nil {
		return v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	}
	return index
}

// readManifest reads the manifest of an image in the cache.
func (c *Cache) readManifest(d v1.Descriptor) (*v1.Manifest, error) {
	b, err := c.readBounded(blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	if copyVerified(io.Discard, bytes.NewReader(b), d) != nil {
		return nil, driver.Errorf(vole.ErrCorrupt, "the manifest %s is damaged", d.Digest)
	}
	return parseManifest(b)
}

// readBounded reads a file of JSON in the cache, within the same bounds as one of a registry.
func (c *Cache) readBounded(name string) ([]byte, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, image.MaxJSON+1))
	if err == nil {
		err = image.CheckJSON(b)
	}
	return b, err
}

// writeBytes replaces the content of a file by b, atomically.
func (c *Cache) writeBytes(name string, b []byte) error {
	return c.writeAtomically(name, func(f *os.File) error { _, err := f.Write(b); return err })
}

// writeAtomically replaces a file by what fill writes: temporary file, sync, rename.
func (c *Cache) writeAtomically(name string, fill func(f *os.File) error) error {
	temp := path.Join(tempDir, uuid.NewString())
	f, err := c.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Sync(), f.Close())
	if err == nil {
		err = c.root.Rename(temp, name)
	}
	if err != nil {
		_ = c.root.Remove(temp) // else swept by the next pull
	}
	return err
}
