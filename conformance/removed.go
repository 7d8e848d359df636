package conformance

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/volehq/vole"
)

var removedTests = []test{
	{"OpenFS", testRemovedFS},
	{"OpenFiles", testRemovedFiles},
	{"OpenDirs", testRemovedDirs},
	{"ByAnotherStore", testRemovedByAnother},
	{"WhileUsed", testRemovedWhileUsed},
}

// gone checks that every call on f says that its volume is.
func (f *files) gone() {
	f.t.Helper()
	for _, o := range f.e.pathOps() {
		for _, p := range []string{o.at, "nosuch/x"} {
			wantErrOf(f.t, o.name+" "+p, o.run(f.ctx, f.FS, p), vole.ErrNotFound, o.op, "vol")
		}
	}
	_, err := f.Statfs(f.ctx)
	wantErr(f.t, "Statfs", err, vole.ErrNotFound)
	wantErr(f.t, "Sync", f.Sync(f.ctx), vole.ErrNotFound)
}

// reusable checks that the name of a removed volume leads to an empty one.
func (e *env) reusable(t *testing.T) {
	t.Helper()
	e.check(t, e.store)
	g := e.openFiles(t, e.create(t, "vol"), vole.FSOptions{})
	g.hasNames(".", rootNames(e)...)
	g.used("a new volume", 0)
	g.write("f", "new")
	g.holds("f", "new")
}

func testRemovedFS(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	batch := f.beside(vole.FSOptions{Batch: true})
	if err := e.store.Remove(f.ctx, "vol"); err != nil {
		t.Fatalf("remove of a volume with open files: %v", err)
	}
	f.gone()
	batch.gone()
	e.reusable(t)
	f.gone()
	wantAny(t, "close", f.Close(), nil, vole.ErrNotFound)
	ok(t, "close again", f.Close())
}

// Open directories end, or say that the volume is gone: not that some file is missing.
func testRemovedDirs(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	var open []*vole.Dir
	for _, p := range []string{".", "full"} {
		for _, opts := range []vole.DirOptions{{}, {NamesOnly: true}, {Sorted: true}} {
			d, err := f.OpenDir(f.ctx, p, opts)
			must(t, "open "+p, err)
			open = append(open, d)
		}
	}
	must(t, "remove", e.store.Remove(f.ctx, "vol"))
	for _, d := range open {
		for {
			_, err := d.Read(f.ctx, 1)
			if err == io.EOF {
				break
			}
			if err != nil {
				wantErr(t, "list in a removed volume", err, vole.ErrNotFound)
				break
			}
		}
		wantAny(t, "close", d.Close(), nil, vole.ErrNotFound)
	}
}

// Handles of files go on or say that the volume is gone; what they write is nowhere
// to be found.
func testRemovedFiles(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	handles := map[string]*vole.File{}
	for name, opts := range map[string]vole.OpenOptions{"reader": {}, "writer": {Write: true}} {
		handles[name] = f.open("file", opts)
	}
	d, err := f.OpenDir(f.ctx, "full", vole.DirOptions{})
	must(t, "open dir", err)
	must(t, "remove", f.vol.Remove(f.ctx))
	use := func() {
		t.Helper()
		for name, h := range handles {
			for _, o := range handleOps {
				wants := []error{nil, vole.ErrNotFound}
				if o.changes && name == "reader" {
					wants = append(wants, vole.ErrReadOnly)
				}
				if err := o.run(f.ctx, h); err != nil && o.name != "NextData" {
					wantAny(t, o.name+" by the "+name, err, wants...)
				}
			}
		}
	}
	use()
	e.reusable(t)
	use()
	for name, h := range handles {
		wantAny(t, "close of the "+name, h.Close(), nil, vole.ErrNotFound)
	}
	wantAny(t, "close of the directory", d.Close(), nil, vole.ErrNotFound)
	g := e.openFiles(t, must1(t, e, "vol"), vole.FSOptions{})
	g.hasNames(".", rootNames(e, "f")...)
	g.used("the successor", 3)
}

func testRemovedByAnother(t *testing.T, e *env) {
	other := e.another(t)
	f := e.files(t)
	f.fixture()
	must(t, "remove by another store", other.Remove(f.ctx, "vol"))
	f.gone()
	e.reusable(t)
	f.gone()
	wantAny(t, "close", f.Close(), nil, vole.ErrNotFound)
}

// Writers are under way when the volume goes. They succeed or find it gone, and
// nothing they did is left.
func testRemovedWhileUsed(t *testing.T, e *env) {
	for round := range 5 {
		v := e.create(t, "vol")
		f := e.openFiles(t, v, vole.FSOptions{})
		started := make(chan struct{}, 5)
		errs := race(6, func(i int) error {
			if i == 5 {
				for range 5 {
					<-started
				}
				return v.Remove(f.ctx)
			}
			for j := 0; ; j++ {
				err := useOnce(f, i, j)
				if j == 0 {
					started <- struct{}{}
				}
				if errors.Is(err, vole.ErrNotFound) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
			}
		})
		must(t, "all", errors.Join(errs...))
		f.fileGone()
		wantAny(t, "close", f.Close(), nil, vole.ErrNotFound)
	}
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes", len(all), 0)
}

func (f *files) fileGone() {
	f.t.Helper()
	wantErr(f.t, "write", f.WriteFile(f.ctx, "late", nil, 0o644), vole.ErrNotFound)
	_, err := f.ReadDir(f.ctx, ".")
	wantErr(f.t, "list", err, vole.ErrNotFound)
}

// useOnce does a few things as goroutine i in its round j. Files end as the volume
// does, in whatever they were about.
func useOnce(f *files, i, j int) error {
	p := fmt.Sprintf("d%d/f%d", i, j%10)
	if err := f.WriteFile(f.ctx, p, []byte(pattern(j, 2000)), 0o644); err != nil {
		return err
	}
	if err := f.Copy(f.ctx, p, p+"copy", vole.CopyOptions{}); err != nil {
		return err
	}
	h, err := f.Open(f.ctx, p, vole.OpenOptions{Write: true})
	if err != nil {
		return err
	}
	_, err = h.WriteAt(f.ctx, []byte("x"), 3000)
	if err2 := h.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return err
	}
	return f.RemoveAll(f.ctx, p+"copy")
}
