package e2b

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/volehq/vole"
	"github.com/volehq/vole/server/internal/core"
)

const (
	// maxDepth bounds the depth of a listing, and so how many directories one request has open.
	maxDepth = 100
	// walkBatch is how many entries of each open directory are in memory.
	walkBatch = 256
	// entryMemory is what an entry takes without its name, in bytes.
	entryMemory = 256
)

// listEntries answers with the entries of a directory, down to the given depth.
func listEntries(w http.ResponseWriter, r *core.Request) error {
	q := lenientQuery(r)
	depth := int(q.Int("depth", 1, 1, maxDepth))
	return withPath(r, q, true, func(f *vole.FS, path string) error {
		e, err := f.Lstat(r.Context(), path)
		if err != nil {
			return notDirAsNotExist(err)
		}
		if !e.Mode.IsDir() {
			return wrongTypeError("not_a_directory", "not a directory; only directories can be listed")
		}
		out := core.NewJSONArray(w, "[", "]")
		if err := writeTree(r, f, path, depth, out); err != nil {
			return err
		}
		return out.Close()
	})
}

// writeTree writes the entries of a directory and of its subdirectories, depth levels in all,
// each directory before its entries. Directories of up to walkBatch entries are sorted. Entries
// that disappear meanwhile are left out.
func writeTree(r *core.Request, f *vole.FS, dir string, depth int, out *core.JSONArray) error {
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
			// The directory need not stay open while its subdirectories are written.
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

// writeTreeEntries writes one batch. Its memory is borrowed until everything below it is
// written: a request may hold one batch for each level.
func writeTreeEntries(r *core.Request, f *vole.FS, dir string, batch []vole.Entry, depth int, out *core.JSONArray) error {
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
			err = out.Add(x)
		}
		if err == nil && e.Mode.IsDir() && depth > 1 {
			err = writeTree(r, f, path, depth-1, out)
		}
		if err != nil && !isEntryGone(err) {
			return err
		}
	}
	return nil
}

// isEntryGone reports whether err means that an entry changed since its directory was read.
func isEntryGone(err error) bool {
	return errors.Is(err, vole.ErrNotExist) || errors.Is(err, vole.ErrNotDir)
}

// readSortedBatch reads up to walkBatch entries and sorts them. The error is io.EOF with the
// last ones.
func readSortedBatch(ctx context.Context, d *vole.Dir) (batch []vole.Entry, err error) {
	for len(batch) < walkBatch && err == nil {
		var part []vole.Entry
		part, err = d.Read(ctx, walkBatch-len(batch))
		batch = append(batch, part...)
	}
	slices.SortFunc(batch, func(a, b vole.Entry) int { return strings.Compare(a.Name, b.Name) })
	return batch, err
}

// joinPath joins a directory and a name in the form that drivers take, where the root is ".".
func joinPath(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}
