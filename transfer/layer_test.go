package transfer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole"
)

// layerTar makes a tar of regular files, empty but for a letter, and of links
// ("name" and "-> target").
func layerTar(t testing.TB, entries ...[2]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e[0], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(e[1]))}
		if target, ok := bytes.CutPrefix([]byte(e[1]), []byte("-> ")); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, string(target), 0
		}
		mustSucceed(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err := w.Write([]byte(e[1]))
			mustSucceed(t, err)
		}
	}
	mustSucceed(t, w.Close())
	return buf.Bytes()
}

func newTestLayers(t testing.TB) (*Layers, string) {
	t.Helper()
	dir := t.TempDir()
	h, err := OpenHost(dir)
	mustSucceed(t, err)
	t.Cleanup(func() { h.Close() })
	return NewLayers(h, LayerOptions{Owner: os.Geteuid() == 0, MaxBytes: 1 << 20, MaxEntries: 1 << 16}), dir
}

// A directory that a layer says many times is opaque is cleared once.
func TestOpaqueOnce(t *testing.T) {
	var entries [][2]string
	for i := range 1000 {
		entries = append(entries, [2]string{fmt.Sprintf("d/%d", i), "1"}, [2]string{"d/.wh..wh..opq", ""})
	}
	l, dir := newTestLayers(t)
	mustSucceed(t, l.Unpack(t.Context(), bytes.NewReader(layerTar(t, entries...)), true))
	if _, err := os.Stat(filepath.Join(dir, "d/999")); err != nil || l.lookups > 10_000 {
		t.Errorf("%d look-ups, %v", l.lookups, err)
	}
}

// Links of a layer are those of a root file system: absolute ones begin at its root, and
// what goes up too far stays there. Whatever they say, nothing leaves the directory.
func TestLayerLinks(t *testing.T) {
	l, dir := newTestLayers(t)
	b := layerTar(t, [2]string{"real/f", "1"}, [2]string{"abs", "-> /real"}, [2]string{"up", "-> ../../../real/sub/.."},
		[2]string{"real/sub/g", "2"}, [2]string{"abs/h", "3"}, [2]string{"up/i", "4"}, [2]string{"out", "-> " + dir}, [2]string{"out/j", "5"})
	mustSucceed(t, l.Unpack(t.Context(), bytes.NewReader(b), true))
	mustSucceed(t, l.Finish(t.Context()))
	for name, want := range map[string]string{"real/f": "1", "real/sub/g": "2", "real/h": "3", "real/i": "4", dir + "/j": "5"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	var chain [][2]string
	for i := range 42 {
		chain = append(chain, [2]string{fmt.Sprintf("c%d", i), fmt.Sprintf("-> c%d", i+1)})
	}
	chain = append(chain, [2]string{"c42/x", "1"}, [2]string{"c1/y", "1"})
	l, _ = newTestLayers(t)
	if err := l.Unpack(t.Context(), bytes.NewReader(layerTar(t, chain...)), false); !errors.Is(err, vole.ErrLoop) {
		t.Errorf("41 links: %v, want ErrLoop", err)
	}
}

// What a layer has takes the place of what an earlier one has, of whatever type.
func TestLayersReplace(t *testing.T) {
	l, dir := newTestLayers(t)
	for _, layer := range [][]byte{
		layerTar(t, [2]string{"a/b", "1"}, [2]string{"f", "1"}, [2]string{"l", "-> a"}),
		layerTar(t, [2]string{"a", "2"}, [2]string{"f/g", "2"}),
	} {
		if err := l.Unpack(t.Context(), bytes.NewReader(layer), true); err != nil && !errors.Is(err, vole.ErrNotDir) {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != "2" {
		t.Errorf("%q, %v", got, err)
	}
}

// An owner that no user has is left out, as one that is out of the user namespace.
func TestLayerOwners(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	mustSucceed(t, w.WriteHeader(&tar.Header{Name: "f", Mode: 0o4755, Typeflag: tar.TypeReg, Uid: 1 << 40, Format: tar.FormatPAX}))
	mustSucceed(t, w.Close())
	l, dir := newTestLayers(t)
	mustSucceed(t, l.Unpack(t.Context(), bytes.NewReader(buf.Bytes()), false))
	if st, err := os.Stat(filepath.Join(dir, "f")); err != nil || st.Mode() != 0o755 {
		t.Errorf("%v, %v", st, err)
	}
}

func mustSucceed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
