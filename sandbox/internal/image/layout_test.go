//go:build unix

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/volehq/vole"
)

// layoutOf unpacks an OCI archive into a directory.
func layoutOf(t testing.TB, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		data, rerr := io.ReadAll(r)
		file := filepath.Join(dir, h.Name)
		if err := errors.Join(err, rerr, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func unpackDir(t testing.TB, dir string, opts Options) (string, Config, error) {
	t.Helper()
	root := t.TempDir()
	opts.OS, opts.Arch = "linux", "amd64"
	cfg, err := Unpack(t.Context(), dir, root, t.TempDir(), opts)
	return root, cfg, err
}

func blobOf(dir string, b []byte) string {
	return filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(digest(b), "sha256:"))
}

func TestLayout(t *testing.T) {
	l1, l2 := makeTar(t, tarEntry{name: "etc/a", data: "1"}), makeTar(t, tarEntry{name: "etc/b", data: "2"})
	want := []string{"etc/", "etc/a=1", "etc/b=2"}
	for name, pack := range map[string]func(testing.TB, []byte) []byte{"plain": packNothing, "gzip": packGzip, "zstd": packZstd} {
		root, cfg, err := unpackDir(t, layoutOf(t, ociArchive(t, pack, l1, l2)), Options{})
		if got := listTree(t, root); err != nil || !slices.Equal(got, want) || cfg.WorkingDir != "/w" {
			t.Errorf("%s: %v, %+v, %v", name, got, cfg, err)
		}
	}
	if _, _, err := unpackDir(t, t.TempDir(), Options{}); !errors.Is(err, vole.ErrInvalid) || !strings.Contains(err.Error(), "--rootfs") {
		t.Errorf("a directory that is none: %v", err)
	}
}

// A layout that holds several images gives the one of a digest.
func TestLayoutByDigest(t *testing.T) {
	layer := makeTar(t, tarEntry{name: "a", data: "1"})
	dir := layoutOf(t, ociArchive(t, packGzip, layer))
	cfg := []byte(configOf(t, layer))
	m := []byte(mustJSON(t, map[string]any{
		"config": map[string]any{"digest": digest(cfg), "size": len(cfg)},
		"layers": []any{map[string]any{"digest": digest(packGzip(t, layer)), "size": len(packGzip(t, layer))}},
	}))
	if err := errors.Join(os.WriteFile(blobOf(dir, m), m, 0o600), os.Remove(filepath.Join(dir, "index.json"))); err != nil {
		t.Fatal(err)
	}
	root, _, err := unpackDir(t, dir, Options{Digest: digest(m)})
	if got := listTree(t, root); err != nil || !slices.Equal(got, []string{"a=1"}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, d := range []string{digest(nil), "sha256:../../x", "x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, _, err := unpackDir(t, dir, Options{Digest: d}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", d, err)
		}
	}
}

// Blobs are what their digest and size say, in archives and in directories.
func TestBlobsAreVerified(t *testing.T) {
	layer := makeTar(t, tarEntry{name: "a", data: strings.Repeat("x", 5000)})
	packed := packGzip(t, layer)
	other := packGzip(t, makeTar(t, tarEntry{name: "a", data: "evil"}))
	for name, spoil := range map[string]func(file string) error{
		"other content":  func(file string) error { return os.WriteFile(file, other, 0o600) },
		"content behind": func(file string) error { return os.WriteFile(file, append(slices.Clone(packed), 'x'), 0o600) },
		"another header": func(file string) error {
			return os.WriteFile(file, append([]byte{0x1f, 0x8b, 8, 0, 1}, packed[5:]...), 0o600)
		},
		"cut":         func(file string) error { return os.Truncate(file, int64(len(packed)-1)) },
		"missing":     os.Remove,
		"a pipe":      func(file string) error { return errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)) },
		"a directory": func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
	} {
		dir := layoutOf(t, ociArchive(t, packGzip, layer))
		if err := spoil(blobOf(dir, packed)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := unpackDir(t, dir, Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	// A link that leads out of the layout is not followed.
	dir := layoutOf(t, ociArchive(t, packGzip, layer))
	outside := filepath.Join(t.TempDir(), "blob")
	if err := errors.Join(os.Rename(blobOf(dir, packed), outside), os.Symlink(outside, blobOf(dir, packed))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := unpackDir(t, dir, Options{}); err == nil {
		t.Error("a blob outside the layout was read")
	}
	// Sizes that are stated are those of the members of an archive, too.
	b := ociArchive(t, packNothing, layer)
	wrong := bytes.Replace(b, []byte(`"size":`), []byte(`"siz_":`), 1)
	if _, _, err := unpackBytes(t, wrong, Options{}); !errors.Is(err, vole.ErrCorrupt) {
		t.Errorf("no size: %v, want ErrCorrupt", err)
	}
}

// TestJSONIsBounded refuses lists whose values take far more memory than their bytes.
func TestJSONIsBounded(t *testing.T) {
	many := `{"manifests":[{}` + strings.Repeat(",{}", maxValues+1) + `]}`
	b := makeTar(t, tarEntry{name: "oci-layout", data: "{}"}, tarEntry{name: "index.json", data: many})
	if _, _, err := unpackBytes(t, b, Options{}); !errors.Is(err, vole.ErrCorrupt) || !strings.Contains(err.Error(), "values") {
		t.Errorf("%d values: %v", maxValues, err)
	}
}
