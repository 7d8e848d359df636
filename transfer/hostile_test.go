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
		"unknown type":         {[]entry{{Typeflag: 'Z', Name: "z"}}, nil, ""},
		"long name":            {[]entry{file(strings.Repeat("n", 300), "x")}, vole.ErrInvalid, ""},
		"deep":                 {[]entry{file(strings.Repeat("n/", 3000)+"n", "x")}, vole.ErrInvalid, ""},
		"owner":                {[]entry{{Typeflag: tar.TypeReg, Name: "f", Uid: 1 << 40, Gid: -2}}, nil, ""},
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
func header(t testing.TB, size int64, records map[string]string) []byte {
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

// A hole of terabytes takes neither time nor storage, in every format.
func TestEndlessHole(t *testing.T) {
	const size = 8 << 40
	table := make([]byte, 512)
	copy(table, fmt.Sprintf("1\n%d\n0\n", int64(size)))
	pax1 := append(sparseHeader(t, size, 512), table...)
	end := make([]byte, 1024)
	for name, stream := range map[string][]byte{
		"pax-1.0": pax1, "pax-0.1": paxSparse(t, size, "GNU.sparse.map", fmt.Sprintf("%d,0", int64(size))), "old": oldSparse(t, size, nil, nil),
	} {
		stream = append(stream, end...)
		f := newFS(t, openHome(t), name, vole.Spec{})
		if _, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e, err := f.Stat(t.Context(), "f"); err != nil || e.Size != size || e.Allocated > 1<<20 {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// paxSparse is the header of a sparse file in the formats 0.0 and 0.1, with records of keys
// and values.
func paxSparse(t testing.TB, size int64, records ...string) []byte {
	t.Helper()
	list := map[string]string{"ABC.sparse.size": fmt.Sprint(size), "ABC.sparse.numblocks": "1"}
	for k := 0; k < len(records); k += 2 {
		list[strings.Replace(records[k], "GNU", "ABC", 1)] = records[k+1]
	}
	return bytes.ReplaceAll(header(t, 0, list), []byte("ABC.sparse"), []byte("GNU.sparse"))
}

// oldSparse is a file in GNU's own format, whose ranges of at most 512 bytes are filled
// with the bytes of data.
func oldSparse(t testing.TB, size int64, offs []int64, data []byte) []byte {
	t.Helper()
	b := make([]byte, 512)
	copy(b, "f")
	copy(b[100:], "0000644\x00")
	copy(b[257:], "ustar  \x00")
	number := func(at int, n int64) { // in binary
		b[at] = 0x80
		for k := 11; k > 3; k-- {
			b[at+k] = byte(n)
			n >>= 8
		}
	}
	number(124, int64(len(offs)*512))
	number(483, size)
	b[156] = tar.TypeGNUSparse
	entries := func(b []byte, k, n int) (next int) {
		for at := 0; k < len(offs) && at < n; at, k = at+1, k+1 {
			copy(b[at*24:], fmt.Sprintf("%011o\x00%011o\x00", offs[k], 512))
		}
		return k
	}
	k := entries(b[386:], 0, 4)
	var more []byte
	if k < len(offs) {
		b[482] = 1
	}
	for k < len(offs) {
		x := make([]byte, 512)
		if k = entries(x, k, 21); k < len(offs) {
			x[504] = 1
		}
		more = append(more, x...)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	b = append(b, more...)
	for k := range offs {
		b = append(b, bytes.Repeat(data[k:k+1], 512)...)
	}
	return b
}

// Sparse files of every format have their bytes where they belong, and what follows them
// in an archive is not lost.
func TestSparseFormats(t *testing.T) {
	const size = 1 << 30
	offs := make([]int64, 30)
	data := make([]byte, len(offs))
	table := fmt.Sprintf("%d\n", len(offs))
	var list []string
	for k := range offs {
		offs[k], data[k] = int64(k)<<20+4096, byte('a'+k)
		table += fmt.Sprintf("%d\n512\n", offs[k])
		list = append(list, fmt.Sprintf("%d,512", offs[k]))
	}
	var body []byte
	for _, c := range data {
		body = append(body, bytes.Repeat([]byte{c}, 512)...)
	}
	padded := append([]byte(table), make([]byte, 512-len(table)%512)...)
	pax01 := paxSparse(t, size, "GNU.sparse.map", strings.Join(list, ","))
	sized := bytes.Clone(pax01) // whose last block is the header of the file, of no bytes
	last := sized[len(sized)-512:]
	copy(last[124:], fmt.Sprintf("%011o\x00", len(body)))
	copy(last[148:], "        ")
	sum := 0
	for _, c := range last {
		sum += int(c)
	}
	copy(last[148:], fmt.Sprintf("%06o\x00 ", sum))
	for name, stream := range map[string][]byte{
		"old": oldSparse(t, size, offs, data), "pax-0.1": append(sized, body...),
		"pax-1.0": append(append(sparseHeader(t, size, int64(len(padded)+len(body))), padded...), body...),
	} {
		f := newFS(t, openHome(t), name, vole.Spec{})
		stream = append(stream, makeTar(t, file("after", "text"))...)
		if _, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		h, err := f.Open(t.Context(), "f", vole.OpenOptions{})
		must(t, err)
		got := make([]byte, 514)
		for k, off := range offs {
			if _, err := h.ReadAt(t.Context(), got, off-1); err != nil || got[0] != 0 || got[1] != data[k] || got[512] != data[k] || got[513] != 0 {
				t.Errorf("%s: range %d: %v", name, k, err)
			}
		}
		must(t, h.Close())
		if e, err := f.Stat(t.Context(), "f"); err != nil || e.Size != size || e.Allocated > 1<<20 {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
		if b, err := f.ReadFile(t.Context(), "after"); err != nil || string(b) != "text" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// Maps that contradict themselves are refused.
func TestSparseMaps(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	for _, m := range []string{"9,5", "0,5", "0,-5,5,5", "-1,0", "5,0,3,0", "a,b", "9223372036854775807,1", "1,9223372036854775807"} {
		stream := paxSparse(t, 8, "GNU.sparse.map", m)
		if _, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{}); !errors.Is(err, vole.ErrInvalid) {
			t.Errorf("%s: %v", m, err)
		}
	}
	for _, table := range []string{"9999999999\n", "-1\n", "1\n0\n", "x\n", strings.Repeat("1", 500), "1\n5\n1\n"} {
		block := make([]byte, 512)
		copy(block, table)
		stream := append(sparseHeader(t, 8, 512), block...)
		if _, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{}); err == nil {
			t.Errorf("%q was accepted", table)
		}
	}
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
			onlyWhole(t, f, want)
			// One block of zeros says that all entries came.
			if all := how == "plain" && n == len(stream)-512; (err == nil) != all {
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
	f.Add(oldSparse(f, 1<<14, []int64{0, 4096}, []byte("ab")))
	f.Add(paxSparse(f, 1<<14, "GNU.sparse.map", "8192,0"))
	s := openHome(f)
	n := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		n++
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
