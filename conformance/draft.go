package conformance

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/driver"
)

var draftTests = []test{
	{"Build", testBuild},
	{"BuildFails", testBuildFails},
	{"NotClaimed", testDraftsNotClaimed},
	{"EnsureWaits", testEnsureWaits},
	{"Changed", testDraftChanged},
	{"Paths", testDraftPaths},
}

var errFill = errors.New("this is why it was not filled")

// unseen checks that no listing or lookup returns the volume "v", while its name is taken.
func (e *env) unseen(t *testing.T, s *vole.Store) {
	t.Helper()
	ctx := t.Context()
	_, err := s.Get(ctx, "v")
	wantErr(t, "get a draft", err, vole.ErrNotFound)
	wantErr(t, "remove a draft by name", s.Remove(ctx, "v"), vole.ErrNotFound)
	_, err = s.Create(ctx, "v", e.h.Spec)
	wantErr(t, "create where a draft is", err, vole.ErrExists)
	all, err := list(ctx, s, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes", len(all), 0)
	e.check(t, s)
}

func testBuild(t *testing.T, e *env) {
	need(t, e.caps.Drafts, "drafts")
	ctx := t.Context()
	v, err := e.store.Build(ctx, "v", e.h.Spec, func(v *vole.Volume) error {
		equal(t, "name", v.Name(), "v")
		e.unseen(t, e.store)
		if e.h.Another != nil {
			e.unseen(t, e.another(t))
		}
		f, err := v.FS(ctx)
		if err != nil {
			return err
		}
		err = f.WriteFile(ctx, "d/f", []byte("seven b"), 0o644)
		e.unseen(t, e.store)
		return errors.Join(err, f.Close())
	})
	must(t, "build", err)
	equal(t, "state", v.Info().State, driver.StateReady)
	got := must1(t, e, "v")
	equal(t, "id", got.ID(), v.ID())
	equal(t, "state", got.Info().State, driver.StateReady)
	info, err := got.Refresh(ctx)
	must(t, "refresh", err)
	equal(t, "used", info.Used, 7)
	f, err := got.FS(ctx)
	must(t, "open", err)
	b, err := f.ReadFile(ctx, "d/f")
	must(t, "read", errors.Join(err, f.Close()))
	equal(t, "content", string(b), "seven b")
	must(t, "publish again", v.Update(ctx, vole.Update{Publish: true}))
}

func testBuildFails(t *testing.T, e *env) {
	need(t, e.caps.Drafts, "drafts")
	ctx := t.Context()
	_, err := e.store.Build(ctx, "v", e.h.Spec, func(v *vole.Volume) error {
		f, err := v.FS(ctx)
		must(t, "open", err)
		must(t, "write", errors.Join(f.WriteFile(ctx, "f", []byte("x"), 0o644), f.Close()))
		return errFill
	})
	wantErr(t, "build", err, errFill)
	_, err = e.store.Get(ctx, "v")
	wantErr(t, "get", err, vole.ErrNotFound)
	// An end of the context undoes it too.
	short, cancel := context.WithCancel(ctx)
	_, err = e.store.Build(short, "v", e.h.Spec, func(*vole.Volume) error {
		cancel()
		return short.Err()
	})
	wantErr(t, "build, canceled", err, context.Canceled)
	e.create(t, "v")
	called := false
	_, err = e.store.Build(ctx, "v", e.h.Spec, func(*vole.Volume) error { called = true; return nil })
	wantErr(t, "build where a volume is", err, vole.ErrExists)
	equal(t, "filled in spite of that", called, false)
}

func testDraftsNotClaimed(t *testing.T, e *env) {
	if e.caps.Drafts {
		t.Skip("the backend claims drafts")
	}
	spec := e.h.Spec
	spec.Draft = true
	e.refusedCreate(t, spec)
}

func testEnsureWaits(t *testing.T, e *env) {
	need(t, e.caps.Drafts, "drafts")
	ctx := t.Context()
	type result struct {
		v       *vole.Volume
		created bool
		err     error
	}
	ensured := make(chan result, 1)
	v, err := e.store.Build(ctx, "v", e.h.Spec, func(*vole.Volume) error {
		short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		_, _, err := e.store.Ensure(short, "v", e.h.Spec)
		wantErr(t, "ensure, out of time", err, context.DeadlineExceeded)
		go func() {
			v, created, err := e.store.Ensure(ctx, "v", e.h.Spec)
			ensured <- result{v, created, err}
		}()
		time.Sleep(30 * time.Millisecond)
		return nil
	})
	must(t, "build", err)
	r := <-ensured
	must(t, "ensure", r.err)
	equal(t, "created", r.created, false)
	equal(t, "id", r.v.ID(), v.ID())
}

// A draft is changed by its id as every volume is.
func testDraftChanged(t *testing.T, e *env) {
	need(t, e.caps.Drafts, "drafts")
	ctx := t.Context()
	v, err := e.store.Build(ctx, "v", e.h.Spec, func(v *vole.Volume) error {
		must(t, "labels", v.Update(ctx, vole.Update{SetLabels: vole.Labels{"k": "v"}}))
		equal(t, "state", v.Info().State, driver.StateCreating)
		a, err := v.Attach(ctx, vole.AttachOptions{Holder: "filler"})
		if err != nil {
			return err
		}
		return a.Detach(ctx)
	})
	must(t, "build", err)
	equal(t, "label", v.Info().Labels["k"], "v")
	must(t, "remove", v.Remove(ctx))
}

// A write to a draft goes where its path leads at that moment, even if directories were moved
// or replaced since the last write, also by another FS.
func testDraftPaths(t *testing.T, e *env) {
	need(t, e.caps.Drafts && e.caps.Links, "drafts and links")
	ctx := t.Context()
	var f *files
	v, err := e.store.Build(ctx, "v", e.h.Spec, func(v *vole.Volume) error {
		f = e.openFiles(t, v, vole.FSOptions{Batch: true})
		other := f.beside(vole.FSOptions{Batch: true})
		f.write("a/b/1", "one")
		must(t, "rename", other.Rename(ctx, "a", "moved", vole.RenameOptions{}))
		f.write("a/b/2", "two")
		must(t, "remove", other.RemoveAll(ctx, "a"))
		f.write("a/b/3", "three")
		f.symlink("moved", "link")
		f.write("link/b/4", "four")
		f.remove("link")
		f.symlink("a", "link")
		f.write("link/b/5", "five")
		f.write("link", "no longer a link")
		wantErr(t, "write beneath a file", f.WriteFile(ctx, "link/b/6", nil, 0o644), vole.ErrNotDir)
		f.write("a/b/3", "three again")
		f.symlink("a/b/3", "beside")
		f.write("beside", "in place of the link")
		wantErr(t, "write over a directory", f.WriteFile(ctx, "a/b", nil, 0o644), vole.ErrIsDir)
		_, err := f.WriteFrom(ctx, "a/b/3", strings.NewReader("x"), vole.WriteOptions{Exclusive: true})
		wantErr(t, "exclusive write over a file", err, vole.ErrExists)
		wantErr(t, "write out of the volume", f.WriteFile(ctx, "a/../../out", nil, 0o644), vole.ErrPathEscape)
		return nil
	})
	must(t, "build", err)
	f.write("a/b/7", "after it was published")
	must(t, "sync", f.Sync(ctx))
	g := e.openFiles(t, v, vole.FSOptions{})
	for p, want := range map[string]string{
		"moved/b/1": "one", "a/b/3": "three again", "moved/b/4": "four", "a/b/5": "five", "link": "no longer a link",
		"beside": "in place of the link", "a/b/7": "after it was published",
	} {
		g.holds(p, want)
	}
	g.hasNames("moved/b", "1", "4")
	g.hasNames("a/b", "3", "5", "7")
	g.used("in all", int64(len("onethree againfourfiveno longer a linkin place of the linkafter it was published")))
}
