package conformance

import (
	"errors"
	"testing"

	"github.com/volehq/vole"
)

var closedTests = []test{
	{"FS", testClosedFS},
	{"File", testClosedFile},
	{"Dir", testClosedDir},
	{"Store", testClosedStore},
	{"StoreWhileUsed", testCloseWhileUsed},
}

func testClosedFS(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	ok(t, "close", f.Close())
	for _, o := range e.pathOps() {
		wantErrOf(t, o.name, o.run(f.ctx, f.FS, o.at), vole.ErrClosed, o.op, "vol")
	}
	_, err := f.Statfs(f.ctx)
	wantErr(t, "Statfs", err, vole.ErrClosed)
	wantErr(t, "Sync", f.Sync(f.ctx), vole.ErrClosed)
	ok(t, "close again", f.Close())
	ok(t, "close from many goroutines", errors.Join(race(4, func(int) error { return f.Close() })...))
	e.openFiles(t, f.vol, vole.FSOptions{}).unchanged("use after close", before)
}

func testClosedFile(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	for _, opts := range []vole.OpenOptions{{}, {Write: true}, {Append: true}} {
		h := f.open("file", opts)
		ok(t, "close", h.Close())
		for _, o := range handleOps {
			wantErr(t, o.name, o.run(f.ctx, h), vole.ErrClosed)
		}
		ok(t, "close again", h.Close())
		ok(t, "close from many goroutines", errors.Join(race(4, func(int) error { return h.Close() })...))
	}
	f.unchanged("use after close", before)
	// A handle that is closed twice does not close another's.
	a := f.open("file", vole.OpenOptions{})
	ok(t, "close", a.Close())
	b := f.open("file", vole.OpenOptions{})
	ok(t, "close again", a.Close())
	handleHolds(t, f, b, "content")
}

func testClosedDir(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	for _, opts := range []vole.DirOptions{{}, {Sorted: true}, {NamesOnly: true}} {
		d, err := f.OpenDir(f.ctx, "full", opts)
		must(t, "open dir", err)
		ok(t, "close", d.Close())
		_, err = d.Read(f.ctx, 1)
		wantErr(t, "read", err, vole.ErrClosed)
		ok(t, "close again", d.Close())
	}
}

func testClosedStore(t *testing.T, e *env) {
	f := e.files(t)
	f.fixture()
	before := f.tree()
	h, err := f.Open(f.ctx, "file", vole.OpenOptions{Write: true})
	must(t, "open", err)
	a := attach(t, e.create(t, "attached"), vole.AttachOptions{Holder: "h"})
	must(t, "close", e.store.Close())
	ok(t, "close again", e.store.Close())
	for _, o := range storeOps {
		wantErr(t, o.name, o.run(f.ctx, e.store, e.h.Spec), vole.ErrClosed)
	}
	for _, o := range volumeOps {
		wantErrOf(t, o.name, o.run(f.ctx, f.vol), vole.ErrClosed, o.op, "vol")
	}
	for _, o := range e.pathOps() {
		wantErr(t, o.name, o.run(f.ctx, f.FS, o.at), vole.ErrClosed)
	}
	ok(t, "close the FS", f.Close())
	ok(t, "detach", a.Detach(f.ctx))
	if err := h.Close(); err != nil {
		wantErr(t, "close a file", err, vole.ErrClosed)
	}
	equal(t, "caps", e.store.Caps(), e.caps)
	if e.h.Another == nil {
		return
	}
	v, err := e.another(t).Get(f.ctx, "vol")
	must(t, "get", err)
	e.openFiles(t, v, vole.FSOptions{}).unchanged("use after close", before)
}

// Close waits for what is under way, or ends it; nothing is half done after it.
func testCloseWhileUsed(t *testing.T, e *env) {
	if e.h.Another == nil {
		t.Skip("the backend cannot be opened twice")
	}
	f := e.files(t)
	started := make(chan struct{}, 6)
	errs := race(7, func(i int) error {
		if i == 6 {
			for range 6 {
				<-started
			}
			return e.store.Close()
		}
		for j := 0; ; j++ {
			err := f.WriteFile(f.ctx, "d/f", []byte(uniform(j)), 0o644)
			if j == 0 {
				started <- struct{}{}
			}
			if errors.Is(err, vole.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	must(t, "all", errors.Join(errs...))
	v, err := e.another(t).Get(f.ctx, "vol")
	must(t, "get", err)
	g := e.openFiles(t, v, vole.FSOptions{})
	data := g.read("d/f")
	if !isUniform(data) {
		t.Errorf("%d bytes: not what was ever written", len(data))
	}
	g.hasNames("d", "f")
	g.used("after close", int64(len(data)))
}
