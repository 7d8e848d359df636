package image

import (
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// layoutDir is a directory in the form of an OCI image layout.
type layoutDir struct{ root *os.Root }

// openMember opens a file of the layout. Links are followed within it only.
func (d layoutDir) openMember(name string) (*member, error) {
	f, err := d.root.OpenFile(path.Clean(name), os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a fifo
	if errors.Is(err, fs.ErrNotExist) {
		return nil, driver.Errorf(vole.ErrCorrupt, "%q is missing in the image", name)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = driver.Errorf(vole.ErrCorrupt, "%q of the image is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &member{io.NewSectionReader(f, 0, st.Size()), f}, nil
}

// openLayout opens the image of a layout that has a digest, or that runs here.
func openLayout(d layoutDir, opts Options) (imageRef, error) {
	if opts.Digest == "" {
		return openIndexFile(d, opts)
	}
	m, err := d.openMember(blobMemberName(opts.Digest))
	if err != nil {
		return imageRef{}, err
	}
	size := m.Size()
	m.Close()
	var index manifest
	if err := (descriptor{Digest: opts.Digest, Size: size}).readJSON(d, &index); err != nil {
		return imageRef{}, err
	}
	return openImageOrIndex(d, index, opts)
}

// compressedSize is how many bytes the blobs of an image have.
func (img imageRef) compressedSize() (total int64) {
	for _, l := range img.layers {
		if l.blob != nil {
			total += max(0, min(l.blob.Size, 1<<50)) // at most MaxLayers of them: no overflow
		}
	}
	return total
}

// descriptor points to a blob.
// https://github.com/opencontainers/image-spec/blob/main/descriptor.md
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

// manifest is an image's manifest or an index of them, which share their place.
type manifest struct {
	Manifests []descriptor `json:"manifests"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// checksum computes the digest of the bytes written to it, and knows the expected one.
type checksum struct {
	hash.Hash
	want v1.Hash
}

// verifyDigest compares the digest of the bytes written so far with the expected one. name stands
// for the member in errors.
func (c *checksum) verifyDigest(name string) error {
	if got := c.want.Algorithm + ":" + hex.EncodeToString(c.Sum(nil)); got != c.want.String() {
		return driver.Errorf(vole.ErrCorrupt, "%q does not have its digest, but %s", name, got)
	}
	return nil
}

// parseDigest checks a digest that an image states: it becomes a part of a path.
func parseDigest(s string) (v1.Hash, error) {
	h, err := v1.NewHash(s)
	if err != nil {
		return h, driver.Errorf(vole.ErrCorrupt, "%q is not a digest: %v", s, err)
	}
	return h, nil
}

// blobMemberName is the name of the member with a digest that has been checked.
func blobMemberName(digest string) string {
	h, err := v1.NewHash(digest)
	if err != nil {
		return "blobs/none" // which no image has
	}
	return path.Join("blobs", h.Algorithm, h.Hex)
}

// openBlob opens the blob that d points to, which must have the size that d says. The caller
// writes all of it to the checksum and verifies that.
func (d descriptor) openBlob(s memberStore) (*member, *checksum, error) {
	want, err := parseDigest(d.Digest)
	if err != nil {
		return nil, nil, err
	}
	sum, err := v1.Hasher(want.Algorithm)
	if err != nil {
		return nil, nil, driver.Errorf(vole.ErrCorrupt, "%v", err)
	}
	m, err := s.openMember(blobMemberName(d.Digest))
	if err != nil {
		return nil, nil, err
	}
	if m.Size() != d.Size {
		m.Close()
		return nil, nil, driver.Errorf(vole.ErrCorrupt, "%q has %d bytes, not %d as the image says", d.Digest, m.Size(), d.Size)
	}
	return m, &checksum{sum, want}, nil
}

// openIndexFile opens the image of an OCI layout that runs here.
func openIndexFile(s memberStore, opts Options) (imageRef, error) {
	var m manifest
	if err := readJSON(s, "index.json", &m); err != nil {
		return imageRef{}, err
	}
	return openImageOrIndex(s, m, opts)
}

// maxNesting is how many indexes may lie within one another.
const maxNesting = 4

// openImageOrIndex opens an image, or that of an index which runs here.
func openImageOrIndex(s memberStore, current manifest, opts Options) (imageRef, error) {
	for range maxNesting {
		if current.Config != nil {
			break
		}
		d, err := choosePlatform(current.Manifests, opts)
		if err != nil {
			return imageRef{}, err
		}
		current = manifest{}
		if err := d.readJSON(s, &current); err != nil {
			return imageRef{}, err
		}
	}
	if current.Config == nil {
		return imageRef{}, driver.Errorf(vole.ErrCorrupt, "the image's index is nested too deeply")
	}
	var img imageRef
	if err := current.Config.readJSON(s, &img.config); err != nil {
		return img, err
	}
	for _, l := range current.Layers {
		img.layers = append(img.layers, layer{blob: &l})
	}
	return img, nil
}

// choosePlatform picks the image of an index that runs here.
func choosePlatform(list []descriptor, opts Options) (descriptor, error) {
	var unnamed []descriptor
	for _, d := range list {
		if d.Platform == nil || d.Platform.OS == "" {
			unnamed = append(unnamed, d)
		} else if d.Platform.OS == opts.OS && d.Platform.Architecture == opts.Arch {
			return d, nil
		}
	}
	switch {
	case len(unnamed) == 1:
		return unnamed[0], nil
	case len(unnamed) > 1:
		return descriptor{}, driver.Errorf(vole.ErrInvalid, "the archive holds %d images; save one", len(unnamed))
	}
	return descriptor{}, driver.Errorf(vole.ErrUnsupported, "the archive holds no image for %s/%s", opts.OS, opts.Arch)
}
