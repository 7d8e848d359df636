package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/sandbox/internal/registry"
)

// Images lists the images of registries in the cache of the home, the one that was used
// last first.
func (m *Manager) Images(ctx context.Context) ([]ImageInfo, error) {
	list := []ImageInfo{}
	err := m.withImageCache(func(c *registry.Cache) error {
		for _, e := range c.List() {
			list = append(list, newImageInfo(e))
		}
		return ctx.Err()
	})
	return list, wrapError("list images", "", err)
}

// RemoveImage deletes an image of a registry from the cache: one by its name, or all that
// have a digest. Sandboxes that run go on. ErrNoSuch; ErrInUse: sandboxes are being started.
func (m *Manager) RemoveImage(ctx context.Context, ref string) error {
	match, err := registry.Matching(ref)
	if err == nil {
		var gone []ImageInfo
		gone, err = m.removeCachedImages(ctx, match)
		if err == nil && len(gone) == 0 {
			err = driver.Errorf(vole.ErrNoSuch, "there is no image %s in the cache", ref)
		}
	}
	return wrapError("remove image", "", err)
}

// RemoveImages deletes all images of registries from the cache, and returns them. ErrInUse.
func (m *Manager) RemoveImages(ctx context.Context) ([]ImageInfo, error) {
	gone, err := m.removeCachedImages(ctx, func(registry.Entry) bool { return true })
	return gone, wrapError("remove images", "", err)
}

func (m *Manager) removeCachedImages(ctx context.Context, match func(registry.Entry) bool) (gone []ImageInfo, err error) {
	gone = []ImageInfo{}
	err = m.withImageCache(func(c *registry.Cache) error {
		list, err := c.Remove(ctx, match)
		for _, e := range list {
			gone = append(gone, newImageInfo(e))
		}
		return err
	})
	return gone, err
}

// withImageCache calls fn with the cache, if there is one.
func (m *Manager) withImageCache(fn func(c *registry.Cache) error) error {
	if _, err := os.Lstat(filepath.Join(m.home, imagesDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c, err := m.openImageCache()
	if err != nil {
		return err
	}
	return errors.Join(fn(c), c.Close())
}

func newImageInfo(e registry.Entry) ImageInfo {
	return ImageInfo{Name: e.Name, Digest: e.Digest, Size: vole.Size(e.Size), LastUsed: e.Used.UTC()}
}
