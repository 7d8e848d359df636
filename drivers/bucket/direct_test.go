package bucket_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/drivers/bucket"
)

// sendRequest makes a request as a host does that has nothing but it.
func sendRequest(t *testing.T, r bucket.Request, body []byte, rng string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, r.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = r.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, b
}

func newPart(pos int64, data []byte) bucket.Part {
	table := crc32.MakeTable(crc32.Castagnoli)
	p := bucket.Part{Pos: pos, Size: int64(len(data)), Sum: crc32.Checksum(data, table)}
	for off := 0; off < len(data); off += 64 << 10 {
		p.Sums = binary.BigEndian.AppendUint32(p.Sums, crc32.Checksum(data[off:min(off+64<<10, len(data))], table))
	}
	return p
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b) // never fails
	return b
}

// openS3Org opens an organisation on PostgreSQL and versitygw.
func openS3Org(t *testing.T, opts bucket.Options, org string) (*bucket.Backend, *vole.Store) {
	t.Helper()
	b, err := bucket.OpenOrg(t.Context(), opts, org)
	if err != nil {
		t.Fatal(err)
	}
	s := vole.New(b)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, s
}

// A host without credentials puts the parts of a file and fetches them.
func TestDirect(t *testing.T) {
	ctx := t.Context()
	opts := engines[1].fresh(t)
	b, s := openS3Org(t, opts, "acme")
	other, _ := openS3Org(t, opts, "other")
	v, err := s.Create(ctx, "v", vole.Spec{Quota: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	first, second := randomBytes(8<<20), randomBytes(100_000)
	parts := []bucket.Part{newPart(0, first), newPart(9<<20, second)}
	size := int64(9<<20 + 100_000)
	res, err := b.Reserve(ctx, parts, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	blobs := []string{res[0].Blob, res[1].Blob}
	commit := func(b *bucket.Backend, path string, size int64, parts []bucket.Part, blobs []string) error {
		return b.CommitFile(ctx, v.ID(), path, size, parts, blobs, vole.WriteOptions{}, vole.FSOptions{})
	}
	if code, _ := sendRequest(t, res[0].Put, first, ""); code/100 != 2 {
		t.Fatalf("put: %d", code)
	}
	if err := commit(b, "d/f", size, parts, blobs); !errors.Is(err, vole.ErrNotExist) {
		t.Errorf("commit of a part that was not put: %v", err)
	}
	if code, _ := sendRequest(t, res[1].Put, randomBytes(100_001)[:100_000], ""); code/100 == 2 {
		t.Error("other bytes than those of the checksum were taken")
	}
	if code, body := sendRequest(t, res[1].Put, second, ""); code/100 != 2 {
		t.Fatalf("put: %d %s", code, body)
	}
	if err := commit(other, "d/f", size, parts, blobs); err == nil {
		t.Error("another organisation committed to the volume")
	}
	if err := commit(b, "d/f", size-1, parts, blobs); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("commit of parts beyond the file: %v", err)
	}
	if err := commit(b, "d/f", 33<<20, parts, blobs); !errors.Is(err, vole.ErrQuota) {
		t.Errorf("commit beyond the quota: %v", err)
	}
	if err := commit(b, "d/f", size, parts, blobs); err != nil {
		t.Fatal(err)
	}
	if err := commit(b, "again", size, parts, blobs); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("commit of blobs that are in use: %v", err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := f.ReadFile(ctx, "d/f")
	want := append(append(bytes.Clone(first), make([]byte, 1<<20)...), second...)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := f.WriteFile(ctx, "small", []byte("inline"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := readByLocate(ctx, t, b, v.ID(), "d/f", len(want)); !bytes.Equal(got, want) {
		t.Error("what was fetched differs")
	}
	if got := readByLocate(ctx, t, b, v.ID(), "small", 6); string(got) != "inline" {
		t.Errorf("%q", got)
	}
	if _, _, err := other.Locate(ctx, v.ID(), "d/f", 0, time.Minute); !errors.Is(err, vole.ErrNotFound) {
		t.Errorf("another organisation located the file: %v", err)
	}
	if _, _, err := b.Locate(ctx, v.ID(), "d/f", 0, 1000*time.Hour); !errors.Is(err, vole.ErrInvalid) {
		t.Errorf("requests for longer than the objects may be there: %v", err)
	}
}

// readByLocate reads a file by the requests that Locate returns.
func readByLocate(ctx context.Context, t *testing.T, b *bucket.Backend, id, path string, size int) []byte {
	t.Helper()
	got := make([]byte, size)
	for next := int64(0); next >= 0; {
		var list []bucket.Range
		var err error
		list, next, err = b.Locate(ctx, id, path, next, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			data := r.Data
			if r.Get != nil {
				if !strings.Contains(r.Get.URL, "Signature") {
					t.Errorf("%s is not signed", r.Get.URL)
				}
				var code int
				if code, data = sendRequest(t, *r.Get, nil, ""); code != 200 || int64(len(data)) != r.Size {
					t.Fatalf("get: %d, %d bytes", code, len(data))
				}
				data = data[r.Offset : r.Offset+r.Len]
			}
			copy(got[r.Pos:], data)
		}
	}
	return got
}

func TestDirectRefused(t *testing.T) {
	ctx := t.Context()
	b, _ := openS3Org(t, engines[0].fresh(t), "acme")
	ok := newPart(0, []byte("x"))
	if _, err := b.Reserve(ctx, []bucket.Part{ok}, time.Minute); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("reserve in a directory: %v", err)
	}
	for what, p := range map[string]bucket.Part{
		"empty": {}, "too large": {Size: 8<<20 + 1}, "negative": {Pos: -1, Size: 1, Sums: make([]byte, 4)},
		"far": {Pos: 1<<63 - 1, Size: 1, Sums: make([]byte, 4)}, "without sums": {Size: 1}, "with too many": {Size: 1, Sums: make([]byte, 8)},
	} {
		if _, err := b.Reserve(ctx, []bucket.Part{p}, time.Minute); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestDirectOverwritten: no request shows what a file, or the clone of a volume, has lost.
func TestDirectOverwritten(t *testing.T) {
	ctx := t.Context()
	b, s := openS3Org(t, engines[1].fresh(t), "acme")
	v, err := s.Create(ctx, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.FS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	secret := randomBytes(2 << 20)
	write := func(name string) {
		if _, err := f.WriteFrom(ctx, name, bytes.NewReader(secret), vole.WriteOptions{Size: int64(len(secret))}); err != nil {
			t.Fatal(err)
		}
	}
	handle := func(name string, fn func(h *vole.File) error) {
		h, err := f.Open(ctx, name, vole.OpenOptions{Write: true})
		if err == nil {
			err = errors.Join(fn(h), h.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	overwrite := func(h *vole.File) error {
		_, err := h.WriteAt(ctx, make([]byte, 100_000), 500_000)
		return err
	}
	for _, name := range []string{"whole", "overwritten", "cut", "punched", "copied", "split"} {
		write(name)
	}
	handle("overwritten", overwrite)
	handle("cut", func(h *vole.File) error { return h.Truncate(ctx, 1<<20) })
	handle("punched", func(h *vole.File) error { return h.PunchHole(ctx, 0, 1<<20) })
	if err := f.Copy(ctx, "copied", "copy", vole.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	handle("copy", overwrite) // the original in the same volume has them still
	// Two pieces of one flush share an object, which is the file's to the last byte.
	handle("split", func(h *vole.File) error {
		if err := h.Truncate(ctx, 0); err != nil {
			return err
		}
		for _, off := range []int64{0, 1 << 20} {
			if _, err := h.WriteAt(ctx, secret[off:off+200_000], off); err != nil {
				return err
			}
		}
		return nil
	})
	clone, err := s.Create(ctx, "clone", vole.Spec{From: v.ID()})
	if err != nil {
		t.Fatal(err)
	}
	handle("whole", overwrite)
	for _, c := range []struct {
		vol, name string
		given     bool
	}{
		{v.ID(), "whole", false}, {clone.ID(), "whole", true}, {v.ID(), "overwritten", false}, {clone.ID(), "overwritten", false},
		{v.ID(), "cut", false}, {v.ID(), "punched", false}, {v.ID(), "copied", true}, {v.ID(), "copy", false}, {v.ID(), "split", true},
	} {
		list, _, err := b.Locate(ctx, c.vol, c.name, 0, time.Minute)
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: %d ranges, %v", c.name, len(list), err)
		}
		given := false
		for _, r := range list {
			// The object of what was written over it is the file's own.
			if r.Get != nil && r.Size != 100_000 {
				given = true
			}
			if r.Get == nil && (r.Sums != nil || r.Data != nil) {
				t.Errorf("%s: checksums or bytes without a request", c.name)
			}
		}
		if given != c.given {
			t.Errorf("%s: a request for the object: %v", c.name, given)
		}
	}
}
