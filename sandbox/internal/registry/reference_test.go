package registry

import (
	"errors"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseReference(t *testing.T) {
	for in, want := range map[string]string{
		"ubuntu":                              "docker.io/library/ubuntu:latest",
		"ubuntu:24.04":                        "docker.io/library/ubuntu:24.04",
		"org/tool":                            "docker.io/org/tool:latest",
		"docker.io/library/ubuntu":            "docker.io/library/ubuntu:latest",
		"docker://ubuntu":                     "docker.io/library/ubuntu:latest",
		"ghcr.io/a/b:1.2":                     "ghcr.io/a/b:1.2",
		"localhost:5000/x":                    "localhost:5000/x:latest",
		"ghcr.io/a/b@" + someDigest:           "ghcr.io/a/b@" + someDigest,
		"ubuntu:24.04@" + someDigest:          "docker.io/library/ubuntu:24.04@" + someDigest,
		"docker.io/library/x:1@" + someDigest: "docker.io/library/x:1@" + someDigest,
	} {
		ref, err := ParseReference(in)
		if err != nil || ref.String() != want {
			t.Errorf("%q: %v, %v; want %s", in, ref, err, want)
			continue
		}
		pinned := ref.Pinned(someDigest)
		if again, err := ParseReference(pinned); err != nil || !strings.HasSuffix(pinned, "@"+someDigest) || again.ref.Identifier() != someDigest {
			t.Errorf("%q is pinned as %q: %v", in, pinned, err)
		}
	}
	for _, in := range []string{"", "Ubuntu", "a b", "x:y:z", "a//b", "x@sha256:1", ":1", "-", "x\x00", "../x", strings.Repeat("x", 2000)} {
		if ref, err := ParseReference(in); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%q: %v, %v; want ErrInvalid", in, ref.ref, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"ubuntu", "a/b:c", "h:1/a@" + someDigest, "docker://x", "[::1]:5000/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			return
		}
		if _, err := ParseReference(ref.String()); err != nil {
			t.Errorf("%q is written %q: %v", s, ref, err)
		}
		if _, err := ParseReference(ref.Pinned(someDigest)); err != nil {
			t.Errorf("%q is pinned as %q: %v", s, ref.Pinned(someDigest), err)
		}
	})
}

// FuzzManifest has manifests and indexes as a registry may send them.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"config":{"digest":"` + someDigest + `","size":1},"layers":[{"digest":"` + someDigest + `","size":2}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"` + someDigest + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseManifest(b); err == nil {
			for _, l := range append(m.Layers, m.Config) {
				if l.Size < 0 || l.Size > maxBlob || strings.ContainsAny(blobPath(l.Digest)[len("blobs/sha256/"):], "/.") {
					t.Errorf("%+v", l)
				}
			}
		}
		_, _ = choosePlatform(b)
	})
}
