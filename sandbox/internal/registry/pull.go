package registry

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/flock"
	"github.com/volehq/vole/sandbox/internal/image"
	"golang.org/x/sync/errgroup"
)

// Policy says when a registry is asked.
type Policy string

const (
	Missing Policy = "missing" // when the cache does not have the image
	Always  Policy = "always"
	Never   Policy = "never"
)

// Progress is told how a pull goes; nil is silent. Its methods are called from several
// goroutines.
type Progress interface {
	Begin(ref string, bytes int64) // of all blobs
	Add(n int)                     // bytes that came, or were there
	End(err error)
}

// Ensure returns the image of a reference, which it fetches when the policy says so. Errors
// match ErrNoSuch, ErrPermission, ErrCorrupt, ErrUnsupported or ErrNoSpace.
func (c *Cache) Ensure(ctx context.Context, ref Reference, policy Policy, p Progress) (*Image, error) {
	if policy != Always {
		img, err := c.acquireImage(ctx, ref)
		if img != nil || err != nil {
			return img, err
		}
	}
	if policy == Never {
		return nil, driver.Errorf(vole.ErrNoSuch, "the image %s is not in the cache, and the pull policy forbids fetching it", ref)
	}
	lock, err := flock.WaitIn(ctx, c.dir, pullLock)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if policy == Missing { // another process may have fetched it in between
		if img, err := c.acquireImage(ctx, ref); img != nil || err != nil {
			return img, err
		}
	}
	err = c.pullImage(ctx, ref, policy == Always, p)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, shortenError(explainPullError(ctx, ref, err)))
	}
	img, err := c.acquireImage(ctx, ref)
	if img == nil && err == nil {
		err = driver.Errorf(vole.ErrCorrupt, "the image %s is not in the cache after it was fetched", ref)
	}
	return img, err
}

// puller fetches one image. Its blobs are fetched by several goroutines, each its own.
type puller struct {
	c      *Cache
	remote *remote.Puller
	repo   name.Repository
	verify bool // read and verify blobs in the cache, too
	p      Progress
}

// pullImage fetches an image into the cache: its manifest, then the blobs that are missing, then its
// entry in the index, so that the index only names what is complete. With verify, blobs in
// the cache are read and fetched again if damaged. The caller holds the lock of pulls.
func (c *Cache) pullImage(ctx context.Context, ref Reference, verify bool, p Progress) (err error) {
	r, err := remote.NewPuller(remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(newTransport(ref.ref.Context().RegistryStr())), remote.WithUserAgent("vole"))
	if err != nil {
		return err
	}
	pl := &puller{c, r, ref.ref.Context(), verify, p}
	d, raw, err := pl.resolveManifest(ctx, ref.ref)
	if err != nil {
		return err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return err
	}
	if err := c.evictForImage(ctx, *m); err != nil {
		return err
	}
	if err := pl.fetchBlobs(ctx, ref, *m); err != nil {
		return err
	}
	if err := c.writeBytes(blobPath(d.Digest), raw); err != nil {
		return err
	}
	return c.addToIndex(ref, d)
}

// addToIndex names an image in the index, in place of the one that had the name.
func (c *Cache) addToIndex(ref Reference, d v1.Descriptor) error {
	index := c.readIndex()
	kind := types.OCIManifestSchema1
	if d.MediaType == types.DockerManifestSchema2 {
		kind = d.MediaType
	}
	kept := []v1.Descriptor{{
		MediaType: kind, Digest: d.Digest, Size: d.Size,
		Platform:    &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Annotations: map[string]string{refAnnotation: ref.String()},
	}}
	for _, old := range index.Manifests {
		if old.Annotations[refAnnotation] != ref.String() {
			kept = append(kept, old)
		}
	}
	index.Manifests = kept
	return c.writeIndex(index)
}

// maxNesting is how many indexes may lie within one another.
const maxNesting = 4

// resolveManifest fetches the manifest of the image that runs here.
func (p *puller) resolveManifest(ctx context.Context, ref name.Reference) (v1.Descriptor, []byte, error) {
	d, err := p.remote.Get(ctx, ref)
	for range maxNesting {
		if err != nil {
			return v1.Descriptor{}, nil, err
		}
		if !d.MediaType.IsIndex() {
			return d.Descriptor, d.Manifest, checkMediaType(d.MediaType)
		}
		var child v1.Descriptor
		if child, err = choosePlatform(d.Manifest); err != nil {
			return v1.Descriptor{}, nil, err
		}
		d, err = p.remote.Get(ctx, p.repo.Digest(child.Digest.String()))
		if err == nil && d.Size != child.Size {
			err = driver.Errorf(vole.ErrCorrupt, "the manifest %s has %d bytes, not %d", child.Digest, d.Size, child.Size)
		}
	}
	return v1.Descriptor{}, nil, errors.Join(err, driver.Errorf(vole.ErrCorrupt, "its index is nested too deeply"))
}

// checkMediaType refuses manifests of schema 1, which nothing makes any more.
func checkMediaType(t types.MediaType) error {
	if t.IsSchema1() {
		return driver.Errorf(vole.ErrUnsupported, "its manifest is of schema 1, which is obsolete and not supported")
	}
	return nil
}

// choosePlatform picks the image of an index that runs here.
func choosePlatform(raw []byte) (v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, driver.Errorf(vole.ErrCorrupt, "its index: %v", err)
	}
	for _, d := range index.Manifests {
		if d.Digest.Hex == "" {
			return d, driver.Errorf(vole.ErrCorrupt, "its index names an image without a digest")
		}
		if d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH {
			return d, nil
		}
	}
	if len(index.Manifests) == 1 && index.Manifests[0].Platform == nil {
		return index.Manifests[0], nil
	}
	return v1.Descriptor{}, driver.Errorf(vole.ErrUnsupported, "the registry has no such image for linux/%s", runtime.GOARCH)
}

// parseManifest parses an image's manifest and bounds its sizes and numbers.
func parseManifest(raw []byte) (*v1.Manifest, error) {
	var both struct {
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err == nil {
		err = json.Unmarshal(raw, &both)
	}
	switch {
	case err != nil:
		return nil, driver.Errorf(vole.ErrCorrupt, "its manifest: %v", err)
	case both.Manifests != nil:
		return nil, driver.Errorf(vole.ErrCorrupt, "its manifest is that of an image and an index at once")
	case m.Config.Digest.Hex == "":
		return nil, driver.Errorf(vole.ErrCorrupt, "its manifest names no configuration")
	case !m.Config.MediaType.IsConfig() && m.Config.MediaType != "":
		return nil, driver.Errorf(vole.ErrUnsupported, "it is not an image that can be run, but has the media type %q", m.Config.MediaType)
	case len(m.Layers) > image.MaxLayers:
		return nil, driver.Errorf(vole.ErrUnsupported, "it has %d layers; the most is %d", len(m.Layers), image.MaxLayers)
	case m.Config.Size < 0 || m.Config.Size > image.MaxJSON:
		return nil, driver.Errorf(vole.ErrCorrupt, "its configuration has %d bytes; the most is %d", m.Config.Size, image.MaxJSON)
	}
	for _, l := range m.Layers {
		if l.Digest.Hex == "" || l.Size < 0 || l.Size > maxBlob {
			return nil, driver.Errorf(vole.ErrCorrupt, "the layer %s has an impossible size of %d bytes", l.Digest, l.Size)
		}
	}
	return m, nil
}

// maxBlob bounds the size that a manifest states of one blob, so that no sum overflows.
const maxBlob = 1 << 40

// parallelFetches is how many blobs of an image are fetched side by side.
const parallelFetches = 3

// fetchBlobs fetches the missing blobs of an image, a few at a time. The first that fails ends
// the others.
func (p *puller) fetchBlobs(ctx context.Context, ref Reference, m v1.Manifest) (err error) {
	blobs := map[v1.Hash]int64{}
	addBlobSizes(blobs, m)
	if p.p != nil {
		p.p.Begin(ref.String(), sumBlobSizes(blobs))
		defer func() { p.p.End(err) }()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFetches)
	for digest, size := range blobs {
		g.Go(func() error {
			if err := p.fetchBlob(ctx, v1.Descriptor{Digest: digest, Size: size}); err != nil {
				return fmt.Errorf("blob %s: %w", digest, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// tries is how often a blob is requested when its transfer breaks off.
const tries = 3

// fetchBlob fetches a blob, with retries, unless the cache has it.
func (p *puller) fetchBlob(ctx context.Context, d v1.Descriptor) error {
	if p.c.hasBlob(d) && (!p.verify || p.c.isBlobVerified(ctx, d)) {
		p.reportProgress(int(d.Size))
		return nil
	}
	var err error
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(p.c.pause):
			}
		}
		got := &counted{p: p}
		if err = p.fetchBlobOnce(ctx, d, got); err == nil || ctx.Err() != nil {
			return err
		}
		if _, answered := errors.AsType[*transport.Error](err); answered {
			return err // which would not change
		}
		p.reportProgress(-got.n) // fetched again, so not counted twice
	}
	return err
}

// reportProgress reports n more bytes; negative: a blob begins again.
func (p *puller) reportProgress(n int) {
	if p.p != nil {
		p.p.Add(n)
	}
}

// counted counts the bytes written to it.
type counted struct {
	p *puller
	n int
}

// Write counts and reports the bytes.
func (c *counted) Write(b []byte) (int, error) {
	c.n += len(b)
	c.p.reportProgress(len(b))
	return len(b), nil
}

// fetchBlobOnce fetches a blob into a temporary file, verifies it, and moves it into place.
func (p *puller) fetchBlobOnce(ctx context.Context, d v1.Descriptor, got io.Writer) error {
	l, err := p.remote.Layer(ctx, p.repo.Digest(d.Digest.String()))
	if err != nil {
		return err
	}
	body, err := l.Compressed()
	if err != nil {
		return err
	}
	defer body.Close()
	return p.c.writeAtomically(blobPath(d.Digest), func(f *os.File) error {
		return copyVerified(io.MultiWriter(f, got), body, d)
	})
}

// copyVerified copies a blob: at most one byte more than its stated size is read, and size and
// digest must be the stated ones. An error of r comes before a wrong size, since a transfer
// that breaks off explains it; a wrong digest of all bytes comes first.
func copyVerified(w io.Writer, r io.Reader, d v1.Descriptor) error {
	sum, err := v1.Hasher(d.Digest.Algorithm)
	if err != nil {
		return driver.Errorf(vole.ErrCorrupt, "%v", err)
	}
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(r, d.Size))
	switch {
	case n == d.Size && hex.EncodeToString(sum.Sum(nil)) != d.Digest.Hex:
		return driver.Errorf(vole.ErrCorrupt, "the data received does not have its digest")
	case err != nil:
		return err
	case n < d.Size:
		return driver.Errorf(vole.ErrCorrupt, "it has %d bytes, not %d", n, d.Size)
	}
	if n, _ := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return driver.Errorf(vole.ErrCorrupt, "it has more than the %d bytes that the manifest states", d.Size)
	}
	return nil
}

// isBlobVerified reports whether a blob in the cache still has its digest.
func (c *Cache) isBlobVerified(ctx context.Context, d v1.Descriptor) bool {
	f, err := c.root.Open(blobPath(d.Digest))
	if err != nil {
		return false
	}
	defer f.Close()
	return copyVerified(io.Discard, f, d) == nil && ctx.Err() == nil
}

// explainPullError maps a registry's answer to an error of this project, without secrets in it.
func explainPullError(ctx context.Context, ref Reference, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = withoutSecrets(err)
	host := ref.ref.Context().RegistryStr()
	e := (*transport.Error)(nil)
	if network := (net.Error)(nil); !errors.As(err, &e) && errors.As(err, &network) {
		return driver.Errorf(vole.ErrUnavailable, "the registry %s cannot be reached: %v", host, err)
	}
	if e == nil {
		return err
	}
	said := fmt.Sprintf("%.300s", e.Error())
	switch e.StatusCode {
	case http.StatusNotFound:
		return driver.Errorf(vole.ErrNoSuch, "the registry %s does not have it (%s)", host, said)
	case http.StatusUnauthorized, http.StatusForbidden:
		return driver.Errorf(vole.ErrPermission, "the registry %s has no such image, or it takes a login, which 'docker login' stores (%s)", host, said)
	case http.StatusTooManyRequests:
		return driver.Errorf(vole.ErrUnavailable, "the registry %s allows no more downloads now; it may allow more after a login, which 'docker login' stores (%s)", host, said)
	}
	return driver.Errorf(vole.ErrUnavailable, "the registry %s cannot answer (%s)", host, said)
}
