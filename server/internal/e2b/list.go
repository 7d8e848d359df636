package e2b

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/core"
)

// jsonArray writes a JSON array piece by piece, however long it gets. Until the first pieces
// go out, an error can still be answered as one; after that it breaks the answer off.
type jsonArray struct {
	w       *bufio.Writer
	enc     *json.Encoder
	started bool
}

func newJSONArray(w http.ResponseWriter) *jsonArray {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	b := bufio.NewWriterSize(w, 32<<10)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	return &jsonArray{w: b, enc: enc}
}

func (a *jsonArray) addElement(v any) error {
	sep := byte(',')
	if !a.started {
		a.started, sep = true, '['
	}
	if err := a.w.WriteByte(sep); err != nil {
		return err
	}
	return a.enc.Encode(v)
}

func (a *jsonArray) closeArray() error {
	tail := "]\n"
	if !a.started {
		tail = "[]\n"
	}
	if _, err := a.w.WriteString(tail); err != nil {
		return err
	}
	return a.w.Flush()
}

const (
	// maxDepth bounds how many directories one request has open.
	maxDepth = 100
	// walkBatch is how many entries are held of each of them.
	walkBatch = 256
	// entryMemory is about what an entry takes beside its name, in bytes.
	entryMemory = 256
)

func listEntries(w http.ResponseWriter, r *core.Request) error {
	q := lenientQuery(r)
	depth := int(q.Int("depth", 1, 1, maxDepth))
	path, err := queryPath(r, q)
	if err != nil {
		return err
	}
	return withFS(r, true, func(f *vole.FS) error {
		e, err := f.Lstat(r.Context(), path)
		if err != nil {
			return notDirAsNotExist(err)
		}
		if !e.Mode.IsDir() {
			return wrongTypeError("not_a_directory", "not a directory; only directories are listed")
		}
		out := newJSONArray(w)
		if err := writeTree(r, f, path, depth, out); err != nil {
			return err
		}
		return out.closeArray()
	})
}

// writeTree writes what a directory holds, and what its directories hold, depth levels in
// all: each directory before its entries. Directories of up to walkBatch entries are in
// order. What is removed meanwhile is left out.
func writeTree(r *core.Request, f *vole.FS, dir string, depth int, out *jsonArray) error {
	ctx := r.Context()
	d, err := f.OpenDir(ctx, dir, vole.DirOptions{})
	if err != nil {
		return err
	}
	defer func() {
		if d != nil {
			_ = d.Close()
		}
	}()
	for d != nil {
		batch, err := readSortedBatch(ctx, d)
		if errors.Is(err, io.EOF) {
			// Nothing is kept open for the sake of what is beneath.
			err = d.Close()
			d = nil
		}
		if err != nil {
			return err
		}
		if err := writeTreeEntries(r, f, dir, batch, depth, out); err != nil {
			return err
		}
	}
	return nil
}

// writeTreeEntries writes a batch. It counts in the memory of the organisation for as long as
// what is beneath it is written: a request may have one of each level.
func writeTreeEntries(r *core.Request, f *vole.FS, dir string, batch []vole.Entry, depth int, out *jsonArray) error {
	size := int64(0)
	for _, e := range batch {
		size += int64(entryMemory + len(e.Name))
	}
	release, err := r.BorrowMemory(size)
	if err != nil {
		return err
	}
	defer release()
	for _, e := range batch {
		path := joinPath(dir, e.Name)
		x, err := describeEntry(r.Context(), f, path, e)
		if err == nil {
			err = out.addElement(x)
		}
		if err == nil && e.Mode.IsDir() && depth > 1 {
			err = writeTree(r, f, path, depth-1, out)
		}
		if err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

// isGone reports whether err says that an entry is no longer what it was when its
// directory was read.
func isGone(err error) bool {
	return errors.Is(err, vole.ErrNotExist) || errors.Is(err, vole.ErrNotDir)
}

// readSortedBatch reads up to walkBatch entries, in order. The error is io.EOF with the last
// ones.
func readSortedBatch(ctx context.Context, d *vole.Dir) (batch []vole.Entry, err error) {
	for len(batch) < walkBatch && err == nil {
		var part []vole.Entry
		part, err = d.Read(ctx, walkBatch-len(batch))
		batch = append(batch, part...)
	}
	slices.SortFunc(batch, func(a, b vole.Entry) int { return strings.Compare(a.Name, b.Name) })
	return batch, err
}

func joinPath(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}
