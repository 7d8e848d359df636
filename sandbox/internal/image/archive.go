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
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// archive is a tar file whose members can be read in any order.
type archive struct {
	f         *os.File
	parts     map[string]part
	forgotten bool // there are more members than parts has
}

type part struct {
	off, size int64
	link      string // of a link: the member it stands for
}

// unpackArchive finds out what kind of archive f is and unpacks it.
func unpackArchive(ctx context.Context, f *os.File, u *unpacker) (Config, error) {
	a, err := index(ctx, f, u.opts.Limits.entries())
	if err != nil {
		return Config{}, err
	}
	var img imageRef
	switch {
	case a.has("oci-layout") && a.has("index.json"):
		img, err = a.openOCI(u.opts)
	case a.isDockerSave():
		img, err = a.openDocker()
	default:
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return Config{}, err
		}
		return Config{}, u.layer(ctxReader{ctx, f}, false)
	}
	if err != nil {
		return Config{}, err
	}
	if len(img.layers) > maxLayers {
		return Config{}, driver.Errorf(vole.ErrUnsupported, "the image has %d layers; the most is %d", len(img.layers), maxLayers)
	}
	for i, l := range img.layers {
		if err := a.unpackLayer(ctx, u, l, img.config.RootFS.DiffIDs, i); err != nil {
			return Config{}, fmt.Errorf("layer %d of %d: %w", i+1, len(img.layers), err)
		}
	}
	c := img.config.Config
	return Config{Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, User: c.User}, nil
}

// index reads the headers of f. A root file system may have millions of members, but
// only those of an image's archive are remembered.
func index(ctx context.Context, f *os.File, limit int64) (*archive, error) {
	a := &archive{f: f, parts: map[string]part{}}
	t := tar.NewReader(f)
	for n := int64(0); ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return nil, driver.Errorf(vole.ErrCorrupt, "not a tar file, or an empty one")
			}
			return a, nil
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
		if !ofImage(h) {
			continue
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		a.remember(h, off)
	}
}

// remember keeps where the content of a member is. What an archive is told by is
// remembered in any case.
func (a *archive) remember(h *tar.Header, off int64) {
	p := part{off: off, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink:
		p = part{link: path.Join(path.Dir(h.Name), h.Linkname)}
	case tar.TypeLink:
		p = part{link: path.Clean(h.Linkname)}
	default:
		return
	}
	name := strings.Clone(path.Clean(h.Name))
	if len(a.parts) >= maxMembers && !a.has(name) && name != "oci-layout" && name != "index.json" && name != "manifest.json" {
		a.forgotten = true
		return
	}
	a.parts[name] = p
}

// ofImage reports whether a member of that name can be part of an image's archive:
// OCI has blobs/ALG/HEX, docker save has ID/layer.tar and HEX.json.
func ofImage(h *tar.Header) bool {
	if len(h.Name) > maxMemberName || len(h.Linkname) > maxMemberName {
		return false
	}
	name := path.Clean(h.Name)
	switch strings.Count(name, "/") {
	case 0:
		return name == "oci-layout" || strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".tar")
	case 1:
		return strings.HasSuffix(name, "/layer.tar")
	}
	return strings.HasPrefix(name, "blobs/")
}

func (a *archive) has(name string) bool { _, ok := a.parts[name]; return ok }

// open returns the member called name.
func (a *archive) open(name string) (*io.SectionReader, error) {
	name = path.Clean(name)
	for range 8 {
		p, ok := a.parts[name]
		if !ok && a.forgotten {
			return nil, driver.Errorf(vole.ErrUnsupported, "the image's archive has more than %d members", maxMembers)
		}
		if !ok {
			return nil, driver.Errorf(vole.ErrCorrupt, "%q is missing in the image", name)
		}
		if p.link == "" {
			return io.NewSectionReader(a.f, p.off, p.size), nil
		}
		name = p.link
	}
	return nil, driver.Errorf(vole.ErrCorrupt, "%q is a chain of links in the image", name)
}

// readJSON reads the member called name into v, and checks its digest if there is one.
func (a *archive) readJSON(name, digest string, v any) error {
	r, err := a.open(name)
	if err != nil {
		return err
	}
	if r.Size() > maxJSON {
		return driver.Errorf(vole.ErrCorrupt, "%q has %d bytes; the most for JSON is %d", name, r.Size(), maxJSON)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(b); digest != "" && digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return driver.Errorf(vole.ErrCorrupt, "%q does not have the digest %s", name, digest)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return driver.Errorf(vole.ErrCorrupt, "%q is not the JSON of an image: %v", name, err)
	}
	return nil
}

// imageRef is one image in an archive.
type imageRef struct {
	config imageConfig
	layers []string // member names, lowest first
}

// imageConfig is the part of an image's configuration that matters here.
// https://github.com/opencontainers/image-spec/blob/main/config.md
type imageConfig struct {
	Config struct {
		Env, Entrypoint, Cmd []string
		WorkingDir, User     string
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// dockerManifest is an element of docker save's manifest.json.
type dockerManifest struct {
	Config string
	Layers []string
}

func (a *archive) isDockerSave() bool {
	var m []dockerManifest
	return a.has("manifest.json") && a.readJSON("manifest.json", "", &m) == nil && len(m) > 0 && m[0].Config != ""
}

func (a *archive) openDocker() (imageRef, error) {
	var m []dockerManifest
	if err := a.readJSON("manifest.json", "", &m); err != nil {
		return imageRef{}, err
	}
	if len(m) > 1 {
		return imageRef{}, driver.Errorf(vole.ErrInvalid, "the archive holds %d images; save one", len(m))
	}
	img := imageRef{layers: m[0].Layers}
	return img, a.readJSON(m[0].Config, "", &img.config)
}

// descriptor points to a blob.
// https://github.com/opencontainers/image-spec/blob/main/descriptor.md
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
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

// blob names the member that holds what d points to.
func (d descriptor) blob() (string, error) {
	alg, sum, ok := strings.Cut(d.Digest, ":")
	if b, err := hex.DecodeString(sum); !ok || alg != "sha256" || err != nil || len(b) != sha256.Size {
		return "", driver.Errorf(vole.ErrCorrupt, "digest %q is not a SHA-256", d.Digest)
	}
	return "blobs/" + alg + "/" + sum, nil
}

func (a *archive) openOCI(opts Options) (imageRef, error) {
	var m manifest
	if err := a.readJSON("index.json", "", &m); err != nil {
		return imageRef{}, err
	}
	for range 4 { // indexes may be nested
		if m.Config != nil {
			return a.ociImage(m)
		}
		d, err := choose(m.Manifests, opts)
		if err != nil {
			return imageRef{}, err
		}
		name, err := d.blob()
		if err != nil {
			return imageRef{}, err
		}
		m = manifest{}
		if err := a.readJSON(name, d.Digest, &m); err != nil {
			return imageRef{}, err
		}
	}
	if m.Config != nil {
		return a.ociImage(m)
	}
	return imageRef{}, driver.Errorf(vole.ErrCorrupt, "the image's index is nested too deeply")
}

// choose picks the image of an index that runs here.
func choose(list []descriptor, opts Options) (descriptor, error) {
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

func (a *archive) ociImage(m manifest) (imageRef, error) {
	var img imageRef
	name, err := m.Config.blob()
	if err != nil {
		return img, err
	}
	if err := a.readJSON(name, m.Config.Digest, &img.config); err != nil {
		return img, err
	}
	for _, l := range m.Layers {
		name, err := l.blob()
		if err != nil {
			return img, err
		}
		img.layers = append(img.layers, name)
	}
	return img, nil
}

// unpackLayer applies one layer, and checks that its tar has the digest that the
// configuration gives.
func (a *archive) unpackLayer(ctx context.Context, u *unpacker, name string, diffIDs []string, i int) error {
	if len(diffIDs) <= i {
		return driver.Errorf(vole.ErrCorrupt, "the image's configuration names %d layers, its manifest more", len(diffIDs))
	}
	part, err := a.open(name)
	if err != nil {
		return err
	}
	r, _, err := decompress(ctxReader{ctx, part})
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	// All that layers hold is charged, padding too, and again when a layer is named twice.
	tee := io.TeeReader(budgetReader{r, &u.left, u.opts.Limits.exceeded}, sum)
	if err := u.layer(tee, true); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diffIDs[i] {
		return driver.Errorf(vole.ErrCorrupt, "its content has the digest %s, not %s", got, diffIDs[i])
	}
	return nil
}
