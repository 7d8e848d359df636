package conformance

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/volehq/vole"
)

var modeTests = []test{
	{"Batch", testBatch},
	{"BatchOps", testBatchOps},
	{"ReadOnlyFS", testReadOnlyFS},
	{"ReadOnlyStore", testReadOnlyStore},
}

// In batch mode the same calls do the same, and are there for others after Sync.
func testBatch(t *testing.T, e *env) {
	f := e.openFiles(t, e.create(t, "vol"), vole.FSOptions{Batch: true})
	other := f.beside(vole.FSOptions{})
	for round := range 3 {
		for i := range 100 {
			f.write(fmt.Sprintf("d%d/f%d", i%7, i), pattern(i+round, 100))
		}
		h := f.open("log", vole.OpenOptions{Create: true, Append: true})
		_, err := h.Append(f.ctx, []byte("line\n"))
		must(t, "append", err)
		must(t, "close", h.Close())
		must(t, "sync", f.Sync(f.ctx))
		for i := range 100 {
			other.holds(fmt.Sprintf("d%d/f%d", i%7, i), pattern(i+round, 100))
		}
		f.used("after sync", int64(10_000+5*(round+1)))
	}
	f.write("late", "not synced but by Close")
	ok(t, "close", f.Close())
	g := e.openFiles(t, f.vol, vole.FSOptions{})
	g.holds("late", "not synced but by Close")
	g.used("after close", int64(10_000+15+len("not synced but by Close")))
}

// Every operation works in batch mode, and its effect is visible when it returns.
func testBatchOps(t *testing.T, e *env) {
	plain := e.openFiles(t, e.create(t, "plain"), vole.FSOptions{})
	batch := e.openFiles(t, e.create(t, "batch"), vole.FSOptions{Batch: true})
	for _, o := range e.pathOps() {
		for _, f := range []*files{plain, batch} {
			f.cleanFixture()
			must(t, o.name, o.run(f.ctx, f.FS, o.at))
		}
		// Times are those of the clock; the rest is the same.
		if d := timeless(plain.tree()).Diff(timeless(batch.tree())); d != "" {
			t.Errorf("%s in batch mode differs:%s", o.name, d)
		}
	}
}

var mtimes = regexp.MustCompile(` mtime=-?\d+`)

// timeless takes the times out of a tree.
func timeless(a tree) tree {
	b := tree{}
	for p, s := range a {
		b[p] = mtimes.ReplaceAllString(s, "")
	}
	return b
}

func testReadOnlyFS(t *testing.T, e *env) {
	w := e.files(t)
	w.fixture()
	before := w.tree()
	ok(t, "close", w.Close())
	f := e.openFiles(t, w.vol, vole.FSOptions{ReadOnly: true})
	checkReadOnly(t, f)
	f.unchanged("refused changes", before)
}

// checkReadOnly checks that f reads and does not write.
func checkReadOnly(t *testing.T, f *files) {
	t.Helper()
	for _, o := range f.e.pathOps() {
		err := o.run(f.ctx, f.FS, o.at)
		if o.changes {
			wantErrOf(t, o.name, err, vole.ErrReadOnly, o.op, "vol")
		} else {
			ok(t, o.name, err)
		}
	}
	h := f.open("file", vole.OpenOptions{})
	for _, o := range handleOps {
		err := o.run(f.ctx, h)
		if o.changes {
			wantErr(t, o.name, err, vole.ErrReadOnly)
		} else {
			ok(t, o.name, err)
		}
	}
	_, err := f.Statfs(f.ctx)
	ok(t, "statfs", err)
	ok(t, "sync", f.Sync(f.ctx))
	ok(t, "close", h.Close())
}

// A store that is opened for reading shows everything and changes nothing.
func testReadOnlyStore(t *testing.T, e *env) {
	if e.h.ReadOnly == nil {
		t.Skip("the backend cannot be opened read-only")
	}
	w := e.files(t)
	w.fixture()
	before := w.tree()
	ok(t, "close", w.Close())
	want, err := w.vol.Refresh(t.Context())
	must(t, "refresh", err)

	s := e.h.ReadOnly(t, e.store)
	t.Cleanup(func() { ok(t, "close", s.Close()) })
	equal(t, "read-only", s.Caps().ReadOnly, true)
	for _, o := range storeOps {
		err := o.run(t.Context(), s, e.h.Spec)
		switch {
		case o.changes:
			wantErr(t, o.name, err, vole.ErrReadOnly)
		default:
			ok(t, o.name, err)
		}
	}
	v, err := s.Get(t.Context(), "vol")
	must(t, "get", err)
	if d := sameInfo(want, v.Info()); d != "" {
		t.Errorf("read-only, the volume differs: %s", d)
	}
	for _, o := range volumeOps {
		if o.changes {
			wantErrOf(t, o.name, o.run(t.Context(), v), vole.ErrReadOnly, o.op, "vol")
		}
	}
	_, err = s.Get(t.Context(), "nosuch")
	wantErr(t, "get a missing volume", err, vole.ErrNotFound)
	f := e.openFiles(t, v, vole.FSOptions{ReadOnly: true})
	checkReadOnly(t, f)
	f.unchanged("reading", before)
	ok(t, "close", f.Close())
}
