package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/volehq/vole"
)

// The corner values of offsets and sizes: whatever is asked for is done or refused, and
// nothing that is refused changes the file.
var cornerTests = []test{
	{"Read", testCornerRead},
	{"Write", testCornerWrite},
	{"Truncate", testCornerTruncate},
	{"PunchHole", testCornerPunchHole},
	{"Sparse", testCornerSparse},
	{"Hint", testCornerHint},
}

// corners are offsets and sizes out of all bounds, or just within or beyond those of some
// backend: 16 TiB, 4 GiB, 2 GiB and chunks of 8 MiB.
var corners = []int64{
	math.MinInt64, math.MinInt64 + 1, -1 << 44, -1,
	8<<20 - 1, 8 << 20, 8<<20 + 1, math.MaxInt32, math.MaxUint32, math.MaxUint32 + 1, 1<<44 - 1, 1 << 44, 1 << 60,
	math.MaxInt64/2 + 1, math.MaxInt64 - 8<<20, math.MaxInt64 - 1, math.MaxInt64,
}

const cornerData = "what the file holds"

// cornerFile is a volume with one file.
func cornerFile(t *testing.T, e *env) (*files, *vole.File) {
	t.Helper()
	f := e.files(t)
	f.write("f", cornerData)
	return f, f.open("f", vole.OpenOptions{Write: true})
}

// whole checks that a change that failed has changed nothing, and undoes one that did not.
func (f *files) whole(what string, h *vole.File, err error) {
	f.t.Helper()
	if err != nil {
		wantAny(f.t, what, err, vole.ErrInvalid, vole.ErrQuota, vole.ErrNoSpace, vole.ErrUnsupported)
	} else if terr := h.Truncate(f.ctx, int64(len(cornerData))); terr != nil {
		f.t.Fatalf("%s, then truncate to what was there: %v", what, terr)
	}
	if i, serr := h.Stat(f.ctx); serr != nil || i.Size != int64(len(cornerData)) {
		f.t.Fatalf("%s (%v): the file has %d bytes, %v", what, err, i.Size, serr)
	}
	b := make([]byte, len(cornerData))
	if _, rerr := h.ReadAt(f.ctx, b, 0); rerr != nil && rerr != io.EOF || string(b) != cornerData {
		f.t.Fatalf("%s (%v): the file holds %q, %v", what, err, b, rerr)
	}
}

func testCornerRead(t *testing.T, e *env) {
	f, h := cornerFile(t, e)
	for _, off := range corners {
		what := fmt.Sprintf("read at %d", off)
		n, err := h.ReadAt(f.ctx, make([]byte, 10), off)
		_, _, derr := h.NextData(f.ctx, off)
		if off < 0 {
			wantErr(t, what, err, vole.ErrInvalid)
			wantErr(t, "next data, "+what, derr, vole.ErrInvalid)
		} else if n != 0 || err != io.EOF || !errors.Is(derr, io.EOF) {
			t.Errorf("%s: %d bytes, %v; next data: %v", what, n, err, derr)
		}
		for _, count := range corners {
			r, err := f.NewReader(f.ctx, "f", off, count)
			if off < 0 {
				wantErr(t, "reader, "+what, err, vole.ErrInvalid)
				continue
			}
			must(t, "reader, "+what, err)
			if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
				t.Errorf("reader of %d, %s: %d bytes, %v", count, what, len(b), err)
			}
			r.Close()
		}
	}
	for _, count := range corners {
		r, err := f.NewReader(f.ctx, "f", 5, count)
		must(t, "reader", err)
		if b, err := io.ReadAll(r); string(b) != cornerData[5:] || err != nil {
			t.Errorf("reader of %d bytes: %q, %v", count, b, err)
		}
		r.Close()
	}
	f.whole("reading", h, nil)
}

func testCornerWrite(t *testing.T, e *env) {
	f, h := cornerFile(t, e)
	for _, off := range corners {
		for _, data := range []string{"x", strings.Repeat("y", 70_000)} {
			_, err := h.WriteAt(f.ctx, []byte(data), off)
			if err == nil {
				err = h.Sync(f.ctx)
			}
			f.whole(fmt.Sprintf("write %d at %d", len(data), off), h, err)
			if off < 0 {
				wantErr(t, fmt.Sprintf("write at %d", off), err, vole.ErrInvalid)
			}
		}
	}
}

func testCornerTruncate(t *testing.T, e *env) {
	f, h := cornerFile(t, e)
	for _, size := range corners {
		what := fmt.Sprintf("truncate to %d", size)
		err := h.Truncate(f.ctx, size)
		f.whole(what, h, err)
		perr := f.FS.Truncate(f.ctx, "f", size)
		f.whole(what+" by path", h, perr)
		if size < 0 {
			wantErr(t, what, err, vole.ErrInvalid)
			wantErr(t, what+" by path", perr, vole.ErrInvalid)
		}
	}
}

func testCornerPunchHole(t *testing.T, e *env) {
	need(t, e.caps.Holes, "holes")
	f, h := cornerFile(t, e)
	end := int64(len(cornerData))
	for _, off := range corners {
		for _, n := range corners {
			err := h.PunchHole(f.ctx, off, n)
			f.whole(fmt.Sprintf("punch %d at %d", n, off), h, err)
			if off < 0 || n < 0 {
				wantErr(t, fmt.Sprintf("punch %d at %d", n, off), err, vole.ErrInvalid)
			}
		}
		if off < 0 {
			continue
		}
		// Over the end, from within.
		if err := h.PunchHole(f.ctx, 5, off); err == nil {
			f.holds("f", cornerData[:5]+strings.Repeat("\x00", int(end-5)))
			_, err := h.WriteAt(f.ctx, []byte(cornerData), 0)
			must(t, "write", err)
		}
		f.whole(fmt.Sprintf("punch %d at 5", off), h, nil)
	}
}

func testCornerSparse(t *testing.T, e *env) {
	f, h := cornerFile(t, e)
	for _, size := range corners {
		for _, at := range corners {
			once := false
			_, err := f.WriteFrom(f.ctx, "sparse", strings.NewReader("data"), vole.WriteOptions{Size: size,
				NextData: func(context.Context) (off, n int64, err error) {
					if once {
						return 0, 0, io.EOF
					}
					once = true
					return at, 4, nil
				}})
			what := fmt.Sprintf("a file of %d bytes with data at %d", size, at)
			if size < 0 || at < 0 || at > size-4 {
				wantErr(t, what, err, vole.ErrInvalid)
			}
			f.whole(what, h, nil)
			if err == nil {
				if i := f.lstat("sparse"); i.Size != size {
					t.Errorf("%s has %d", what, i.Size)
				}
				f.remove("sparse")
				continue
			}
			wantAny(t, what, err, vole.ErrInvalid, vole.ErrQuota, vole.ErrNoSpace, vole.ErrUnsupported)
		}
	}
}

func testCornerHint(t *testing.T, e *env) {
	f, h := cornerFile(t, e)
	for _, size := range corners {
		what := fmt.Sprintf("a stream that is said to have %d bytes", size)
		n, err := f.WriteFrom(f.ctx, "g", strings.NewReader("data"), vole.WriteOptions{Size: size})
		f.whole(what, h, nil)
		if err == nil {
			if n != 4 {
				t.Errorf("%s: %d were written", what, n)
			}
			f.holds("g", "data")
			f.remove("g")
			continue
		}
		wantAny(t, what, err, vole.ErrInvalid, vole.ErrQuota, vole.ErrNoSpace, io.ErrUnexpectedEOF)
	}
}
