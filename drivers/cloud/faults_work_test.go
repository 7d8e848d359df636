package cloud_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/volehq/vole"
)

// worker repeats one kind of operation, and knows what the volume must hold after it.
type worker interface {
	begin(ctx context.Context, fsys *vole.FS, dir string) error
	step(t *testing.T, rnd *rand.Rand) bool // whether what it did was acknowledged
	end(t *testing.T)
	verify(t *testing.T, fsys *vole.FS)
}

type workerDir struct {
	fs  *vole.FS
	dir string
}

func (l *workerDir) begin(ctx context.Context, fsys *vole.FS, dir string) error {
	l.fs, l.dir = fsys, dir
	return fsys.MkdirAll(ctx, dir, 0o755)
}

func (l *workerDir) end(*testing.T) {}

// version is content that shows its own number, and whether it is whole.
type version struct {
	r    *rand.ChaCha8
	left int64
	head []byte
}

// newVersion gives n bytes, of which the first eight are seq and the others follow from it.
func newVersion(seq uint64, n int64) *version {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], seq)
	return &version{r: rand.NewChaCha8(seed), left: n - 8, head: seed[:8:8]}
}

func (v *version) Read(p []byte) (int, error) {
	if len(v.head) > 0 {
		n := copy(p, v.head)
		v.head = v.head[n:]
		return n, nil
	}
	if v.left == 0 {
		return 0, io.EOF
	}
	n, err := v.r.Read(p[:min(int64(len(p)), v.left)])
	v.left -= int64(n)
	return n, err
}

// readWholeVersion reads content to the end and returns which version it is.
func readWholeVersion(r io.Reader, n int64) (uint64, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	seq := binary.BigEndian.Uint64(head[:])
	want := newVersion(seq, n)
	want.head = nil
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(8); ; {
		m, err := io.ReadFull(want, a)
		k, kerr := io.ReadFull(r, b)
		if m != k || !bytes.Equal(a[:m], b[:k]) {
			return seq, fmt.Errorf("torn: version %d is not whole in the %d bytes from %d", seq, m, off)
		}
		off += int64(m)
		if err != nil || kerr != nil {
			if errors.Is(kerr, io.EOF) || errors.Is(kerr, io.ErrUnexpectedEOF) {
				return seq, nil
			}
			return seq, kerr
		}
	}
}

// history has the versions that a file or block may hold: the last acknowledged one, or one that
// was tried after it.
type history struct{ acked, tried uint64 }

func (h history) fits(seq uint64) bool { return seq >= h.acked && seq <= h.tried }

// smallWriter replaces small files.
type smallWriter struct {
	workerDir
	files [8]history
}

const smallSize = 3000

func (w *smallWriter) step(t *testing.T, rnd *rand.Rand) bool {
	i := rnd.IntN(len(w.files))
	h := &w.files[i]
	h.tried++
	b, _ := io.ReadAll(newVersion(h.tried, smallSize))
	if err := w.fs.WriteFile(context.Background(), fmt.Sprintf("%s/%d", w.dir, i), b, 0o644); err != nil {
		return false
	}
	h.acked = h.tried
	return true
}

func (w *smallWriter) verify(t *testing.T, fsys *vole.FS) {
	for i, h := range w.files {
		verifyVersion(t, fsys, fmt.Sprintf("%s/%d", w.dir, i), smallSize, h)
	}
}

func verifyVersion(t *testing.T, fsys *vole.FS, path string, size int64, h history) {
	t.Helper()
	r, err := fsys.NewReader(context.Background(), path, 0, -1)
	if errors.Is(err, fs.ErrNotExist) && h.acked == 0 {
		return
	}
	var seq uint64
	if err == nil {
		seq, err = readWholeVersion(r, size)
		_ = r.Close()
	}
	if err != nil || !h.fits(seq) {
		t.Errorf("%s is version %d, acknowledged was %d, tried %d: %v", path, seq, h.acked, h.tried, err)
	}
}

// bigWriter replaces a big file by streams.
type bigWriter struct {
	workerDir
	history
}

const bigSize = 32 << 20

func (w *bigWriter) step(t *testing.T, _ *rand.Rand) bool {
	w.tried++
	if _, err := w.fs.WriteFrom(context.Background(), w.dir+"/big", newVersion(w.tried, bigSize), vole.WriteOptions{Mode: 0o644}); err != nil {
		return false
	}
	w.acked = w.tried
	return true
}

func (w *bigWriter) verify(t *testing.T, fsys *vole.FS) {
	verifyVersion(t, fsys, w.dir+"/big", bigSize, w.history)
}

// handleWriter writes blocks of an open file. Only what was written between two Syncs
// that said nil is acknowledged.
type handleWriter struct {
	workerDir
	file    *vole.File
	blocks  [16]history
	written map[int]uint64 // since the last Sync
}

const blockSize = 5000

func (w *handleWriter) open() error {
	var err error
	w.written = map[int]uint64{}
	w.file, err = w.fs.Open(context.Background(), w.dir+"/file", vole.OpenOptions{Write: true, Create: true})
	return err
}

func (w *handleWriter) step(t *testing.T, rnd *rand.Rand) bool {
	ctx := context.Background()
	if w.file == nil {
		if err := w.open(); err != nil {
			w.file = nil
			return false
		}
	}
	for range 1 + rnd.IntN(5) {
		i := rnd.IntN(len(w.blocks))
		h := &w.blocks[i]
		h.tried++
		b, _ := io.ReadAll(newVersion(h.tried, blockSize))
		delete(w.written, i)
		if _, err := w.file.WriteAt(ctx, b, int64(i*blockSize)); err != nil {
			w.written = map[int]uint64{}
			_ = w.file.Close()
			w.file = nil
			return false
		}
		w.written[i] = h.tried
	}
	var err error
	if rnd.IntN(4) == 0 {
		err = w.file.Close()
		w.file = nil
	} else {
		err = w.file.Sync(ctx)
	}
	if err == nil {
		for i, seq := range w.written {
			w.blocks[i].acked = seq
		}
	}
	w.written = map[int]uint64{}
	return err == nil
}

func (w *handleWriter) end(t *testing.T) {
	if w.file != nil {
		_ = w.file.Close()
	}
}

func (w *handleWriter) verify(t *testing.T, fsys *vole.FS) {
	data, err := fsys.ReadFile(context.Background(), w.dir+"/file")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", w.dir, err)
		return
	}
	for i, h := range w.blocks {
		b := data[min(len(data), i*blockSize):min(len(data), (i+1)*blockSize)]
		if h.acked == 0 && len(bytes.Trim(b, "\x00")) == 0 {
			continue
		}
		seq, err := readWholeVersion(bytes.NewReader(b), blockSize)
		// A block is no file: it may be torn where its last write was not acknowledged.
		if err != nil && h.tried > h.acked {
			continue
		}
		if err != nil || !h.fits(seq) {
			t.Errorf("%s: block %d is version %d, acknowledged was %d, tried %d: %v", w.dir, i, seq, h.acked, h.tried, err)
		}
	}
}

// renamer moves one file on from name to name.
type renamer struct {
	workerDir
	at    int // where it is as far as is known
	maybe int // where it may be instead; 0: nowhere
	made  bool
}

func (w *renamer) path(n int) string { return fmt.Sprintf("%s/%d", w.dir, n) }

func (w *renamer) step(t *testing.T, _ *rand.Rand) bool {
	ctx := context.Background()
	if !w.made {
		w.made = w.fs.WriteFile(ctx, w.path(0), []byte("moved"), 0o644) == nil
		return w.made
	}
	// A server that was killed may have a transaction under way at the database, which comes
	// about a little after its clients were told that the outcome is not known.
	unsure := w.maybe > 0
	if unsure {
		there, err := w.fs.Exists(ctx, w.path(w.maybe))
		if err != nil {
			return false
		}
		if there {
			w.at, unsure = w.maybe, false
		}
		w.maybe = 0
	}
	if err := w.fs.Rename(ctx, w.path(w.at), w.path(w.at+1), vole.RenameOptions{}); err != nil {
		if errors.Is(err, fs.ErrNotExist) && !unsure {
			t.Errorf("%s is gone: %v", w.path(w.at), err)
		}
		w.maybe = w.at + 1
		return false
	}
	w.at++
	return true
}

func (w *renamer) verify(t *testing.T, fsys *vole.FS) {
	list, err := fsys.ReadDir(context.Background(), w.dir)
	if err != nil || len(list) > 1 || len(list) == 0 && w.made {
		t.Errorf("%s has %v: %v", w.dir, list, err)
		return
	}
	if w.made && list[0].Name != fmt.Sprint(w.at) && (w.maybe == 0 || list[0].Name != fmt.Sprint(w.maybe)) {
		t.Errorf("%s has %s, want %d or %d", w.dir, list[0].Name, w.at, w.maybe)
	}
}

// creator makes volumes, each of another name: that there is one already can only mean
// that it was made twice.
type creator struct {
	workerDir
	f *killTest
	n int
}

func (w *creator) step(t *testing.T, _ *rand.Rand) bool {
	w.n++
	name := fmt.Sprintf("v-%s-%d", w.dir, w.n)
	v, err := w.f.store.Create(context.Background(), name, vole.Spec{})
	if errors.Is(err, vole.ErrExists) {
		t.Errorf("%s was made twice: %v", name, err)
	}
	if err != nil {
		return false
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.names[name] = v.ID()
	return true
}

func (w *creator) verify(*testing.T, *vole.FS) {}
