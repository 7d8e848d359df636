//go:build unix

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole"
)

// tarEntry is an entry of a tar file: "name" with content, or what kind says.
type tarEntry struct {
	name, data string
	kind       byte // 0: regular, or a directory when the name ends in "/"
	mode       int64
}

func makeTar(t testing.TB, ents ...tarEntry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range ents {
		h := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: e.kind}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		switch {
		case e.kind == tar.TypeSymlink || e.kind == tar.TypeLink:
			h.Linkname = e.data
		case e.kind == 0 && strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.kind == 0:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(e.data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func packGzip(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func packZstd(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func digest(b []byte) string { s := sha256.Sum256(b); return "sha256:" + hex.EncodeToString(s[:]) }

func mustJSON(t testing.TB, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// configOf writes an image's configuration for plain layers.
func configOf(t testing.TB, layers ...[]byte) string {
	var ids []string
	for _, l := range layers {
		ids = append(ids, digest(l))
	}
	return mustJSON(t, map[string]any{
		"config": map[string]any{"Env": []string{"A=1"}, "Entrypoint": []string{"/init"}, "Cmd": []string{"x"}, "WorkingDir": "/w", "User": "u"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
}

func dockerSave(t testing.TB, layers ...[]byte) []byte {
	cfg := configOf(t, layers...)
	ents := []tarEntry{{name: "cfg.json", data: cfg}}
	var names []string
	for i, l := range layers {
		names = append(names, fmt.Sprintf("l%d/layer.tar", i))
		ents = append(ents, tarEntry{name: names[i], data: string(l)})
	}
	m := mustJSON(t, []map[string]any{{"Config": "cfg.json", "Layers": names, "RepoTags": []string{"x:1"}}})
	return makeTar(t, append(ents, tarEntry{name: "manifest.json", data: m})...)
}

// ociArchive makes an OCI archive, with layers packed by pack, behind a nested index.
func ociArchive(t testing.TB, pack func(testing.TB, []byte) []byte, layers ...[]byte) []byte {
	ents := []tarEntry{{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}}
	blob := func(s string) map[string]any {
		ents = append(ents, tarEntry{name: "blobs/sha256/" + strings.TrimPrefix(digest([]byte(s)), "sha256:"), data: s})
		return map[string]any{"mediaType": "x", "digest": digest([]byte(s)), "size": len(s)}
	}
	var list []any
	for _, l := range layers {
		list = append(list, blob(string(pack(t, l))))
	}
	m := blob(mustJSON(t, map[string]any{"config": blob(configOf(t, layers...)), "layers": list}))
	m["platform"] = map[string]string{"os": "linux", "architecture": "amd64"}
	other := map[string]any{"digest": digest(nil), "platform": map[string]string{"os": "windows", "architecture": "amd64"}}
	inner := blob(mustJSON(t, map[string]any{"manifests": []any{other, m}}))
	return makeTar(t, append(ents, tarEntry{name: "index.json", data: mustJSON(t, map[string]any{"manifests": []any{inner}})})...)
}

func unpackBytes(t testing.TB, b []byte, opts Options) (string, Config, error) {
	t.Helper()
	dir := t.TempDir()
	file, root := filepath.Join(dir, "image.tar"), filepath.Join(dir, "outer", "root")
	if err := errors.Join(os.WriteFile(file, b, 0o600), os.MkdirAll(root, 0o755)); err != nil {
		t.Fatal(err)
	}
	opts.OS, opts.Arch = "linux", "amd64"
	cfg, err := Unpack(context.Background(), file, root, dir, opts)
	if list, lerr := os.ReadDir(filepath.Dir(root)); lerr != nil || len(list) != 1 {
		t.Errorf("beside the root: %v, %v", list, lerr)
	}
	if list, lerr := os.ReadDir(dir); lerr != nil || len(list) != 2 {
		t.Errorf("in the scratch directory: %v, %v", list, lerr)
	}
	return root, cfg, err
}

// listTree lists what is in a directory: "name=content", "name->target" or "name/".
func listTree(t testing.TB, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		name := strings.TrimPrefix(p, root+"/")
		switch {
		case d.IsDir():
			name += "/"
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			name += "->" + target
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			name += "=" + string(b)
		default:
			name += "?" + d.Type().String()
		}
		list = append(list, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func packNothing(_ testing.TB, b []byte) []byte { return b }

func TestFormats(t *testing.T) {
	l1 := makeTar(t, tarEntry{name: "./"}, tarEntry{name: "./etc/"}, tarEntry{name: "./etc/a", data: "1"}, tarEntry{name: "bin", data: "usr/bin", kind: tar.TypeSymlink},
		tarEntry{name: "usr/bin/sh", data: "sh"})
	l2 := makeTar(t, tarEntry{name: "etc/b", data: "2"}, tarEntry{name: "bin/ls", data: "ls"})
	want := []string{"bin->usr/bin", "etc/", "etc/a=1", "etc/b=2", "usr/", "usr/bin/", "usr/bin/ls=ls", "usr/bin/sh=sh"}
	for name, b := range map[string][]byte{
		"docker save": dockerSave(t, l1, l2), "docker save, gzip": packGzip(t, dockerSave(t, l1, l2)),
		"docker save, gzip layers": dockerSaveGz(t, l1, l2),
		"oci":                      ociArchive(t, packNothing, l1, l2), "oci, gzip": ociArchive(t, packGzip, l1, l2), "oci, zstd": packZstd(t, ociArchive(t, packZstd, l1, l2)),
	} {
		root, cfg, err := unpackBytes(t, b, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := listTree(t, root); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if cfg.WorkingDir != "/w" || cfg.User != "u" || !slices.Equal(cfg.Env, []string{"A=1"}) ||
			!slices.Equal(cfg.Entrypoint, []string{"/init"}) || !slices.Equal(cfg.Cmd, []string{"x"}) {
			t.Errorf("%s: %+v", name, cfg)
		}
	}
	for name, b := range map[string][]byte{"plain": l1, "gzip": packGzip(t, l1), "zstd": packZstd(t, l1)} {
		root, _, err := unpackBytes(t, b, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := listTree(t, root); len(got) != 6 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func dockerSaveGz(t testing.TB, layers ...[]byte) []byte {
	ents := []tarEntry{{name: "cfg.json", data: configOf(t, layers...)}}
	var names []string
	for i, l := range layers {
		names = append(names, fmt.Sprintf("l%d.tar", i))
		ents = append(ents, tarEntry{name: names[i], data: string(packGzip(t, l))})
	}
	m := mustJSON(t, []map[string]any{{"Config": "cfg.json", "Layers": names}})
	return makeTar(t, append(ents, tarEntry{name: "manifest.json", data: m})...)
}

func TestWhiteouts(t *testing.T) {
	l1 := makeTar(t, tarEntry{name: "a/x", data: "1"}, tarEntry{name: "a/y", data: "1"}, tarEntry{name: "b/x", data: "1"}, tarEntry{name: "b/d/z", data: "1"},
		tarEntry{name: "c/x", data: "1"}, tarEntry{name: "f", data: "1"}, tarEntry{name: "g/"}, tarEntry{name: "g/h", data: "1"})
	l2 := makeTar(t, tarEntry{name: "a/.wh.x"}, tarEntry{name: "b/new", data: "2"}, tarEntry{name: "b/d/kept", data: "2"}, tarEntry{name: "b/.wh..wh..opq"},
		tarEntry{name: ".wh.c"}, tarEntry{name: ".wh.nosuch"}, tarEntry{name: "f/"}, tarEntry{name: "f/i", data: "2"}, tarEntry{name: "g", data: "2"})
	root, _, err := unpackBytes(t, dockerSave(t, l1, l2), Options{})
	want := []string{"a/", "a/y=1", "b/", "b/d/", "b/d/kept=2", "b/new=2", "f/", "f/i=2", "g=2"}
	if got := listTree(t, root); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	// In a plain root file system such names are names.
	root, _, err = unpackBytes(t, makeTar(t, tarEntry{name: ".wh.a", data: "1"}, tarEntry{name: "a", data: "1"}), Options{})
	if got := listTree(t, root); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// What comes after an entry that replaces a link goes where the link no longer leads.
func TestReplacedLink(t *testing.T) {
	b := makeTar(t, tarEntry{name: "a/"}, tarEntry{name: "l", data: "a", kind: tar.TypeSymlink}, tarEntry{name: "l/x", data: "1"}, tarEntry{name: "l/"}, tarEntry{name: "l/y", data: "2"})
	root, _, err := unpackBytes(t, b, Options{})
	want := []string{"a/", "a/x=1", "l/", "l/y=2"}
	if got := listTree(t, root); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

func TestModes(t *testing.T) {
	b := makeTar(t, tarEntry{name: "d/", mode: 0o555}, tarEntry{name: "d/f", data: "x", mode: 0o4711}, tarEntry{name: "tmp/", mode: 0o1777},
		tarEntry{name: "closed/", mode: 0o700}, tarEntry{name: "p", kind: tar.TypeFifo, mode: 0o600}, tarEntry{name: "dev", kind: tar.TypeChar}, tarEntry{name: "hard", data: "d/f", kind: tar.TypeLink})
	root, _, err := unpackBytes(t, b, Options{Chown: os.Geteuid() == 0})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"d": fs.ModeDir | 0o555, "d/f": 0o711, "tmp": fs.ModeDir | fs.ModeSticky | 0o777, "closed": fs.ModeDir | 0o700, "p": fs.ModeNamedPipe | 0o600,
	} {
		if st, err := os.Lstat(filepath.Join(root, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, st, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "dev")); err == nil {
		t.Error("a device node was made")
	}
	if a, err := os.Stat(filepath.Join(root, "hard")); err != nil {
		t.Error(err)
	} else if b, _ := os.Stat(filepath.Join(root, "d/f")); !os.SameFile(a, b) {
		t.Error("the hard link is another file")
	}
	_ = os.Chmod(filepath.Join(root, "d"), 0o755)
}

// Whatever a tar says, nothing outside the root is made, changed, linked or removed.
func TestEscapes(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat("../", 12) + strings.TrimPrefix(victim, "/")
	dir := strings.Repeat("../", 12) + strings.TrimPrefix(outside, "/")
	for name, ents := range map[string][]tarEntry{
		"dots":                     {{name: deep, data: "evil"}},
		"dots within":              {{name: "a/" + deep, data: "evil"}},
		"absolute":                 {{name: victim, data: "evil"}},
		"through an absolute link": {{name: "l", data: outside, kind: tar.TypeSymlink}, {name: "l/victim", data: "evil"}},
		"through a relative link":  {{name: "l", data: dir, kind: tar.TypeSymlink}, {name: "l/victim", data: "evil"}},
		"through links of links":   {{name: "l", data: "m/..", kind: tar.TypeSymlink}, {name: "m", data: outside, kind: tar.TypeSymlink}, {name: "l/victim", data: "evil"}},
		"over a link":              {{name: "l", data: victim, kind: tar.TypeSymlink}, {name: "l", data: "evil"}},
		"directory over a link":    {{name: "l", data: outside, kind: tar.TypeSymlink}, {name: "l/"}, {name: "l/victim", data: "evil"}},
		"hard link to it":          {{name: "h", data: victim, kind: tar.TypeLink}, {name: "h", data: "evil"}},
		"hard link with dots":      {{name: "h", data: deep, kind: tar.TypeLink}},
		"hard link to a link":      {{name: "l", data: victim, kind: tar.TypeSymlink}, {name: "h", data: "l", kind: tar.TypeLink}, {name: "h", data: "evil"}},
		"hard link through a link": {{name: "l", data: outside, kind: tar.TypeSymlink}, {name: "h", data: "l/victim", kind: tar.TypeLink}},
		"whiteout":                 {{name: "l", data: outside, kind: tar.TypeSymlink}, {name: "l/.wh.victim"}},
		"whiteout of dots":         {{name: "a/.wh..."}, {name: "a/.wh..."}, {name: "a/.wh.."}},
		"opaque":                   {{name: "l", data: outside, kind: tar.TypeSymlink}, {name: "l/.wh..wh..opq"}},
		"pipe":                     {{name: "l", data: outside, kind: tar.TypeSymlink}, {name: "l/pipe", kind: tar.TypeFifo}},
	} {
		for form, b := range map[string][]byte{"plain": makeTar(t, ents...), "docker": dockerSave(t, makeTar(t, ents...))} {
			_, _, err := unpackBytes(t, b, Options{Chown: os.Geteuid() == 0})
			t.Logf("%s, %s: %v", name, form, err)
			if strings.Contains(name, "dots") && form == "docker" && err == nil {
				t.Errorf("%s, %s: no error", name, form)
			}
			st, serr := os.Stat(victim)
			got, rerr := os.ReadFile(victim)
			list, _ := os.ReadDir(outside)
			if serr != nil || rerr != nil || string(got) != "safe" || len(list) != 1 || st.Mode() != 0o600 {
				t.Fatalf("%s, %s: outside is %q, %v, %v, %v", name, form, got, list, serr, rerr)
			}
		}
	}
}

func TestCorrupt(t *testing.T) {
	layer := makeTar(t, tarEntry{name: "a", data: strings.Repeat("x", 5000)})
	good := dockerSave(t, layer)
	flip := func(b []byte, old, new string) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) }
	cfg := configOf(t, layer)
	for name, b := range map[string][]byte{
		"empty":            {},
		"text":             []byte(strings.Repeat("hello world ", 200)),
		"cut":              layer[:2000],
		"cut archive":      good[:3000],
		"gzip, cut":        packGzip(t, layer)[:40],
		"gzip, header":     {0x1f, 0x8b, 0, 0, 0, 0},
		"zstd, cut":        packZstd(t, layer)[:20],
		"zstd, garbage":    append([]byte{0x28, 0xb5, 0x2f, 0xfd}, bytes.Repeat([]byte{0xff}, 64)...),
		"layer changed":    flip(good, "xxxx", "yyyy"),
		"layer is missing": makeTar(t, tarEntry{name: "manifest.json", data: `[{"Config":"c.json","Layers":["no/layer.tar"]}]`}, tarEntry{name: "c.json", data: cfg}),
		"no diff ids":      makeTar(t, tarEntry{name: "manifest.json", data: `[{"Config":"c.json","Layers":["l.tar"]}]`}, tarEntry{name: "c.json", data: "{}"}, tarEntry{name: "l.tar", data: string(layer)}),
		"link loop":        makeTar(t, tarEntry{name: "manifest.json", data: `[{"Config":"c.json","Layers":["l.tar"]}]`}, tarEntry{name: "c.json", data: cfg}, tarEntry{name: "l.tar", data: "l.tar", kind: tar.TypeSymlink}),
		"config not JSON":  makeTar(t, tarEntry{name: "manifest.json", data: `[{"Config":"c.json","Layers":[]}]`}, tarEntry{name: "c.json", data: "<x>"}),
		"oci, index":       makeTar(t, tarEntry{name: "oci-layout", data: "{}"}, tarEntry{name: "index.json", data: "]"}),
		"oci, digest":      makeTar(t, tarEntry{name: "oci-layout", data: "{}"}, tarEntry{name: "index.json", data: `{"manifests":[{"digest":"sha256:../../x"}]}`}),
		"oci, blob":        flip(ociArchive(t, packNothing, layer), "xxxx", "yyyy"),
	} {
		if _, _, err := unpackBytes(t, b, Options{}); !errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	if _, _, err := unpackBytes(t, makeTar(t, tarEntry{name: "oci-layout", data: "{}"}, tarEntry{name: "index.json",
		data: `{"manifests":[{"digest":"sha256:00","platform":{"os":"plan9","architecture":"amd64"}}]}`}), Options{}); !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("another platform: %v", err)
	}
}

// What is zero takes no room, whatever size a header claims.
func TestHoles(t *testing.T) {
	const size = 64 << 20
	data := make([]byte, size)
	copy(data[10<<20:], "in the middle")
	dir, _, err := unpackBytes(t, makeTar(t, tarEntry{name: "big", data: string(data)}, tarEntry{name: "empty", data: ""}, tarEntry{name: "small", data: "small"}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "big"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	st, err := os.Stat(filepath.Join(dir, "big"))
	if err != nil || st.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
		t.Errorf("%+v, %v", st.Sys(), err)
	}
	for name, want := range map[string]string{"empty": "", "small": "small"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestLimits(t *testing.T) {
	big := makeTar(t, tarEntry{name: "a", data: strings.Repeat("x", 1<<20)}, tarEntry{name: "b", data: "1"}, tarEntry{name: "c", data: "1"})
	for name, l := range map[string]Limits{"bytes": {Bytes: 1 << 19}, "entries": {Entries: 2}} {
		for form, b := range map[string][]byte{"plain": big, "gzip": packGzip(t, big), "docker": dockerSave(t, big), "oci, zstd": ociArchive(t, packZstd, big)} {
			if _, _, err := unpackBytes(t, b, Options{Limits: l}); !errors.Is(err, vole.ErrNoSpace) && !(form == "docker" && errors.Is(err, vole.ErrCorrupt)) {
				t.Errorf("%s, %s: %v, want ErrNoSpace", name, form, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	file := filepath.Join(t.TempDir(), "i")
	if err := os.WriteFile(file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(ctx, file, t.TempDir(), t.TempDir(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	l := makeTar(f, tarEntry{name: "a/"}, tarEntry{name: "a/b", data: "1"}, tarEntry{name: "l", data: "/a", kind: tar.TypeSymlink}, tarEntry{name: "l/c", data: "2"})
	w := makeTar(f, tarEntry{name: "a/.wh.b"}, tarEntry{name: "l/.wh..wh..opq"}, tarEntry{name: "h", data: "l/c", kind: tar.TypeLink})
	f.Add(l)
	f.Add(dockerSave(f, l, w))
	f.Add(ociArchive(f, packGzip, l))
	f.Add(packGzip(f, l))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = unpackBytes(t, b, Options{Limits: Limits{Bytes: 1 << 20, Entries: 1000}}) // it checks what is beside the root
	})
}
