//go:build unix

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

// TestLimitsForFile has small files unpack to little, and large ones to the limit.
func TestLimitsForFile(t *testing.T) {
	for _, tt := range []struct{ limit, size, want int64 }{
		{0, 0, 256 << 20},
		{0, 10 << 10, 256<<20 + 1100*10<<10},
		{0, 1 << 30, 64 << 30},
		{0, 1<<63 - 1, 64 << 30},
		{1 << 19, 1 << 20, 1 << 19},
		{1 << 19, 1, 1 << 19},
	} {
		if got := (Limits{Bytes: tt.limit}).scaledToFile(tt.size).Bytes; got != tt.want {
			t.Errorf("limit %d, a file of %d: %d, want %d", tt.limit, tt.size, got, tt.want)
		}
	}
}

func indexOf(t *testing.T, b []byte) *archive {
	t.Helper()
	file := filepath.Join(t.TempDir(), "i.tar")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a, err := indexArchive(t.Context(), f, defaultEntries)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestIndexIsBounded has the index of an archive remember no long names, and few names,
// but always those by which an image is told.
func TestIndexIsBounded(t *testing.T) {
	long := strings.Repeat("x", 500_000)
	a := indexOf(t, makeTar(t, tarEntry{name: long + ".json", data: "1"}, tarEntry{name: "l.json", data: long, kind: tar.TypeSymlink},
		tarEntry{name: "h.json", data: long, kind: tar.TypeLink}, tarEntry{name: "blobs/" + long, data: "1"}))
	if len(a.members) != 0 {
		t.Errorf("%d members are remembered", len(a.members))
	}

	var ents []tarEntry
	for i := range maxMembers + 1 {
		ents = append(ents, tarEntry{name: fmt.Sprintf("blobs/sha256/%d", i), kind: tar.TypeReg})
	}
	ents = append(ents, tarEntry{name: "manifest.json", data: `[{"Config":"c.json","Layers":[]}]`}, tarEntry{name: "c.json", data: "{}"})
	a = indexOf(t, makeTar(t, ents...))
	if len(a.members) > maxMembers+3 || !a.hasMember("manifest.json") {
		t.Errorf("%d members are remembered, manifest.json: %v", len(a.members), a.hasMember("manifest.json"))
	}
	if _, err := a.openDockerSave(); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("a member that is not remembered: %v, want ErrUnsupported", err)
	}
}

// TestLayersAreBounded names one layer many times.
func TestLayersAreBounded(t *testing.T) {
	layer := makeTar(t, tarEntry{name: "a", data: "1"})
	many := make([][]byte, MaxLayers+1)
	for i := range many {
		many[i] = layer
	}
	if _, _, err := unpackBytes(t, dockerSave(t, many...), Options{}); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("%d layers: %v, want ErrUnsupported", len(many), err)
	}
	padded := append(makeTar(t, tarEntry{name: "a", data: "1"}), make([]byte, 300<<10)...)
	for n, want := range map[int]error{3: nil, 4: vole.ErrNoSpace} {
		layers := make([][]byte, n)
		for i := range layers {
			layers[i] = padded
		}
		b := ociArchive(t, packGzip, layers...)
		if _, _, err := unpackBytes(t, b, Options{Limits: Limits{Bytes: 1 << 20}, OS: "linux", Arch: "amd64"}); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%d layers with much padding: %v, want %v", n, err, want)
		}
	}
}

// TestPathsAreBounded has deep paths, and parents that no entry names.
func TestPathsAreBounded(t *testing.T) {
	deep := strings.Repeat("d/", 256)
	if _, _, err := unpackBytes(t, makeTar(t, tarEntry{name: deep + "f", data: "1"}), Options{}); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("a deep path: %v, want ErrUnsupported", err)
	}
	if _, _, err := unpackBytes(t, makeTar(t, tarEntry{name: "a/b/c/d/f", data: "1"}), Options{Limits: Limits{Entries: 4}}); !errors.Is(err, vole.ErrNoSpace) {
		t.Errorf("parents beyond the limit: %v, want ErrNoSpace", err)
	}
	if _, _, err := unpackBytes(t, makeTar(t, tarEntry{name: "a/b/c/d/f", data: "1"}), Options{Limits: Limits{Entries: 5}}); err != nil {
		t.Errorf("as many entries as allowed: %v", err)
	}
}
