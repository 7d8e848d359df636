package registry

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

// maxReference is more than a host, a repository, a tag and a digest can have.
const maxReference = 1024

// Reference names an image of a registry.
type Reference struct {
	ref  name.Reference
	full string // with its tag beside a digest, which ref forgets
}

// ParseReference parses HOST/REPOSITORY[:TAG][@DIGEST]. Without a host it means Docker Hub,
// and without a tag or digest the tag latest. Errors match ErrInvalid.
func ParseReference(s string) (Reference, error) {
	if len(s) > maxReference {
		return Reference{}, driver.Errorf(vole.ErrInvalid, "the name of the image has %d bytes; the most is %d", len(s), maxReference)
	}
	s = strings.TrimPrefix(s, "docker://")
	invalid := driver.Errorf(vole.ErrInvalid, "%q is neither a file nor the name of an image, as docker.io/library/ubuntu:24.04", s)
	ref, err := name.ParseReference(s)
	if err != nil || !isValidRepository(ref.Context().RepositoryStr()) || !isValidRepository(strings.Trim(ref.Context().RegistryStr(), "[]")) {
		return Reference{}, invalid
	}
	r := Reference{ref, ref.Name()}
	if base, digest, ok := strings.Cut(s, "@"); ok && strings.Contains(base[strings.LastIndex(base, "/")+1:], ":") {
		tag, err := name.NewTag(base)
		if err != nil {
			return Reference{}, invalid
		}
		r.full = tag.Name() + "@" + digest
	}
	if rest, ok := strings.CutPrefix(r.full, name.DefaultRegistry+"/"); ok {
		r.full = "docker.io/" + rest
	}
	return r, nil
}

// isValidRepository checks that each element of a repository's path begins and ends with a
// letter or digit. That the rest has nothing else than is allowed, package name checks.
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
func isValidRepository(path string) bool {
	for e := range strings.SplitSeq(path, "/") {
		if e == "" || strings.Trim(e, ".-_") != e {
			return false
		}
	}
	return true
}

// String is the whole name, with host and tag or digest.
func (r Reference) String() string { return r.full }

// Pinned is the name of one image forever: the reference with a digest.
func (r Reference) Pinned(digest string) string {
	if _, ok := r.ref.(name.Digest); ok {
		return r.full
	}
	return r.full + "@" + digest
}
