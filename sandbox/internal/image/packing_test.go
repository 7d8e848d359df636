//go:build unix

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"testing"

	"github.com/volehq/vole"
)

// Images and their layers may be compressed by whatever a tar stream may be.
func TestBzip2(t *testing.T) {
	bz := func(t testing.TB, b []byte) []byte {
		t.Helper()
		cmd := exec.Command("bzip2", "-c") // which Go cannot write
		cmd.Stdin = bytes.NewReader(b)
		out, err := cmd.Output()
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip("needs bzip2")
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	layer := makeTar(t, tarEntry{name: "a/b", data: "1"})
	for name, b := range map[string][]byte{
		"plain": bz(t, layer), "docker save": bz(t, dockerSave(t, layer)), "oci, layers": ociArchive(t, bz, layer), "oci, all": bz(t, ociArchive(t, bz, layer)),
	} {
		root, _, err := unpackBytes(t, b, Options{})
		if got := listTree(t, root); err != nil || !slices.Equal(got, []string{"a/", "a/b=1"}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	cut := bz(t, layer)
	if _, _, err := unpackBytes(t, cut[:len(cut)-8], Options{}); !errors.Is(err, vole.ErrCorrupt) {
		t.Errorf("cut: %v, want ErrCorrupt", err)
	}
	if _, _, err := unpackBytes(t, bz(t, make([]byte, 1<<20)), Options{Limits: Limits{Bytes: 1 << 19}}); !errors.Is(err, vole.ErrNoSpace) {
		t.Errorf("zeros beyond the limit: %v, want ErrNoSpace", err)
	}
}

// A sparse file of an archive is unpacked by its ranges, and counts as what it claims.
func TestSparseEntries(t *testing.T) {
	sparse := func(size, ranges string) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o644, Size: 3, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"VLE.sparse.size": size, "VLE.sparse.numblocks": "1", "VLE.sparse.map": ranges, "VLE.sparse.name": "real"}})
		_, werr := w.Write([]byte("abc"))
		if err := errors.Join(err, werr, w.Close()); err != nil {
			t.Fatal(err)
		}
		return bytes.ReplaceAll(buf.Bytes(), []byte("VLE."), []byte("GNU.")) // which Go does not write
	}
	root, _, err := unpackBytes(t, sparse("10", "4,3"), Options{})
	if got := listTree(t, root); err != nil || !slices.Equal(got, []string{"real=\x00\x00\x00\x00abc\x00\x00\x00"}) {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := unpackBytes(t, sparse("1000000000000", "4,3"), Options{}); !errors.Is(err, vole.ErrNoSpace) {
		t.Errorf("a file that claims a terabyte: %v, want ErrNoSpace", err)
	}
	for _, ranges := range []string{"8,3", "4,4", "-4,3", "x,3"} {
		if _, _, err := unpackBytes(t, dockerSave(t, sparse("10", ranges)), Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("ranges %s: %v, want ErrCorrupt", ranges, err)
		}
	}
}
