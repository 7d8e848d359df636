package conformance

import (
	"testing"

	"github.com/volehq/vole"
)

var staleTests = []test{
	{"Successor", testStaleHandle},
	{"OpenFilesOfPredecessor", testStaleFS},
	{"RenameSwap", testRenameSwap},
	{"NameGivenAway", testNameGivenAway},
}

// A handle means the volume it was got for, never one that took its name later.
func testStaleHandle(t *testing.T, e *env) {
	old := e.create(t, "name")
	must(t, "remove", e.store.Remove(t.Context(), "name"))
	now := e.create(t, "name")
	if old.ID() == now.ID() {
		t.Fatalf("id %s was used twice", old.ID())
	}
	f := e.openFiles(t, now, vole.FSOptions{})
	f.write("f", "precious")
	ok(t, "close", f.Close())
	before := now.Info()
	for _, o := range volumeOps {
		wantErrOf(t, o.name+" by a stale handle", o.run(t.Context(), old), vole.ErrNotFound, o.op, "name")
	}
	// The live attachments of a volume that is gone are none.
	if list, err := old.Attachments(t.Context()); len(list) != 0 {
		t.Errorf("attachments by a stale handle: %v, %v", list, err)
	}
	got := must1(t, e, "name")
	equal(t, "id", got.ID(), before.ID)
	equal(t, "labels", len(got.Info().Labels), 0)
	e.openFiles(t, got, vole.FSOptions{}).holds("f", "precious")
}

func testStaleFS(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	must(t, "remove", e.store.Remove(t.Context(), "vol"))
	now := e.create(t, "vol")
	g := e.openFiles(t, now, vole.FSOptions{})
	g.fixture()
	before := g.tree()
	for _, o := range e.pathOps() {
		wantErr(t, o.name+" on the predecessor", o.run(f.ctx, f.FS, o.at), vole.ErrNotFound)
	}
	g.unchanged("use of the predecessor", before)
	if err := f.Close(); err != nil {
		wantErr(t, "close", err, vole.ErrNotFound)
	}
}

// Two volumes change names; handles and open files keep to their volumes.
func testRenameSwap(t *testing.T, e *env) {
	ctx := t.Context()
	a, b := e.create(t, "a"), e.create(t, "b")
	fa, fb := e.openFiles(t, a, vole.FSOptions{}), e.openFiles(t, b, vole.FSOptions{})
	fa.write("who", "first")
	fb.write("who", "second")
	for _, step := range [][2]string{{"a", "tmp"}, {"b", "a"}, {"tmp", "b"}} {
		v, err := e.store.Rename(ctx, step[0], step[1])
		must(t, "rename "+step[0], err)
		equal(t, "name", v.Name(), step[1])
	}
	equal(t, "id of b", must1(t, e, "b").ID(), a.ID())
	equal(t, "id of a", must1(t, e, "a").ID(), b.ID())
	fa.holds("who", "first")
	fb.holds("who", "second")
	fa.write("more", "into the first")
	ok(t, "close", fa.Close())
	e.openFiles(t, must1(t, e, "b"), vole.FSOptions{}).holds("more", "into the first")

	info, err := a.Refresh(ctx)
	must(t, "refresh", err)
	equal(t, "name after refresh", info.Name, "b")
	must(t, "remove by the handle of the first", a.Remove(ctx))
	fb.holds("who", "second")
	_, err = e.store.Get(ctx, "b")
	wantErr(t, "get b", err, vole.ErrNotFound)
}

func testNameGivenAway(t *testing.T, e *env) {
	ctx := t.Context()
	a := e.create(t, "a")
	_, err := e.store.Rename(ctx, "a", "b")
	must(t, "rename", err)
	next := e.create(t, "a")
	must(t, "relabel by the handle", a.Update(ctx, vole.Update{SetLabels: vole.Labels{"k": "v"}}))
	equal(t, "name in the handle", a.Name(), "b")
	info, err := next.Refresh(ctx)
	must(t, "refresh", err)
	equal(t, "labels of the new a", len(info.Labels), 0)
}
