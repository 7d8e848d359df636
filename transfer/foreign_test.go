//go:build unix

package transfer_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/volehq/vole"
	"github.com/volehq/vole/transfer"
	"golang.org/x/sys/unix"
)

// warnings collects what a copy warns of.
type warnings []string

func (w *warnings) add(format string, args ...any) { *w = append(*w, fmt.Sprintf(format, args...)) }

// Streams that a producer did not finish make an error wherever they end.
func TestNoEndOfArchive(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	whole := makeTar(t, file("a", "text"), file("b", "text"))
	unpack := func(stream []byte, opts transfer.Options) error {
		_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), opts)
		return err
	}
	for what, cut := range map[string][]byte{"nothing": nil, "one entry": whole[:1024], "all entries": whole[:2048], "compressed nothing": compress(t, nil, "gzip"), "compressed": compress(t, whole[:1024], "zstd")} {
		if err := unpack(cut, transfer.Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", what, err)
		}
		if err := unpack(cut, transfer.Options{AllowTruncated: true}); err != nil {
			t.Errorf("%s, allowed: %v", what, err)
		}
	}
	// Within an entry nothing allows it.
	if err := unpack(whole[:515], transfer.Options{AllowTruncated: true}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	for what, good := range map[string][]byte{"an empty archive": make([]byte, 1024), "one block of zeros": whole[:len(whole)-512]} {
		if err := unpack(good, transfer.Options{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A sparse file that the stream ends within is not there.
func TestCutSparseFile(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	stream := oldSparse(t, 1<<20, []int64{0, 1 << 19}, []byte("dd"))
	_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream[:len(stream)-512]), transfer.Options{AllowTruncated: true})
	if err == nil {
		t.Error("no error")
	}
	if e, err := f.Stat(t.Context(), "f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%+v, %v", e, err)
	}
}

// What other programs compress with is read, also behind frames to skip and in several parts.
func TestCompressions(t *testing.T) {
	whole := makeTar(t, file("a", strings.Repeat("text", 5000)))
	skip := binary.LittleEndian.AppendUint32([]byte{0x5e, 0x2a, 0x4d, 0x18}, 4)
	skip = append(skip, "size"...)
	half := len(whole) / 2
	z1, z2 := compress(t, whole[:half], "zstd"), compress(t, whole[half:], "zstd")
	var l bytes.Buffer
	w := lz4.NewWriter(&l)
	_, err := w.Write(whole)
	must(t, errors.Join(err, w.Close()))
	streams := map[string][]byte{
		"pzstd": bytes.Join([][]byte{skip, z1, skip, z2}, nil),
		"lz4":   l.Bytes(),
	}
	if _, err := exec.LookPath("xz"); err == nil {
		cmd := exec.Command("xz", "-c")
		cmd.Stdin = bytes.NewReader(whole)
		streams["xz"], err = cmd.Output()
		must(t, err)
	}
	for how, stream := range streams {
		f := newFS(t, openHome(t), "v", vole.Spec{})
		unpack := func(b []byte) error {
			_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(b), transfer.Options{})
			return err
		}
		must(t, unpack(stream))
		if b, err := f.ReadFile(t.Context(), "a"); err != nil || len(b) != 20000 {
			t.Errorf("%s: %d bytes, %v", how, len(b), err)
		}
		if unpack(stream[:len(stream)-10]) == nil {
			t.Errorf("%s: cut off, and no error", how)
		}
	}
	for name, magic := range map[string]string{"lzip": "LZIP\x01", "zip": "PK\x03\x04", "7-zip": "7z\xbc\xaf'"} {
		if _, err := transfer.Decompress(strings.NewReader(magic + "more")); !errors.Is(err, vole.ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, how := range []string{"lz4", "pzstd"} {
		if !transfer.Compressed(streams[how][:4]) {
			t.Errorf("%s is not recognised", how)
		}
	}
}

// Compressed data that is damaged is told as that, wherever in a file it is, and the error of
// what it is read from is not.
func TestDamagedCompression(t *testing.T) {
	random := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{}).Read(random)
	whole := makeTar(t, file("before", "text"), file("a", string(random)))
	for _, how := range []string{"gzip", "zstd", "bzip2"} {
		good := compress(t, whole, how)
		for _, at := range []int{3, len(good) / 2, len(good) - 2} {
			bad := bytes.Clone(good)
			bad[at] ^= 0x55
			_, err := transfer.FromTar(t.Context(), transfer.Volume(newFS(t, openHome(t), "v", vole.Spec{})), ".", bytes.NewReader(bad), transfer.Options{})
			if stream := (*transfer.StreamError)(nil); !errors.As(err, &stream) || !errors.Is(err, vole.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, damaged at %d of %d: %v", how, at, len(good), err)
			}
		}
		broken := io.MultiReader(bytes.NewReader(good[:len(good)/2]), iotest.ErrReader(fs.ErrPermission))
		_, err := transfer.FromTar(t.Context(), transfer.Volume(newFS(t, openHome(t), "v", vole.Spec{})), ".", broken, transfer.Options{})
		if !errors.Is(err, fs.ErrPermission) || errors.Is(err, vole.ErrCorrupt) {
			t.Errorf("%s, from a reader that fails: %v", how, err)
		}
	}
}

// xz may not make a reader take gigabytes: the size of its dictionary is in the header.
func TestXzDictionary(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs xz")
	}
	cmd := exec.Command("xz", "-c", "--lzma2=dict=256MiB")
	cmd.Stdin = bytes.NewReader(makeTar(t))
	b, err := cmd.Output()
	must(t, err)
	r, err := transfer.Decompress(bytes.NewReader(b))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("a dictionary of 256 MiB: %v", err)
	}
}

// raw is the header of an entry of any type, of four bytes that follow.
func raw(t *testing.T, kind byte, name, body string) []byte {
	t.Helper()
	b := makeTar(t, file(name, body))
	b = b[:len(b)-1024]
	b[156] = kind
	return sealed(b)
}

// sealed gives a header its checksum.
func sealed(b []byte) []byte {
	sum := 0
	copy(b[148:156], "        ")
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Types of entries that POSIX does not have are what those who made them say.
func TestForeignTypes(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	stream := bytes.Join([][]byte{
		raw(t, 'V', "label", ""), raw(t, 'D', "dumped", "Yname\x00\x00"), raw(t, 'A', "acl", "list"), raw(t, 'Q', "odd", "text"), raw(t, 'N', "names", "list"),
		raw(t, 'X', "pax", "20 path=renamed.txt\n"), makeTar(t, file("other", "text")),
	}, nil)
	var w warnings
	_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{Warn: w.add})
	must(t, err)
	if e, err := f.Stat(t.Context(), "dumped"); err != nil || !e.IsDir() {
		t.Errorf("dumped: %+v, %v", e, err)
	}
	for _, name := range []string{"odd", "renamed.txt"} {
		if b, err := f.ReadFile(t.Context(), name); err != nil || string(b) != "text" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"label", "acl", "names", "other"} {
		if _, err := f.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w) != 3 { // odd, names, and what A had
		t.Errorf("warnings: %q", w)
	}
	_, err = transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(raw(t, 'M', "more", "text")), transfer.Options{})
	if !errors.Is(err, vole.ErrUnsupported) {
		t.Errorf("several volumes: %v", err)
	}
}

// A global extended header is for what follows it, unless that says otherwise itself.
func TestGlobalHeader(t *testing.T) {
	f := newFS(t, openHome(t), "v", vole.Spec{})
	own := file("own", "x")
	own.ModTime, own.Format = time.Unix(5, 5), tar.FormatPAX
	global := raw(t, 'g', "g", "15 mtime=-7.25\n25 SCHILY.xattr.user.k=v\n13 comment=c\n")
	stream := append(global, makeTar(t, file("all", "x"), own)...)
	_, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{})
	must(t, err)
	for name, want := range map[string]time.Time{"all": time.Unix(-8, 750_000_000), "own": time.Unix(5, 5)} {
		if e, err := f.Stat(t.Context(), name); err != nil || !e.Mtime.Equal(want) {
			t.Errorf("%s: %v, %v", name, e.Mtime, err)
		}
	}
	if v, err := f.Getxattr(t.Context(), "all", "user.k"); err == nil && string(v) != "v" {
		t.Errorf("%q", v)
	}
}

// What a target has no place for is left out, listed, and counted; strictly, it is an error.
func TestLosses(t *testing.T) {
	s := openHome(t)
	huge := file("huge", "x")
	huge.PAXRecords, huge.Format = map[string]string{"SCHILY.xattr.user.k": strings.Repeat("v", 100_000)}, tar.FormatPAX
	far := file("far", "x")
	far.ModTime, far.Format = time.Date(2700, 1, 1, 0, 0, 0, 0, time.UTC), tar.FormatPAX
	owned := file("owned", "x")
	owned.Uid, owned.Gid, owned.Format = 1<<40, 7, tar.FormatPAX
	stream := makeTar(t, huge, far, owned, file("last", "x"))
	f := newFS(t, s, "v", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	var w warnings
	stats, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{Owner: true, Warn: w.add})
	must(t, err)
	if stats.Files != 4 || stats.Lost != 3 || len(w) != 3 {
		t.Errorf("%+v, %q", stats, w)
	}
	if _, err := f.Stat(t.Context(), "last"); err != nil {
		t.Error(err)
	}
	if _, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{Owner: true, Strict: true}); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("strictly: %v", err)
	}
}

// A number that archive/tar has no room for costs its entry what it says, and not the archive.
func TestNumbersOutOfRange(t *testing.T) {
	far := raw(t, '0', "x", "body")
	copy(far[136:148], "\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	past := bytes.Clone(far)
	copy(past[136:148], "\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	x := makeTar(t, file("x", "body"))[:1024]
	rest := makeTar(t, file("last", "x"))
	record := func(kind byte, body string) []byte { return append(raw(t, kind, "pax", body), x...) }
	for name, c := range map[string]struct {
		stream []byte
		lost   int64
	}{
		"a time of 20 digits":           {record('x', "30 mtime=99999999999999999999\n"), 1},
		"a time long ago":               {record('x', "33 mtime=-99999999999999999999.5\n"), 1},
		"the last time of 64 bits":      {record('x', "29 mtime=9223372036854775807\n"), 1},
		"the first time of 64 bits":     {record('x', "30 mtime=-9223372036854775808\n"), 1},
		"a time that is not kept":       {record('x', "30 atime=99999999999999999999\n"), 0},
		"an owner of 20 digits":         {record('x', "28 uid=99999999999999999999\n"), 1},
		"a group of 20 digits":          {record('x', "28 gid=99999999999999999999\n"), 1},
		"a time for all":                {record('g', "30 mtime=99999999999999999999\n"), 2},
		"a binary time":                 {sealed(bytes.Clone(far)), 1},
		"a binary time long ago":        {sealed(past), 1},
		"a negative time, which is one": {record('x', "12 mtime=-1\n"), 0},
	} {
		for kind, spec := range map[string]vole.Spec{"dir": {}, "disk": {Kind: vole.KindDisk, Capacity: 8 * vole.MiB}} {
			f := newFS(t, openHome(t), "v", spec)
			stats, err := transfer.FromTar(t.Context(), transfer.Volume(f), ".", bytes.NewReader(append(bytes.Clone(c.stream), rest...)), transfer.Options{Owner: owns || kind == "disk"})
			want := c.lost
			if !owns && kind == "dir" && strings.Contains(name, "20 digits") && !strings.Contains(name, "time") {
				want = 0
			}
			if err != nil || stats.Files != 2 || stats.Lost != want {
				t.Errorf("%s, %s: %+v, %v", name, kind, stats, err)
			}
		}
	}
	// A header without its checksum is damaged, whatever else it is.
	if _, err := transfer.FromTar(t.Context(), transfer.Volume(newFS(t, openHome(t), "v", vole.Spec{})), ".", bytes.NewReader(append(far, rest...)), transfer.Options{}); !errors.Is(err, vole.ErrCorrupt) {
		t.Errorf("a damaged header: %v", err)
	}
}

// Capabilities and access lists are kept within disk volumes, and no file of the host gets them.
func TestSystemAttributes(t *testing.T) {
	s, ctx := openHome(t), t.Context()
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ping := file("ping", "x")
	ping.PAXRecords, ping.Format = map[string]string{
		"SCHILY.xattr.security.capability": capability,
		"SCHILY.acl.access":                "user::rw-,user:alice:r--:1000,group::r--,mask::r--,other::---",
	}, tar.FormatPAX
	stream := makeTar(t, ping, file("plain", "x"))
	disk := newFS(t, s, "disk", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	_, err := transfer.FromTar(ctx, transfer.Volume(disk), ".", bytes.NewReader(stream), transfer.Options{Owner: true})
	must(t, err)
	// And on, by another stream, to another disk.
	disk2 := newFS(t, s, "disk2", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	_, err = transfer.FromTar(ctx, transfer.Volume(disk2), ".", bytes.NewReader(pack(t, disk, ".")), transfer.Options{Owner: true})
	must(t, err)
	for name, f := range map[string]*vole.FS{"disk": disk, "disk2": disk2} {
		if v, err := f.Getxattr(ctx, "ping", "security.capability"); err != nil || string(v) != capability {
			t.Errorf("%s: %q, %v", name, v, err)
		}
		if v, err := f.Getxattr(ctx, "ping", "system.posix_acl_access"); err != nil || len(v) != 4+5*8 {
			t.Errorf("%s: list of %d bytes, %v", name, len(v), err)
		}
	}
	dir, out := newFS(t, s, "dir", vole.Spec{}), t.TempDir()
	h, err := transfer.OpenHost(out)
	must(t, err)
	defer h.Close()
	disk3 := newFS(t, s, "disk3", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	for name, c := range map[string]struct {
		to   transfer.Tree
		opts transfer.Options
	}{
		"dir volume": {transfer.Volume(dir), transfer.Options{Owner: owns}}, "host": {h, transfer.Options{Owner: owns}}, "disk without -a": {transfer.Volume(disk3), transfer.Options{}},
	} {
		var w warnings
		c.opts.Warn = w.add
		stats, err := transfer.Copy(ctx, c.to, ".", transfer.Volume(disk), ".", c.opts)
		must(t, err)
		if len(w) != 1 || !strings.Contains(w[0], "files: 1") || stats.Lost != 0 {
			t.Errorf("%s: %q, %+v", name, w, stats)
		}
	}
	if n, err := unix.Getxattr(filepath.Join(out, "ping"), "security.capability", nil); err == nil {
		t.Errorf("the host has a capability of %d bytes", n)
	}
	for name, f := range map[string]*vole.FS{"dir": dir, "disk3": disk3} {
		if v, err := f.Getxattr(ctx, "ping", "security.capability"); err == nil {
			t.Errorf("%s has %q", name, v)
		}
	}
}

// What is copied with its owner has the access list that it has at the source, or none, and
// not that of the directory that it comes into.
func TestAccessListsAreNotInherited(t *testing.T) {
	s, ctx := openHome(t), t.Context()
	shared := dir("d/")
	shared.PAXRecords, shared.Format = map[string]string{"SCHILY.acl.default": "user::rwx,user:1234:rwx,group::r-x,mask::rwx,other::---"}, tar.FormatPAX
	secret := file("d/secret", "x")
	secret.Mode = 0o640
	fifo := entry{Typeflag: tar.TypeFifo, Name: "d/fifo", Mode: 0o640}
	listed := file("d/listed", "x")
	listed.PAXRecords, listed.Format = map[string]string{"SCHILY.acl.access": "user::rw-,user:7:r--,group::r--,mask::r--,other::---"}, tar.FormatPAX
	stream := makeTar(t, shared, secret, fifo, listed, dir("d/sub/"), file("d/sub/f", "x"))
	disk := func(name string) *vole.FS {
		return newFS(t, s, name, vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	}
	first, second := disk("first"), disk("second")
	_, err := transfer.FromTar(ctx, transfer.Volume(first), ".", bytes.NewReader(stream), transfer.Options{Owner: true})
	must(t, err)
	_, err = transfer.Copy(ctx, transfer.Volume(second), ".", transfer.Volume(first), ".", transfer.Options{Owner: true})
	must(t, err)
	for name, f := range map[string]*vole.FS{"from an archive": first, "from a volume": second} {
		for p, want := range map[string]string{"d": "[system.posix_acl_default]", "d/secret": "[]", "d/fifo": "[]", "d/listed": "[system.posix_acl_access]", "d/sub": "[]", "d/sub/f": "[]"} {
			list, err := f.Listxattr(ctx, p)
			if got := fmt.Sprint(list); err != nil || got != want {
				t.Errorf("%s: %s has %s, %v; want %s", name, p, got, err, want)
			}
		}
		if e, err := f.Stat(ctx, "d/secret"); err != nil || e.Mode != 0o640 {
			t.Errorf("%s: the mode is %v, %v", name, e.Mode, err)
		}
	}
	plain := makeTar(t, file("d/later", "x"))
	_, err = transfer.FromTar(ctx, transfer.Volume(first), ".", bytes.NewReader(plain), transfer.Options{})
	must(t, err)
	if list, err := first.Listxattr(ctx, "d/later"); err != nil || len(list) != 1 {
		t.Errorf("without owners, the directory gives %v, %v", list, err)
	}
}

// Times far from now survive, or it is said that they do not.
func TestTimes(t *testing.T) {
	s, ctx := openHome(t), t.Context()
	times := []time.Time{time.Unix(-1<<31+1, 500_000_000), time.Unix(-1, 999_999_999), time.Unix(0, 0), time.Unix(1<<32, 1), time.Date(2300, 1, 2, 3, 4, 5, 6, time.UTC)}
	var list []entry
	for i, at := range times {
		e := file(fmt.Sprint("f", i), "x")
		e.ModTime, e.Format = at, tar.FormatPAX
		list = append(list, e)
	}
	stream := makeTar(t, list...)
	for name, spec := range map[string]vole.Spec{"dir": {}, "disk": {Kind: vole.KindDisk, Capacity: 8 * vole.MiB}} {
		f := newFS(t, s, name, spec)
		stats, err := transfer.FromTar(ctx, transfer.Volume(f), ".", bytes.NewReader(stream), transfer.Options{})
		must(t, err)
		if stats.Lost != 0 {
			t.Errorf("%s: %d lost", name, stats.Lost)
		}
		tr := tar.NewReader(bytes.NewReader(pack(t, f, ".")))
		got := map[string]time.Time{}
		for hdr, err := tr.Next(); err == nil; hdr, err = tr.Next() {
			got[hdr.Name] = hdr.ModTime
		}
		for i, at := range times {
			p := fmt.Sprint("f", i)
			if e, err := f.Stat(ctx, p); err != nil || !e.Mtime.Equal(at) {
				t.Errorf("%s: %v is %v, %v", name, at, e.Mtime, err)
			}
			if !got["./"+p].Equal(at) {
				t.Errorf("%s: a stream has %v for %v", name, got["./"+p], at)
			}
		}
	}
}

// FuzzDecompress reads whatever comes within bounds.
func FuzzDecompress(f *testing.F) {
	z, _ := zstd.NewWriter(nil)
	f.Add(z.EncodeAll([]byte("text"), nil))
	f.Add([]byte("\x5e\x2a\x4d\x18\x04\x00\x00\x00size\x28\xb5\x2f\xfd"))
	f.Add([]byte("\x04\x22\x4d\x18\x64\x40\xa7"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := transfer.Decompress(bytes.NewReader(data)); err == nil {
			_, _ = io.CopyN(io.Discard, r, 1<<20)
		}
	})
}
