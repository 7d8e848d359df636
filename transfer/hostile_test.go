package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
)

// entry is an entry of a tar stream; a regular file holds Uname, which is not written.
type entry tar.Header

// makeTar makes a stream of entries, as hostile as archive/tar lets them be.
func makeTar(t testing.TB, list ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range list {
		hdr := tar.Header(e)
		data := hdr.Uname
		hdr.Uname = ""
		if hdr.Typeflag == tar.TypeReg {
			hdr.Size = int64(len(data))
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o755
		}
		must(t, tw.WriteHeader(&hdr))
		_, err := tw.Write([]byte(data))
		must(t, err)
	}
	must(t, tw.Close())
	return b.Bytes()
}

func file(name, data string) entry { return entry{Typeflag: tar.TypeReg, Name: name, Uname: data} }
func dir(name string) entry        { return entry{Typeflag: tar.TypeDir, Name: name} }
func symlink(name, to string) entry {
	return entry{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}
func hardlink(name, old string) entry {
	return entry{Typeflag: tar.TypeLink, Name: name, Linkname: old}
}

// No archive writes outside the directory that it is unpacked into, nor through a link.
func TestHostileArchives(t *testing.T) {
	s := openHome(t)
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, errors.Join(os.Mkdir(victim, 0o777), os.WriteFile(filepath.Join(victim, "f"), []byte("precious"), 0o666)))
	up := strings.Repeat("../", 20)
	for name, c := range map[string]struct {
		list []entry
		want error  // nil: it is harmless
		made string // then, the file that is made
	}{
		"up":                   {[]entry{file("../evil", "x")}, vole.ErrPathEscape, ""},
		"up and down":          {[]entry{file("a/../../evil", "x")}, vole.ErrPathEscape, ""},
		"up within":            {[]entry{file("a/../evil", "x")}, vole.ErrPathEscape, ""},
		"dots":                 {[]entry{dir("..")}, vole.ErrPathEscape, ""},
		"absolute":             {[]entry{file(victim+"/evil", "x")}, nil, victim + "/evil"},
		"file for the root":    {[]entry{file(".", "x")}, vole.ErrExists, ""},
		"link for the root":    {[]entry{symlink("./", victim)}, vole.ErrExists, ""},
		"hard link up":         {[]entry{hardlink("evil", "../../catalog.db")}, vole.ErrPathEscape, ""},
		"hard link absolute":   {[]entry{hardlink("evil", victim+"/f")}, fs.ErrNotExist, ""},
		"hard link to a link":  {[]entry{symlink("l", victim+"/f"), hardlink("h", "l"), file("h", "x")}, nil, "h"},
		"hard link through":    {[]entry{symlink("l", victim), hardlink("evil", "l/f")}, vole.ErrPathEscape, ""},
		"hard link of a dir":   {[]entry{dir("d"), hardlink("d/evil", "d")}, fs.ErrPermission, ""},
		"through a link":       {[]entry{symlink("l", victim), file("l/evil", "x")}, vole.ErrPathEscape, ""},
		"through a link up":    {[]entry{symlink("l", up+victim), file("l/evil", "x")}, vole.ErrPathEscape, ""},
		"through two links":    {[]entry{symlink("a", "."), symlink("a/b", up), file("a/b"+victim+"/evil", "x")}, vole.ErrPathEscape, ""},
		"directory for a link": {[]entry{symlink("l", victim), dir("l"), file("l/evil", "x")}, vole.ErrExists, ""},
		"link for a directory": {[]entry{file("d/f", "x"), symlink("d", victim)}, vole.ErrExists, ""},
		"file for a link":      {[]entry{symlink("l", victim+"/f"), file("l", "x")}, nil, "l"},
		"file for a directory": {[]entry{dir("d"), file("d", "x")}, vole.ErrExists, ""},
		"fifo through a link":  {[]entry{symlink("l", victim), {Typeflag: tar.TypeFifo, Name: "l/evil"}}, vole.ErrPathEscape, ""},
		"dir through a link":   {[]entry{symlink("l", victim), dir("l/evil/deep")}, vole.ErrPathEscape, ""},
		"loop":                 {[]entry{symlink("l", "l"), file("l/x", "x")}, vole.ErrLoop, ""},
		"itself":               {[]entry{hardlink("h", "h")}, nil, ""},
		"unknown type":         {[]entry{{Typeflag: 'Z', Name: "z"}}, vole.ErrUnsupported, ""},
		"long name":            {[]entry{file(strings.Repeat("n", 300), "x")}, vole.ErrInvalid, ""},
		"deep":                 {[]entry{file(strings.Repeat("n/", 3000)+"n", "x")}, vole.ErrInvalid, ""},
		"owner":                {[]entry{{Typeflag: tar.TypeReg, Name: "f", Uid: 1 << 40, Gid: -2}}, map[bool]error{true: vole.ErrInvalid}[owns], ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFS(t, s, strings.ReplaceAll(name, " ", "-"), vole.Spec{})
			_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(makeTar(t, c.list...)), transfer.Options{Owner: owns})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.made != "" {
				if got, err := f.ReadFile(t.Context(), c.made); err != nil || string(got) != "x" {
					t.Errorf("%q, %v", got, err)
				}
			}
			list, _ := os.ReadDir(victim)
			if got, err := os.ReadFile(filepath.Join(victim, "f")); len(list) != 1 || err != nil || string(got) != "precious" {
				t.Errorf("the victim is harmed: %v %q %v", list, got, err)
			}
		})
	}
}

// Entries of a directory that come again replace what the first said of it.
func TestDirectoryTwice(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	list := []entry{{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}, file("d/f", "x"), {Typeflag: tar.TypeDir, Name: "d/", Mode: 0o555}}
	_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(makeTar(t, list...)), transfer.Options{Owner: owns})
	must(t, err)
	want := map[bool]fs.FileMode{true: 0o555, false: 0o700}[owns] // without owners, what is there keeps its own
	if e, err := f.Stat(t.Context(), "d"); err != nil || e.Mode.Perm() != want {
		t.Errorf("%v, %v", e.Mode, err)
	}
}

// header is a header alone, of a file that claims to be so large.
func header(t *testing.T, size int64, records map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644, Size: size, PAXRecords: records}))
	return b.Bytes()
}

// counting counts what is read of an endless stream.
type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A quota holds, whatever an archive claims or becomes.
func TestQuota(t *testing.T) {
	const quota = 1 * vole.MiB
	s := openHome(t)
	many := func(w io.Writer) { // an archive without end
		tw := tar.NewWriter(w)
		for i := 0; ; i++ {
			if tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d/%d", i), Mode: 0o644, Size: 50000}) != nil {
				return
			}
			if _, err := tw.Write(make([]byte, 50000)); err != nil {
				return
			}
		}
	}
	bomb := func(w *io.PipeWriter) {
		z := gzip.NewWriter(w)
		many(z)
		w.Close()
	}
	var sparse bytes.Buffer // GNU's format 1.0: one hole of 2^60 bytes
	table := make([]byte, 512)
	copy(table, fmt.Sprintf("1\n%d\n0\n", int64(1)<<60))
	sparse.Write(sparseHeader(t, 1<<60, int64(len(table))))
	sparse.Write(table)
	sparse.Write(make([]byte, 1024))

	pr, pw := io.Pipe()
	defer pr.Close()
	go bomb(pw)
	for name, c := range map[string]struct {
		r   io.Reader
		max int64 // bytes of the stream that may be read
	}{
		"claims much":    {io.MultiReader(bytes.NewReader(header(t, 1<<60, nil)), zeroes{}), 1 << 20},
		"a bit too much": {io.MultiReader(bytes.NewReader(header(t, int64(quota)+1, nil)), zeroes{}), 1 << 20},
		"sparse":         {&sparse, 1 << 20},
		"bomb":           {pr, 1 << 20},
	} {
		v, err := s.Create(t.Context(), strings.ReplaceAll(name, " ", "-"), vole.Spec{Quota: quota})
		must(t, err)
		f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
		must(t, err)
		in := &counting{r: c.r}
		_, err = transfer.FromTar(t.Context(), transfer.Volume(f), ".", in, transfer.Options{})
		if !errors.Is(err, vole.ErrQuota) {
			t.Errorf("%s: %v", name, err)
		}
		if in.n > c.max {
			t.Errorf("%s: %d bytes were read", name, in.n)
		}
		must(t, f.Close())
		if info, err := v.Measure(t.Context()); err != nil || info.Used > quota {
			t.Errorf("%s: %v used, %v", name, info.Used, err)
		}
	}
}

// sparseHeader is the header of a sparse file of realSize bytes.
func sparseHeader(t *testing.T, realSize, size int64) []byte {
	t.Helper()
	// archive/tar writes no such records, but leaves room to put them: same length.
	b := header(t, size, map[string]string{"ABC.sparse.major": "1", "ABC.sparse.minor": "0", "ABC.sparse.name": "f", "ABC.sparse.realsize": fmt.Sprint(realSize)})
	return bytes.ReplaceAll(b, []byte("ABC.sparse"), []byte("GNU.sparse"))
}

// A hole without end takes nothing, and unpacking it ends when the context does.
func TestEndlessHole(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	f := newFS(t, openHome(t), "v", vole.Spec{})
	table := make([]byte, 512)
	const size = 8 << 40 // what ext4 keeps in one file
	copy(table, fmt.Sprintf("1\n%d\n0\n", int64(size)))
	in := io.MultiReader(bytes.NewReader(sparseHeader(t, size, 512)), bytes.NewReader(table))
	begun := time.Now()
	_, err := transfer.FromTar(ctx, transfer.Volume(f), ".", in, transfer.Options{})
	if err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	onlyWhole(t, f, nil)
}

// A stream that is cut off ends with an error, and leaves whole files only.
func TestTruncated(t *testing.T) {
	s := openHome(t)
	want := map[string][]byte{"a": bytes.Repeat([]byte("a"), 3000), "b": bytes.Repeat([]byte("b"), 700)}
	whole := makeTar(t, file("a", string(want["a"])), file("b", string(want["b"])))
	f := newFS(t, s, "v", vole.Spec{})
	for _, how := range []string{"plain", "gzip", "zstd"} {
		stream := compress(t, whole, how)
		for n := 1; n < len(stream); n += max(len(stream)/60, 1) | 1 {
			must(t, errors.Join(f.RemoveAll(t.Context(), "a"), f.RemoveAll(t.Context(), "b")))
			_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream[:n]), transfer.Options{})
			got := onlyWhole(t, f, want)
			// A plain stream without its end, cut off between two entries, is taken for
			// a whole one: many programs write such.
			between := how == "plain" && (n >= 512+3000 && n <= 512+3072 && got == 1 || n >= 4096+700 && n <= 4096+1024 && got == 2)
			if (err == nil) != between {
				t.Errorf("%s cut off after %d of %d bytes: %v", how, n, len(stream), err)
			}
		}
	}
}

// The checksum of a compressed stream is looked at, though an archive ends before it;
// what fills up the last record, or follows a gzip stream, does no harm.
func TestChecksum(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	whole := makeTar(t, file("a", "text"))
	unpack := func(stream []byte) error {
		_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{})
		return err
	}
	bad := compress(t, whole, "gzip")
	bad[len(bad)-6]++
	if err := unpack(bad); !errors.Is(err, gzip.ErrChecksum) {
		t.Error(err)
	}
	padded := append(bytes.Clone(whole), make([]byte, 10<<10)...)
	for _, stream := range [][]byte{padded, compress(t, padded, "gzip"), append(compress(t, whole, "gzip"), make([]byte, 512)...)} {
		if err := unpack(stream); err != nil {
			t.Error(err)
		}
	}
}

// Whatever a stream holds, unpacking it ends, stays within the quota and leaves a
// volume that can be packed.
func FuzzFromTar(f *testing.F) {
	f.Add(makeTar(f, file("a/b", "text"), symlink("l", ".."), hardlink("a/c", "a/b"), dir("d"), file("l/x", "x")))
	f.Add(compress(f, makeTar(f, file("f", strings.Repeat("0", 2000))), "gzip"))
	f.Add(compress(f, makeTar(f, dir("x"), entry{Typeflag: tar.TypeFifo, Name: "x/p"}), "zstd"))
	f.Add([]byte("BZh91AY"))
	s := openHome(f)
	n := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		n++
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		v, err := s.Create(ctx, fmt.Sprint("v", n), vole.Spec{Quota: 64 * vole.KiB})
		must(t, err)
		fsys, err := v.OpenFS(ctx, vole.FSOptions{Batch: true})
		must(t, err)
		_, uerr := transfer.FromTar(ctx, transfer.Volume(fsys), ".", bytes.NewReader(data), transfer.Options{})
		if _, err := transfer.ToTar(ctx, io.Discard, fsys, ".", "", transfer.Options{}); err != nil {
			t.Errorf("%v, after %v", err, uerr)
		}
		must(t, fsys.Close())
		info, err := v.Measure(ctx)
		must(t, err)
		if info.Used > 64*vole.KiB {
			t.Errorf("%v used", info.Used)
		}
		must(t, v.Remove(ctx))
	})
}
