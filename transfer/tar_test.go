package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// pack returns what is in the directory p of f as a tar stream.
func pack(t *testing.T, f *vole.FS, p string) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := transfer.ToTar(t.Context(), &b, f, p, ".", transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t testing.TB, data []byte, how string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "plain":
		return data
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		must(t, err)
		w = z
	case "bzip2": // which Go cannot write
		if _, err := exec.LookPath("bzip2"); err != nil {
			t.Skip("needs bzip2")
		}
		cmd := exec.Command("bzip2", "-c")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(data), &b
		must(t, cmd.Run())
		return b.Bytes()
	}
	_, err := w.Write(data)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// What is packed and unpacked again is what it was.
func TestRoundTrip(t *testing.T) {
	s := openHome(t)
	a := newFS(t, s, "a", vole.Spec{})
	fillTree(t, a)
	want, stream := describe(t, a, ".", owns), pack(t, a, ".")
	for _, how := range []string{"plain", "gzip", "bzip2", "zstd"} {
		t.Run(how, func(t *testing.T) {
			b := newFS(t, s, how, vole.Spec{})
			stats, err := transfer.FromTar(t.Context(), transfer.Volume(b), ".", bytes.NewReader(compress(t, stream, how)), transfer.Options{Owner: owns})
			must(t, err)
			same(t, how, describe(t, b, ".", owns), want)
			if stats.Links != 4 || stats.Skipped != 0 || stats.Directories != 43+1 {
				t.Errorf("%+v", stats)
			}
		})
	}
	t.Run("into a disk that grows", func(t *testing.T) {
		v, err := s.Create(t.Context(), "disk", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
		must(t, err)
		g, err := transfer.OpenGrowing(t.Context(), v)
		must(t, err)
		_, err = transfer.FromTar(t.Context(), g, ".", bytes.NewReader(stream), transfer.Options{Owner: owns})
		must(t, errors.Join(err, g.Close()))
		f, err := v.FS(t.Context())
		must(t, err)
		defer f.Close()
		got := describe(t, f, ".", owns)
		delete(got, "lost+found")
		same(t, "disk", got, want)
	})
}

// Names and paths are as they are asked for.
func TestToTarNames(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	must(t, f.WriteFile(t.Context(), "d/sub/f", nil, 0o644))
	for _, c := range []struct{ p, name, want string }{
		{"d", ".", "./ ./sub/ ./sub/f"},
		{"d", "", "d/ d/sub/ d/sub/f"},
		{"/d/sub", "x", "x/ x/f"},
		{"d/sub/f", "", "f"},
		{"/", "", "./ ./d/ ./d/sub/ ./d/sub/f"},
	} {
		var b bytes.Buffer
		if _, err := transfer.ToTar(t.Context(), &b, f, c.p, c.name, transfer.Options{}); err != nil {
			t.Errorf("%q: %v", c.p, err)
		}
		var names []string
		for tr := tar.NewReader(&b); ; {
			hdr, err := tr.Next()
			if err != nil {
				break
			}
			names = append(names, hdr.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%q as %q: %s, want %s", c.p, c.name, got, c.want)
		}
	}
	if _, err := transfer.ToTar(t.Context(), io.Discard, f, "d/../..", "", transfer.Options{}); !errors.Is(err, vole.ErrPathEscape) {
		t.Error(err)
	}
	if _, err := transfer.ToTar(t.Context(), io.Discard, f, "nosuch", "", transfer.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func gnuTar(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !bytes.Contains(out, []byte("GNU tar")) || runtime.GOOS != "linux" {
		t.Skip("needs GNU tar")
	}
	if out, err := exec.Command("tar", append(args, "--xattrs", "--xattrs-include=user.*", "--numeric-owner", "--warning=no-timestamp")...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v\n%s", err, out)
	}
}

// What GNU tar makes of our stream is the tree, and what we make of its stream too.
func TestGNUTar(t *testing.T) {
	ctx, s, dir := t.Context(), openHome(t), t.TempDir()
	a, b, c := newFS(t, s, "a", vole.Spec{}), newFS(t, s, "b", vole.Spec{}), newFS(t, s, "c", vole.Spec{})
	fillTree(t, a)
	want := describe(t, a, ".", owns)
	file, out := filepath.Join(dir, "t.tar"), filepath.Join(dir, "out")
	must(t, errors.Join(os.WriteFile(file, pack(t, a, "."), 0o600), os.Mkdir(out, 0o700)))
	gnuTar(t, "-C", out, "-Sxpf", file)
	h, err := transfer.OpenHost(out)
	must(t, err)
	defer h.Close()
	_, err = transfer.Copy(ctx, transfer.Volume(b), ".", h, ".", transfer.Options{Owner: owns})
	must(t, err)
	same(t, "extracted by GNU tar", describe(t, b, ".", owns), want)

	for _, format := range []string{"pax", "gnu"} {
		must(t, os.Remove(file))
		gnuTar(t, "-C", out, "-Scf", file, "--format="+format, ".")
		r, err := os.Open(file)
		must(t, err)
		defer r.Close()
		must(t, c.Mkdir(ctx, format, 0o755))
		_, err = transfer.FromTar(ctx, transfer.Volume(c), format, r, transfer.Options{Owner: owns})
		must(t, err)
		got := describe(t, c, format, owns)
		if format == "gnu" { // has whole seconds, and no attributes
			for p := range got {
				if _, ok := want[p]; !ok {
					t.Errorf("gnu: %q should not be there", p)
				}
			}
			continue
		}
		same(t, "made by GNU tar", got, want)
	}
}

// Devices are left out, and count as lost if that is asked for, unless owners are kept.
func TestDevices(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	stream := makeTar(t, entry{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, entry{Typeflag: tar.TypeReg, Name: "f", Mode: 0o4755})
	var warnings int
	opts := transfer.Options{Warn: func(string, ...any) { warnings++ }}
	stats, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), opts)
	if err != nil || stats.Skipped != 1 || stats.Files != 1 || warnings != 1 {
		t.Errorf("%+v, %d warnings, %v", stats, warnings, err)
	}
	if e, err := f.Stat(t.Context(), "f"); err != nil || e.Mode != 0o755 {
		t.Errorf("mode %v, %v", e.Mode, err)
	}
	opts.LoseDevices, opts.Op, warnings = errors.New("no devices"), "unpack", 0
	stats, err = transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), opts)
	if err != nil || stats.Skipped != 1 || stats.Lost != 1 || stats.Files != 1 || warnings != 1 {
		t.Errorf("lost: %+v, %d warnings, %v", stats, warnings, err)
	}
	opts.Strict = true
	_, err = transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), opts)
	if !errors.Is(err, opts.LoseDevices) || !strings.HasPrefix(err.Error(), `unpack: tar entry "null": `) {
		t.Error(err)
	}
}

// counter is a transfer.Progress, and ends a copy after so many bytes.
type counter struct {
	files, bytes int
	at           int
	end          func()
}

func (c *counter) File(string) { c.files++ }
func (c *counter) Add(n int) {
	if c.bytes += n; c.end != nil && c.bytes >= c.at {
		c.end()
	}
}

// A copy ends soon after its context, in the middle of a file; what is there is whole.
func TestCancel(t *testing.T) {
	s := openHome(t)
	a := newFS(t, s, "a", vole.Spec{})
	data := bytes.Repeat([]byte("data"), 1<<20)
	for _, name := range []string{"1", "2", "3"} {
		must(t, a.WriteFile(t.Context(), name, data, 0o644))
	}
	stream := pack(t, a, ".")
	copies := map[string]func(ctx context.Context, b *vole.FS, opts transfer.Options) (transfer.Stats, error){
		"ToTar": func(ctx context.Context, b *vole.FS, opts transfer.Options) (transfer.Stats, error) {
			return transfer.ToTar(ctx, io.Discard, a, ".", "", opts)
		},
		"FromTar": func(ctx context.Context, b *vole.FS, opts transfer.Options) (transfer.Stats, error) {
			return transfer.FromTar(ctx, transfer.Volume(b), ".", bytes.NewReader(stream), opts)
		},
		"Copy": func(ctx context.Context, b *vole.FS, opts transfer.Options) (transfer.Stats, error) {
			return transfer.Copy(ctx, transfer.Volume(b), ".", transfer.Volume(a), ".", opts)
		},
	}
	for name, run := range copies {
		b := newFS(t, s, name, vole.Spec{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &counter{at: len(data) + len(data)/2, end: cancel}
		_, err := run(ctx, b, transfer.Options{Progress: c})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if c.bytes >= 2*len(data) {
			t.Errorf("%s: went on for %d bytes", name, c.bytes)
		}
		onlyWhole(t, b, map[string][]byte{"1": data, "2": data, "3": data})
	}
}

// onlyWhole checks that each file at the top of f is one of want, whole.
func onlyWhole(t *testing.T, f *vole.FS, want map[string][]byte) (n int) {
	t.Helper()
	list, err := f.ReadDir(t.Context(), ".")
	must(t, err)
	for _, e := range list {
		got, err := f.ReadFile(t.Context(), e.Name)
		if data, ok := want[e.Name]; !ok || err != nil || !bytes.Equal(got, data) {
			t.Errorf("%q: %d bytes, %v", e.Name, len(got), err)
		}
	}
	return len(list)
}

// A reader of the stream that goes away ends ToTar with its error.
func TestToTarWriterFails(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	fillTree(t, f)
	size := len(pack(t, f, "."))
	gone := errors.New("gone")
	for at := 0; at < size; at += size / 97 {
		_, err := transfer.ToTar(t.Context(), &failingWriter{at, gone}, f, ".", ".", transfer.Options{})
		if !errors.Is(err, gone) {
			t.Errorf("after %d bytes: %v", at, err)
		}
	}
}

type failingWriter struct {
	left int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, w.err
	}
	w.left -= len(p)
	return len(p), nil
}
