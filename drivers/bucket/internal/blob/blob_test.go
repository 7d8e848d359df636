package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/volehq/vole/driver"
	"github.com/volehq/vole/internal/fault"
)

// stores are the kinds of store that the suite runs over.
var stores = []struct {
	name string
	open func(t testing.TB) Store
}{
	{"dir", func(t testing.TB) Store { return openTestDir(t, t.TempDir()) }},
	{"s3", func(t testing.TB) Store { return openTestS3(t, nil) }},
}

func openTestDir(t testing.TB, dir string) *dirStore {
	t.Helper()
	s, err := OpenDir(dir, &fault.Injector{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*dirStore)
}

// openTestS3 opens a bucket of its own, under a prefix.
func openTestS3(t testing.TB, change func(*S3Options)) *s3Store {
	t.Helper()
	c := s3Config(t)
	opts := S3Options{Endpoint: c.Endpoint, Bucket: c.Bucket, AccessKey: c.AccessKey, SecretKey: c.SecretKey, Prefix: "some/where"}
	if change != nil {
		change(&opts)
	}
	s, err := OpenS3(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*s3Store)
}

// TestStore holds both kinds of store to the contract.
func TestStore(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"put", testPut},
		{"keys", testKeys},
		{"read", testRead},
		{"delete", testDelete},
		{"list", testList},
		{"write", testWrite},
		{"at once", testAtOnce},
		{"ended", testEnded},
	}
	for _, store := range stores {
		for _, test := range tests {
			t.Run(store.name+"/"+test.name, func(t *testing.T) { test.run(t, store.open(t)) })
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func sumOf(data []byte) uint32 { return crc32.Checksum(data, Castagnoli) }

func mustPut(t testing.TB, s Store, key string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, data, sumOf(data)); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want one that matches %v", err, kind)
	}
}

// wantCertain is for a failure after which nothing may be stored.
func wantCertain(t testing.TB, err, kind error) {
	t.Helper()
	wantErr(t, err, kind)
	if errors.Is(err, ErrUncertain) {
		t.Fatalf("error %v is uncertain", err)
	}
}

func wantBytes(t testing.TB, s Store, key string, want []byte) {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s holds %d bytes, not the %d that were stored", key, len(got), len(want))
	}
}

func keysOf(t testing.TB, s Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func testPut(t *testing.T, s Store) {
	ctx := t.Context()
	for _, size := range []int{0, 1, 70_000, 8 << 20} {
		key := fmt.Sprintf("o/org/b/aa/%d", size)
		data := random(size)
		wantCertain(t, s.Put(ctx, key, data, sumOf(data)+1), driver.ErrCorrupt)
		if _, err := s.Stat(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("data of a wrong checksum was stored: %v", err)
		}
		mustPut(t, s, key, data)
		mustPut(t, s, key, data) // again, as after an answer that was lost
		wantBytes(t, s, key, data)

		other := append(bytes.Clone(data), 1)
		wantCertain(t, s.Put(ctx, key, other, sumOf(other)), driver.ErrExists)
		if size > 0 {
			other = bytes.Clone(data)
			other[size/2] ^= 1
			wantCertain(t, s.Put(ctx, key, other, sumOf(other)), driver.ErrExists)
		}
		wantBytes(t, s, key, data)

		info, err := s.Stat(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if info.Key != key || info.Size != int64(size) || time.Since(info.Modified).Abs() > time.Minute {
			t.Fatalf("stat: %+v", info)
		}
	}
}

func testKeys(t *testing.T, s Store) {
	ctx := t.Context()
	for _, key := range []string{"", ".", "..", "/", "/a", "a/", "a//b", "a/../b", "../a", "a/./b", "a\\b", "a\x00b", "a\nb", "a\xff",
		"tmp", "tmp/a", strings.Repeat("long/", 205)} {
		wantCertain(t, s.Put(ctx, key, nil, 0), driver.ErrInvalid)
		wantErr(t, s.Write(ctx, key, strings.NewReader("")), driver.ErrInvalid)
		wantErr(t, s.Delete(ctx, key), driver.ErrInvalid)
		wantErr(t, s.ReadAt(ctx, key, make([]byte, 1), 0), driver.ErrInvalid)
		_, err := s.Open(ctx, key)
		wantErr(t, err, driver.ErrInvalid)
		_, err = s.Stat(ctx, key)
		wantErr(t, err, driver.ErrInvalid)
	}
	for _, key := range []string{"a b", "o/ünïcode/€", "o/+&=?%2F#", "tmpx/1", strings.Repeat("k", 200)} {
		data := []byte(key)
		mustPut(t, s, key, data)
		wantBytes(t, s, key, data)
		if got := keysOf(t, s, key); len(got) != 1 || got[0] != key {
			t.Fatalf("list of %q: %q", key, got)
		}
	}
}

func testRead(t *testing.T, s Store) {
	ctx := t.Context()
	data := random(300_000)
	mustPut(t, s, "o/a", data)
	mustPut(t, s, "o/empty", nil)
	for _, r := range []struct{ off, n int }{{0, 1}, {0, 2}, {0, 300_000}, {1, 1}, {1, 299_999}, {299_999, 1}, {123_456, 65_536}, {5, 0}, {300_000, 0}} {
		p := make([]byte, r.n)
		if err := s.ReadAt(ctx, "o/a", p, int64(r.off)); err != nil {
			t.Fatalf("%d bytes at %d: %v", r.n, r.off, err)
		}
		if !bytes.Equal(p, data[r.off:r.off+r.n]) {
			t.Fatalf("%d bytes at %d: wrong bytes", r.n, r.off)
		}
	}
	for _, r := range []struct{ off, n int }{{0, 300_001}, {299_999, 2}, {300_000, 1}, {400_000, 10}, {300_001, 0}, {1<<63 - 1, 1}} {
		wantErr(t, s.ReadAt(ctx, "o/a", make([]byte, r.n), int64(r.off)), driver.ErrCorrupt)
	}
	wantErr(t, s.ReadAt(ctx, "o/empty", make([]byte, 1), 0), driver.ErrCorrupt)
	if err := s.ReadAt(ctx, "o/empty", nil, 0); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.ReadAt(ctx, "o/a", make([]byte, 1), -1), driver.ErrInvalid)
	for _, key := range []string{"o/none", "o", "x/y/z"} {
		wantErr(t, s.ReadAt(ctx, key, make([]byte, 1), 0), fs.ErrNotExist)
		wantErr(t, s.ReadAt(ctx, key, nil, 0), fs.ErrNotExist)
		_, err := s.Open(ctx, key)
		wantErr(t, err, fs.ErrNotExist)
		_, err = s.Stat(ctx, key)
		wantErr(t, err, fs.ErrNotExist)
	}
	wantBytes(t, s, "o/empty", nil)
}

func testDelete(t *testing.T, s Store) {
	ctx := t.Context()
	mustPut(t, s, "o/a/1", []byte("one"))
	for range 2 {
		if err := s.Delete(ctx, "o/a/1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "never/was"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Stat(ctx, "o/a/1")
	wantErr(t, err, fs.ErrNotExist)
	mustPut(t, s, "o/a/1", []byte("another"))
	wantBytes(t, s, "o/a/1", []byte("another"))
}

func testList(t *testing.T, s Store) {
	if got := keysOf(t, s, ""); len(got) != 0 {
		t.Fatalf("list of nothing: %q", got)
	}
	keys := []string{"m", "o/a-b", "o/a/1", "o/a/2/3", "o/a0", "o/ab/1", "o/b/1", "oo/1"}
	for _, key := range keys {
		mustPut(t, s, key, []byte(key))
	}
	for _, test := range []struct {
		prefix string
		want   []string
	}{
		{"", keys},
		{"o", keys[1:]},
		{"o/", keys[1:7]},
		{"o/a", keys[1:6]},
		{"o/a/", keys[2:4]},
		{"o/a/1", keys[2:3]},
		{"o/c", nil},
		{"none/such", nil},
	} {
		if got := keysOf(t, s, test.prefix); !slices.Equal(got, test.want) {
			t.Errorf("list of %q: %q, want %q", test.prefix, got, test.want)
		}
	}
	for info, err := range s.List(t.Context(), "o/") {
		if err != nil || info.Size != int64(len(info.Key)) || time.Since(info.Modified).Abs() > time.Minute {
			t.Fatalf("%+v, %v", info, err)
		}
		break // a consumer may stop
	}
	for _, prefix := range []string{"..", "/", "a//", "../"} {
		for _, err := range s.List(t.Context(), prefix) {
			wantErr(t, err, driver.ErrInvalid)
		}
	}
}

func testWrite(t *testing.T, s Store) {
	ctx := t.Context()
	for _, size := range []int{0, 10, 16 << 20, 40<<20 + 7} {
		key := fmt.Sprintf("m/%d", size)
		data := random(size)
		if err := s.Write(ctx, key, iotest.HalfReader(bytes.NewReader(data))); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, s, key, data)
		if err := s.Write(ctx, key, bytes.NewReader(data)); err != nil {
			t.Fatalf("the same again: %v", err)
		}
		wantCertain(t, s.Write(ctx, key, io.MultiReader(bytes.NewReader(data), strings.NewReader("more"))), driver.ErrExists)
		wantBytes(t, s, key, data)
	}
	broken := errors.New("the source broke")
	for _, size := range []int{0, 5, 20 << 20, 50 << 20} {
		r := io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(broken))
		wantCertain(t, s.Write(ctx, "m/broken", r), broken)
		_, err := s.Stat(ctx, "m/broken")
		wantErr(t, err, fs.ErrNotExist)
	}
}

func testAtOnce(t *testing.T, s Store) {
	ctx := t.Context()
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 100_000)
			// All want this key with other bytes, and each of these with the same.
			switch err := s.Put(ctx, "o/one", data, sumOf(data)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, driver.ErrExists) || errors.Is(err, ErrUncertain):
				t.Error(err)
			}
			for j := range 8 {
				same := bytes.Repeat([]byte{byte(j)}, 10_000)
				key := fmt.Sprintf("o/new/%d/%d", j, j)
				if err := s.Put(ctx, key, same, sumOf(same)); err != nil {
					t.Error(err)
				}
				p := make([]byte, len(same))
				if err := s.ReadAt(ctx, key, p, 0); err != nil || !bytes.Equal(p, same) {
					t.Errorf("read %s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d puts of different bytes won", won.Load())
	}
	if n := len(keysOf(t, s, "o/")); n != 9 {
		t.Errorf("%d objects, want 9", n)
	}
}

func testEnded(t *testing.T, s Store) {
	mustPut(t, s, "o/a", []byte("a"))
	stream, err := s.Open(t.Context(), "o/a")
	if err != nil {
		t.Fatal(err)
	}
	stream.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(ctx context.Context, kind error) {
		t.Helper()
		wantErr(t, s.Put(ctx, "o/b", nil, 0), kind)
		wantErr(t, s.Write(ctx, "o/b", strings.NewReader("b")), kind)
		wantErr(t, s.ReadAt(ctx, "o/a", make([]byte, 1), 0), kind)
		wantErr(t, s.Delete(ctx, "o/a"), kind)
		_, err := s.Stat(ctx, "o/a")
		wantErr(t, err, kind)
		_, err = s.Open(ctx, "o/a")
		wantErr(t, err, kind)
		n := 0
		for _, err := range s.List(ctx, "") {
			wantErr(t, err, kind)
			n++
		}
		if n != 1 {
			t.Errorf("the list yielded %d errors", n)
		}
	}
	check(ctx, context.Canceled)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(t.Context(), driver.ErrClosed)
}
