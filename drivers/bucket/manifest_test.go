package bucket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/volehq/vole/driver"
)

var (
	testOrg = bytes.Repeat([]byte{1}, 16)
	testVol = bytes.Repeat([]byte{2}, 16)
)

// sampleRecords are records that a manifest may have, its head first.
func sampleRecords() []*record {
	blob := bytes.Repeat([]byte{3}, 16)
	return []*record{
		{Head: &manifestHead{Format: manifestFormat, Version: 1, Org: testOrg, OrgName: "acme", Volume: testVol, Name: "v",
			Labels: `{"team":"ml"}`, Created: 1, Updated: 2, NextIno: 6, Generation: 7}},
		{Blob: &blobRecord{ID: blob, Size: 70_000, Sums: make([]byte, 8)}},
		{Blob: &blobRecord{ID: bytes.Repeat([]byte{4}, 16), Size: 3, Data: []byte("abc")}},
		{Inode: &inodeRecord{Ino: 1, Mode: typeDir | 0o755, Nlink: 2}},
		{Inode: &inodeRecord{Ino: 2, Mode: typeFile | 0o644, Nlink: 1, Size: 70_003, Alloc: 70_003}},
		{Inode: &inodeRecord{Ino: 3, Mode: typeLink | 0o777, Nlink: 1, Size: 1, Target: []byte("f")}},
		{Entry: &entryRecord{Parent: 1, Name: []byte("f"), Ino: 2}},
		{Entry: &entryRecord{Parent: 1, Name: []byte("l\xff"), Ino: 3}},
		{Xattr: &xattrRecord{Ino: 2, Name: []byte("user.a"), Value: []byte{}}},
		{Chunk: &chunkRecord{Ino: 2, Pos: 0, Len: 70_000, Blob: blob}},
		{Chunk: &chunkRecord{Ino: 2, Pos: 70_000, Len: 3, Blob: bytes.Repeat([]byte{4}, 16)}},
		{Orphan: &orphanRecord{Ino: 5}},
	}
}

// packManifest is a manifest of these records, with a trailer that fits.
func packManifest(t testing.TB, list []*record) []byte {
	t.Helper()
	var b bytes.Buffer
	m, err := newManifestWriter(&b)
	for _, r := range list {
		err = errors.Join(err, m.writeRecord(r))
	}
	if err := errors.Join(err, m.writeTrailer(), m.z.Close()); err != nil {
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

// readAll reads a manifest of generation 7 of the sample's volume.
func readAll(data []byte) (list []*record, err error) {
	m, err := newManifestReader(bytes.NewReader(data), testOrg, testVol, 7)
	if err != nil {
		return nil, err
	}
	defer m.close()
	for {
		r, err := m.nextRecord()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, r)
	}
}

func TestManifest(t *testing.T) {
	data := packManifest(t, sampleRecords())
	list, err := readAll(data)
	if err != nil {
		t.Fatal(err)
	}
	if again := packManifest(t, append(sampleRecords()[:1], list[:len(list)-1]...)); !bytes.Equal(again, data) {
		t.Error("what was read is not what was written")
	}
	for n := range data {
		if _, err := readAll(data[:n]); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := newManifestReader(bytes.NewReader(data), testVol, testOrg, 7); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("of another volume: %v", err)
	}
}

// TestManifestRefused has one record each that cannot be, in manifests that are whole.
func TestManifestRefused(t *testing.T) {
	edit := func(i int, change func(r *record)) []*record {
		list := sampleRecords()
		change(list[i])
		return list
	}
	for want, list := range map[string][]*record{
		"line 1: the volume's name":            edit(0, func(r *record) { r.Head.Name = "../etc" }),
		"line 1: format \"x\"":                 edit(0, func(r *record) { r.Head.Format = "x" }),
		"line 1: format \"vole-manifest\" ver": edit(0, func(r *record) { r.Head.Version = 2 }),
		"line 1: labels":                       edit(0, func(r *record) { r.Head.Labels = "[]" }),
		"line 1: a number":                     edit(0, func(r *record) { r.Head.Quota = -1 }),
		"line 1: a number out":                 edit(0, func(r *record) { r.Head.Generation = 1<<63 - 1 }),
		"line 1: a number out of":              edit(0, func(r *record) { r.Head.NextIno = 1<<63 - 1 }),
		"line 1: the head is of gen":           edit(0, func(r *record) { r.Head.Generation = 8 }),
		"line 1: a record of this kind":        sampleRecords()[1:],
		"line 2: a blob of":                    edit(1, func(r *record) { r.Blob.Size = chunkSize + 1 }),
		"line 2: a blob's bytes":               edit(1, func(r *record) { r.Blob.Sums = nil }),
		"line 3: a duplicate record":           edit(2, func(r *record) { r.Blob.ID = bytes.Repeat([]byte{3}, 16) }),
		"line 3: a blob's bytes":               edit(2, func(r *record) { r.Blob.Size = 4 }),
		"line 4: the root inode":               edit(3, func(r *record) { r.Inode.Ino = 2 }),
		"line 4: mode":                         edit(3, func(r *record) { r.Inode.Mode = typeFile }),
		"line 5: inode 6":                      edit(4, func(r *record) { r.Inode.Ino = 6 }),
		"line 5: a negative size":              edit(4, func(r *record) { r.Inode.Size = -1 }),
		"line 5: owner":                        edit(4, func(r *record) { r.Inode.UID = 1 << 32 }),
		"line 6: an invalid target":            edit(5, func(r *record) { r.Inode.Target = nil }),
		"line 6: all files":                    edit(5, func(r *record) { *r.Inode = inodeRecord{Ino: 3, Mode: typeFile, Size: 1<<63 - 1} }),
		"line 7: inode 1 contains itself":      edit(6, func(r *record) { r.Entry.Ino = 1 }),
		"line 8: a duplicate record":           edit(7, func(r *record) { r.Entry.Name = []byte("f") }),
		`line 9: "trusted.x" is not a valid`:   edit(8, func(r *record) { r.Xattr.Name = []byte("trusted.x") }),
		"line 10: a chunk with":                edit(9, func(r *record) { r.Chunk.Len = 1 << 40 }),
		"line 11: a duplicate record":          edit(10, func(r *record) { r.Chunk.Pos = 69_999 }),
		"line 11: a chunk with":                edit(10, func(r *record) { r.Chunk.Pos = 1<<63 - 1 }),
		"line 12: inode 0":                     edit(11, func(r *record) { r.Orphan.Ino = 0 }),
		"line 2: not exactly one":              edit(1, func(r *record) { r.Orphan = &orphanRecord{Ino: 3} }),
		"line 12: a record of this kind":       edit(11, func(r *record) { *r = record{Entry: &entryRecord{Parent: 1, Name: []byte("z"), Ino: 4}} }),
	} {
		if _, err := readAll(packManifest(t, list)); !errors.Is(err, driver.ErrCorrupt) || !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	for want, lines := range map[string]string{
		"line 1: longer":        strings.Repeat(" ", maxManifestLine+100_000),
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
	org, id := newID(), newID()
	for _, key := range []string{blobKey(org, id), manifestKey(org, id, 42), orgObjectKey(org, []byte("x"))} {
		if k, ok := parseObjectKey(key); !ok || !bytes.Equal(k.org, org) || k.manifest != (k.generation == 42) {
			t.Errorf("%s: %+v, %v", key, k, ok)
		}
		for _, bad := range []string{key + "x", "o/" + key, strings.ToUpper(key), key[:len(key)-1]} {
			if k, ok := parseObjectKey(bad); ok {
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
		head, err := newManifestReader(bytes.NewReader(data), testOrg, testVol, 7)
		if err != nil {
			t.Fatal(err)
		}
		defer head.close()
		again := append([]*record{{Head: &head.head}}, list[:len(list)-1]...)
		if _, err := readAll(packManifest(t, again)); err != nil {
			t.Errorf("written again: %v", err)
		}
	})
}
