package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket/internal/blob"
	"github.com/volehq/vole/internal/filemode"
)

var (
	testOrg = bytes.Repeat([]byte{1}, 16)
	testVol = bytes.Repeat([]byte{2}, 16)
)

// sampleRecords are records that a manifest may have, its head first.
func sampleRecords() []*Record {
	id := bytes.Repeat([]byte{3}, 16)
	return []*Record{
		{Head: &Head{Format: format, Version: version, Org: testOrg, OrgName: "acme", Volume: testVol, Name: "v",
			Labels: `{"team":"ml"}`, Created: 1, Updated: 2, NextIno: 6, Generation: 7}},
		{Blob: &Blob{ID: id, Size: 70_000, Sums: make([]byte, 8)}},
		{Blob: &Blob{ID: bytes.Repeat([]byte{4}, 16), Size: 3, Data: []byte("abc")}},
		{Inode: &Inode{Ino: 1, Mode: filemode.Dir | 0o755, Nlink: 2}},
		{Inode: &Inode{Ino: 2, Mode: filemode.File | 0o644, Nlink: 1, Size: 70_003, Alloc: 70_003}},
		{Inode: &Inode{Ino: 3, Mode: filemode.Link | 0o777, Nlink: 1, Size: 1, Target: []byte("f")}},
		{Entry: &Entry{Parent: 1, Name: []byte("f"), Ino: 2}},
		{Entry: &Entry{Parent: 1, Name: []byte("l\xff"), Ino: 3}},
		{Xattr: &Xattr{Ino: 2, Name: []byte("user.a"), Value: []byte{}}},
		{Chunk: &Chunk{Ino: 2, Pos: 0, Len: 70_000, Blob: id}},
		{Chunk: &Chunk{Ino: 2, Pos: 70_000, Len: 3, Blob: bytes.Repeat([]byte{4}, 16)}},
		{Orphan: &Orphan{Ino: 5}},
	}
}

// packManifest is a manifest of these records, valid or not, with a trailer that fits.
func packManifest(t testing.TB, list []*Record) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	w := newRecordWriter(z)
	for _, r := range list {
		err = errors.Join(err, w.writeRecord(r))
		if kind := r.recordKind(); kind >= 0 {
			w.count[kind]++
		}
	}
	if _, err2 := w.writeTrailer(); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressLines is what a manifest of these lines is stored as.
func compressLines(lines []byte) []byte {
	var b bytes.Buffer
	z, _ := zstd.NewWriter(&b)
	z.Write(lines)
	z.Close()
	return b.Bytes()
}

// readAll reads a manifest of generation 7 of the sample's volume, its head and trailer included.
func readAll(data []byte) (list []*Record, err error) {
	_, err = Read(bytes.NewReader(data), testOrg, testVol, 7, func(r *Record) error {
		list = append(list, r)
		return nil
	})
	return list, err
}

// rewrite writes the records of a manifest again.
func rewrite(t testing.TB, list []*Record) []byte {
	t.Helper()
	var b bytes.Buffer
	sum, err := Write(&b, list[0].Head, func(add func(*Record) error) error {
		for _, r := range list[1 : len(list)-1] {
			if err := add(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || sum != list[len(list)-1].End.SHA256 {
		t.Errorf("written again: sum %s, %v", sum, err)
	}
	return b.Bytes()
}

func TestManifest(t *testing.T) {
	data := packManifest(t, sampleRecords())
	list, err := readAll(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := readAll(rewrite(t, list))
	if err != nil || !reflect.DeepEqual(again, list) {
		t.Errorf("what was read is not what was written: %v", err)
	}
	for n := range data {
		if _, err := readAll(data[:n]); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := Read(bytes.NewReader(data), testVol, testOrg, 7, func(*Record) error { return nil }); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("of another volume: %v", err)
	}
	stop := errors.New("enough")
	if head, err := Read(bytes.NewReader(data), testOrg, testVol, 7, func(*Record) error { return stop }); !errors.Is(err, stop) || head.Name != "v" {
		t.Errorf("stopped at the head: %+v, %v", head, err)
	}
}

// TestManifestRefused has one record each that cannot be, in manifests that are whole.
func TestManifestRefused(t *testing.T) {
	edit := func(i int, change func(r *Record)) []*Record {
		list := sampleRecords()
		change(list[i])
		return list
	}
	for want, list := range map[string][]*Record{
		"line 1: the volume's name":            edit(0, func(r *Record) { r.Head.Name = "../etc" }),
		"line 1: format \"x\"":                 edit(0, func(r *Record) { r.Head.Format = "x" }),
		"line 1: format \"vole-manifest\" ver": edit(0, func(r *Record) { r.Head.Version = 2 }),
		"line 1: labels":                       edit(0, func(r *Record) { r.Head.Labels = "[]" }),
		"line 1: a number":                     edit(0, func(r *Record) { r.Head.Quota = -1 }),
		"line 1: a number out":                 edit(0, func(r *Record) { r.Head.Generation = 1<<63 - 1 }),
		"line 1: a number out of":              edit(0, func(r *Record) { r.Head.NextIno = 1<<63 - 1 }),
		"line 1: the head is of gen":           edit(0, func(r *Record) { r.Head.Generation = 8 }),
		"line 1: a record of this kind":        sampleRecords()[1:],
		"line 2: a blob of":                    edit(1, func(r *Record) { r.Blob.Size = blob.MaxSize + 1 }),
		"line 2: a blob's bytes":               edit(1, func(r *Record) { r.Blob.Sums = nil }),
		"line 3: a duplicate record":           edit(2, func(r *Record) { r.Blob.ID = bytes.Repeat([]byte{3}, 16) }),
		"line 3: a blob's bytes":               edit(2, func(r *Record) { r.Blob.Size = 4 }),
		"line 4: the root inode":               edit(3, func(r *Record) { r.Inode.Ino = 2 }),
		"line 4: mode":                         edit(3, func(r *Record) { r.Inode.Mode = filemode.File }),
		"line 5: inode 6":                      edit(4, func(r *Record) { r.Inode.Ino = 6 }),
		"line 5: a negative size":              edit(4, func(r *Record) { r.Inode.Size = -1 }),
		"line 5: owner":                        edit(4, func(r *Record) { r.Inode.UID = 1 << 32 }),
		"line 6: an invalid target":            edit(5, func(r *Record) { r.Inode.Target = nil }),
		"line 6: all files":                    edit(5, func(r *Record) { *r.Inode = Inode{Ino: 3, Mode: filemode.File, Size: 1<<63 - 1} }),
		"line 7: inode 1 contains itself":      edit(6, func(r *Record) { r.Entry.Ino = 1 }),
		"line 8: a duplicate record":           edit(7, func(r *Record) { r.Entry.Name = []byte("f") }),
		`line 9: "trusted.x" is not a valid`:   edit(8, func(r *Record) { r.Xattr.Name = []byte("trusted.x") }),
		"line 10: a chunk with":                edit(9, func(r *Record) { r.Chunk.Len = 1 << 40 }),
		"line 11: a duplicate record":          edit(10, func(r *Record) { r.Chunk.Pos = 69_999 }),
		"line 11: a chunk with":                edit(10, func(r *Record) { r.Chunk.Pos = 1<<63 - 1 }),
		"line 12: inode 0":                     edit(11, func(r *Record) { r.Orphan.Ino = 0 }),
		"line 2: not exactly one":              edit(1, func(r *Record) { r.Orphan = &Orphan{Ino: 3} }),
		"line 12: a record of this kind":       edit(11, func(r *Record) { *r = Record{Entry: &Entry{Parent: 1, Name: []byte("z"), Ino: 4}} }),
	} {
		if _, err := readAll(packManifest(t, list)); !errors.Is(err, driver.ErrCorrupt) || !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	for want, lines := range map[string]string{
		"line 1: longer":        strings.Repeat(" ", maxLine+100_000),
		"line 1: json: unknown": `{"hat":{}}` + "\n",
		"line 1: data after":    `{} {}` + "\n",
		"it ends after line 0":  "",
		"line 1: an id of":      `{"head":{"org":"00"}}` + "\n",
	} {
		if _, err := readAll(compressLines([]byte(lines))); !errors.Is(err, driver.ErrCorrupt) || !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

func TestParseKey(t *testing.T) {
	org, id := bytes.Repeat([]byte{0xab}, 16), bytes.Repeat([]byte{0xcd}, 16)
	orgObject, data, err := Org{Org: org, Name: "acme", Created: 1}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if o, err := ParseOrg(org, orgObject, data); err != nil || o.Name != "acme" || o.Created != 1 {
		t.Errorf("the organisation's object: %+v, %v", o, err)
	}
	for _, bad := range []struct {
		org, data []byte
		key       string
	}{{id, data, orgObject}, {org, data[1:], orgObject}, {org, append([]byte(" "), data...), orgObject}} {
		if _, err := ParseOrg(bad.org, bad.key, bad.data); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("a damaged object of an organisation: %v", err)
		}
	}
	for _, key := range []string{blob.Key(org, id), Key(org, id, 42), orgObject} {
		if k, ok := ParseKey(key); !ok || !bytes.Equal(k.Org, org) || k.IsManifest != (k.Generation == 42) {
			t.Errorf("%s: %+v, %v", key, k, ok)
		}
		for _, bad := range []string{key + "x", "o/" + key, strings.ToUpper(key), key[:len(key)-1]} {
			if k, ok := ParseKey(bad); ok {
				t.Errorf("%s: %+v", bad, k)
			}
		}
	}
}

// FuzzManifest: a manifest that may hold anything is read to its end, in bounded
// memory, and what is taken can be written again.
func FuzzManifest(f *testing.F) {
	f.Add(packManifest(f, sampleRecords()), false)
	f.Add(packManifest(f, sampleRecords())[:100], false)
	f.Fuzz(func(t *testing.T, data []byte, plain bool) {
		if plain { // the lines themselves: compression hides them from the fuzzer
			data = compressLines(data)
		}
		list, err := readAll(data)
		for _, r := range list {
			if r.recordKind() < 0 {
				t.Fatalf("%+v", r)
			}
		}
		if err != nil || len(list) == 0 {
			return
		}
		if _, err := readAll(rewrite(t, list)); err != nil {
			t.Errorf("written again: %v", err)
		}
	})
}
