package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/volehq/vole/transfer"
)

// An image of a file system begins as an empty archive does, with zeros: what follows
// tells them apart.
func TestFromTarZerosFirst(t *testing.T) {
	image := make([]byte, 200<<10)
	image[1080], image[1081] = 0x53, 0xef
	late := make([]byte, 200<<10)
	copy(late[32769:], "CD001")
	var full bytes.Buffer
	w := tar.NewWriter(&full)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}), w.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		stream []byte
		want   error
	}{
		{"an image of ext4", image, transfer.ErrNoArchive},
		{"an image of ISO 9660", late, transfer.ErrNoArchive},
		{"an empty archive", make([]byte, 1024), nil},
		{"a padded empty archive", make([]byte, 10<<10), nil},
		{"zeros", make([]byte, 3<<20), nil},
		{"an archive with something behind its end", append(bytes.Clone(full.Bytes()), "more"...), nil},
	} {
		for _, packed := range []bool{false, true} {
			in := c.stream
			if packed {
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				z.Write(c.stream)
				z.Close()
				in = b.Bytes()
			}
			dir := t.TempDir()
			host, err := transfer.OpenHost(dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = transfer.FromTar(t.Context(), host, ".", bytes.NewReader(in), transfer.Options{})
			host.Close()
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s, packed %t: %v; want %v", c.name, packed, err, c.want)
			}
			if list, _ := fs.ReadDir(os.DirFS(dir), "."); c.want != nil && len(list) > 0 {
				t.Errorf("%s: %v was made", c.name, list)
			}
		}
	}
}
