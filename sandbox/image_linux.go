package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	nolinks "github.com/volehq/vole/internal/beneath"
	"github.com/volehq/vole/sandbox/internal/registry"
	"golang.org/x/sys/unix"
)

// imagesDir is the directory of a home in which images of registries are.
const imagesDir = "images"

// prepareImage decides whether Image is a file, whose path it makes absolute, or the name of
// an image. If such a file exists, it is one.
func (c *Config) prepareImage() error {
	abs, err := filepath.Abs(c.Image)
	if err != nil {
		return err
	}
	_, err = os.Stat(abs)
	switch {
	case err == nil && c.Pull == PullAlways:
		return driver.Errorf(vole.ErrInvalid, "%s is a file, and only an image of a registry can be pulled", c.Image)
	case err == nil:
		c.Image = abs
		return nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ENAMETOOLONG):
		return err
	case looksLikeFile(c.Image):
		return driver.Errorf(vole.ErrNotExist, "the image %s: no such file", c.Image)
	}
	_, err = registry.ParseReference(c.Image)
	return err
}

// looksLikeFile reports whether a name can only mean a file: no image of a registry is
// called like that.
func looksLikeFile(name string) bool {
	suffixes := []string{".tar", ".gz", ".tgz", ".zst", ".tzst", ".xz", ".bz2", ".oci", ".zip"}
	return name == "" || isHostPath(name) || slices.ContainsFunc(suffixes, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// pinnedImage is an image that the cache does not evict until it is released.
type pinnedImage struct {
	path   string // file or layout; "": none
	digest string // of the image in the cache
	name   string // of an image of a registry
	cached *registry.Image
}

// release lets the cache evict the image. It may be called more than once.
func (h *pinnedImage) release() {
	if h.cached != nil {
		_ = h.cached.Release()
	}
}

// pinImage finds the image of a configuration, or fetches it. That of a registry is then
// named with its digest.
func (m *Manager) pinImage(ctx context.Context, config *Config) (*pinnedImage, error) {
	if config.Image == "" || filepath.IsAbs(config.Image) {
		return &pinnedImage{path: config.Image}, nil
	}
	ref, err := registry.ParseReference(config.Image)
	if err != nil {
		return nil, err
	}
	cache, err := m.openImageCache()
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	policy := registry.Policy(cmp.Or(string(config.Pull), string(PullMissing)))
	img, err := cache.Ensure(ctx, ref, policy, config.PullProgress)
	if err != nil {
		return nil, err
	}
	config.Image, config.Pull = ref.Pinned(img.Digest), PullMissing
	return &pinnedImage{path: filepath.Join(m.home, imagesDir), digest: img.Digest, name: ref.String(), cached: img}, nil
}

// openImageCache opens the cache of images in the home, made when it is missing, without following
// a link in its place.
func (m *Manager) openImageCache() (*registry.Cache, error) {
	home := m.store.Local().Directory()
	if err := nolinks.Mkdir(home, imagesDir, 0o700); err != nil {
		return nil, err
	}
	dir, err := nolinks.OpenDir(home, imagesDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return nil, err
	}
	return registry.OpenCache(root, registry.DefaultMax)
}
