package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/transfer"
)

// archive is a tar file whose members can be read in any order.
type archive struct {
	f          *os.File
	members    map[string]memberRange
	incomplete bool // more members than members has
}

// memberRange is where the content of a member is in the archive, in bytes.
type memberRange struct {
	off, size int64
	link      string // of a link: the member it stands for
}

// memberStore holds the members of an image: those of an archive, or files of a directory.
type memberStore interface {
	openMember(name string) (*member, error)
}

// member is an open member of an image. The caller closes it.
type member struct {
	*io.SectionReader
	io.Closer
}

// unpackArchive finds out what kind of archive f is and unpacks it.
func unpackArchive(ctx context.Context, f *os.File, u *unpacker) (Config, error) {
	a, err := indexArchive(ctx, f, u.opts.Limits.Entries)
	if err != nil {
		return Config{}, err
	}
	var img imageRef
	switch {
	case a.hasMember("oci-layout") && a.hasMember("index.json"):
		img, err = openIndexFile(a, u.opts)
	case a.isDockerSave():
		img, err = a.openDockerSave()
	default:
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return Config{}, err
		}
		return Config{}, u.layers.Unpack(ctx, ctxReader{ctx, f}, false)
	}
	if err != nil {
		return Config{}, err
	}
	return unpackImage(ctx, a, img, u)
}

// unpackImage unpacks the layers of an image, lowest first.
func unpackImage(ctx context.Context, s memberStore, img imageRef, u *unpacker) (Config, error) {
	if len(img.layers) > MaxLayers {
		return Config{}, driver.Errorf(vole.ErrUnsupported, "the image has %d layers; the most is %d", len(img.layers), MaxLayers)
	}
	for i, l := range img.layers {
		if err := unpackLayer(ctx, s, u, l, img.config.RootFS.DiffIDs, i); err != nil {
			return Config{}, fmt.Errorf("layer %d of %d: %w", i+1, len(img.layers), err)
		}
	}
	return img.config.Config, nil
}

// indexArchive reads the headers of f. A root file system may have millions of members, but
// only those of an image's archive are remembered.
func indexArchive(ctx context.Context, f *os.File, limit int64) (*archive, error) {
	found := &archive{f: f, members: map[string]memberRange{}}
	t := tar.NewReader(f)
	for n := int64(0); ; n++ {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return nil, driver.Errorf(vole.ErrCorrupt, "not a tar file, or an empty one")
			}
			return found, nil
		}
		if err != nil {
			if n == 0 {
				return nil, driver.Errorf(vole.ErrCorrupt, "not a tar file (%v)", err)
			}
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if n >= limit {
			return nil, driver.Errorf(vole.ErrNoSpace, "more than %d entries", limit)
		}
		if !isImageMember(header) {
			continue
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		found.rememberMember(header, off)
	}
}

// rememberMember keeps where the content of a member is. What an archive is told by is
// remembered in any case.
func (a *archive) rememberMember(h *tar.Header, off int64) {
	p := memberRange{off: off, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink:
		p = memberRange{link: path.Join(path.Dir(h.Name), h.Linkname)}
	case tar.TypeLink:
		p = memberRange{link: path.Clean(h.Linkname)}
	default:
		return
	}
	name := strings.Clone(path.Clean(h.Name))
	if len(a.members) >= maxMembers && !a.hasMember(name) && name != "oci-layout" && name != "index.json" && name != "manifest.json" {
		a.incomplete = true
		return
	}
	a.members[name] = p
}

var imageSuffixes = []string{".json", ".tar", ".tar.gz", ".tar.bz2", ".tar.zst", ".tar.xz", ".tar.lz4"}

// isImageMember reports whether a member of that name can be part of an image's archive: OCI has
// blobs/ALG/HEX, docker save has ID/layer.tar and HEX.json, and other programs that write its
// form have HEX.tar.gz and sha256:HEX.
func isImageMember(h *tar.Header) bool {
	if len(h.Name) > maxMemberName || len(h.Linkname) > maxMemberName {
		return false
	}
	name := path.Clean(h.Name)
	switch strings.Count(name, "/") {
	case 0:
		return name == "oci-layout" || strings.HasPrefix(name, "sha256:") || slices.ContainsFunc(imageSuffixes,
			func(suffix string) bool { return strings.HasSuffix(name, suffix) })
	case 1:
		return strings.HasSuffix(name, "/layer.tar")
	}
	return strings.HasPrefix(name, "blobs/")
}

// hasMember reports whether the archive has a member of that name that was remembered.
func (a *archive) hasMember(name string) bool { _, ok := a.members[name]; return ok }

// openMember returns the member called name.
func (a *archive) openMember(name string) (*member, error) {
	name = path.Clean(name)
	for range 8 {
		p, ok := a.members[name]
		if !ok && a.incomplete {
			return nil, driver.Errorf(vole.ErrUnsupported, "the image's archive has more than %d members", maxMembers)
		}
		if !ok {
			return nil, driver.Errorf(vole.ErrCorrupt, "%q is missing in the image", name)
		}
		if p.link == "" {
			return &member{io.NewSectionReader(a.f, p.off, p.size), io.NopCloser(nil)}, nil
		}
		name = p.link
	}
	return nil, driver.Errorf(vole.ErrCorrupt, "%q is a chain of links in the image", name)
}

// readJSON reads the member called name into v.
func readJSON(s memberStore, name string, v any) error {
	m, err := s.openMember(name)
	if err != nil {
		return err
	}
	defer m.Close()
	return decodeJSON(m, name, nil, v)
}

// readJSON reads the JSON that d points to into v, and checks its size and digest.
func (d descriptor) readJSON(s memberStore, v any) error {
	m, sum, err := d.openBlob(s)
	if err != nil {
		return err
	}
	defer m.Close()
	return decodeJSON(m, d.Digest, sum, v)
}

// decodeJSON reads m into v, and checks its digest unless sum is nil.
func decodeJSON(m *member, name string, sum *checksum, v any) error {
	if m.Size() > MaxJSON {
		return driver.Errorf(vole.ErrCorrupt, "%q has %d bytes; the most for JSON is %d", name, m.Size(), MaxJSON)
	}
	b, err := io.ReadAll(m)
	if err != nil {
		return err
	}
	if sum != nil {
		sum.Write(b)
		if err := sum.verifyDigest(name); err != nil {
			return err
		}
	}
	if err := CheckJSON(b); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return driver.Errorf(vole.ErrCorrupt, "%q is not the JSON of an image: %v", name, err)
	}
	return nil
}

// imageRef is one image in an archive.
type imageRef struct {
	config imageConfig
	layers []layer // lowest first
}

// layer is one layer of an image: a member of docker save, which has no digest of it as it
// is packed, or a blob.
type layer struct {
	name string
	blob *descriptor // nil: of docker save
}

// imageConfig is the part of an image's configuration that matters here.
// https://github.com/opencontainers/image-spec/blob/main/config.md
type imageConfig struct {
	Config Config `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// dockerManifest is an element of docker save's manifest.json.
type dockerManifest struct {
	Config string
	Layers []string
}

// isDockerSave reports whether the archive's manifest.json is one of docker save: any tar of a
// root file system may have a file of that name.
func (a *archive) isDockerSave() bool {
	var m []dockerManifest
	return a.hasMember("manifest.json") && readJSON(a, "manifest.json", &m) == nil && len(m) > 0 && m[0].Config != ""
}

// openDockerSave opens the image of an archive of docker save, which must be the only one.
func (a *archive) openDockerSave() (imageRef, error) {
	var m []dockerManifest
	if err := readJSON(a, "manifest.json", &m); err != nil {
		return imageRef{}, err
	}
	if len(m) > 1 {
		return imageRef{}, driver.Errorf(vole.ErrInvalid, "the archive holds %d images; save one", len(m))
	}
	var img imageRef
	for _, name := range m[0].Layers {
		img.layers = append(img.layers, layer{name: name})
	}
	return img, readJSON(a, m[0].Config, &img.config)
}

// unpackLayer applies one layer, and checks that it is packed as its digest and size say,
// and that its tar has the digest that the configuration gives.
func unpackLayer(ctx context.Context, s memberStore, u *unpacker, l layer, diffIDs []string, number int) error {
	if len(diffIDs) <= number {
		return driver.Errorf(vole.ErrCorrupt, "the image's configuration names %d layers, its manifest more", len(diffIDs))
	}
	var part *member
	var packed *checksum
	var err error
	if l.blob == nil {
		part, err = s.openMember(l.name)
	} else {
		part, packed, err = l.blob.openBlob(s)
	}
	if err != nil {
		return err
	}
	defer part.Close()
	var in io.Reader = ctxReader{ctx, part}
	if packed != nil {
		in = io.TeeReader(in, packed)
	}
	r, err := transfer.Decompress(in)
	if err != nil {
		return err
	}
	if err := u.unpackVerified(ctx, r, diffIDs[number]); err != nil || packed == nil {
		return err
	}
	// What follows the end of the compressed data is of the blob, too.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	return packed.verifyDigest(l.blob.Digest)
}

// unpackVerified applies a layer's tar, which must have a digest.
func (u *unpacker) unpackVerified(ctx context.Context, r io.Reader, diffID string) error {
	sum := sha256.New()
	// All that layers hold is charged, padding too, and again when a layer is named twice.
	tee := io.TeeReader(budgetReader{r, &u.left, u.opts.Limits.exceededError}, sum)
	if err := u.layers.Unpack(ctx, tee, true); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diffID {
		return driver.Errorf(vole.ErrCorrupt, "its content has the digest %s, not %s", got, diffID)
	}
	return nil
}
