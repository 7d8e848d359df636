package conformance

import (
	"fmt"
	"testing"

	"github.com/volehq/vole"
)

var cloneTests = []test{
	{"NotClaimed", testClonesNotClaimed},
	{"Whole", testClone},
	{"Refused", testCloneRefused},
	{"Draft", testCloneDraft},
	{"WhileWritten", testCloneWhileWritten},
}

func testClonesNotClaimed(t *testing.T, e *env) {
	if e.caps.Clones {
		t.Skip("the backend claims clones")
	}
	v := e.create(t, "v")
	_, err := v.Clone(t.Context(), "w", e.h.Spec)
	wantErr(t, "clone", err, vole.ErrUnsupported)
	_, err = e.store.Get(t.Context(), "w")
	wantErr(t, "get what was refused", err, vole.ErrNotFound)
}

// clone clones f's volume and opens the files.
func (f *files) clone(name string, spec vole.Spec) *files {
	f.t.Helper()
	v, err := f.vol.Clone(f.ctx, name, spec)
	must(f.t, "clone", err)
	return f.e.openFiles(f.t, v, vole.FSOptions{})
}

// A clone is equal to the original, and each goes its own way after.
func testClone(t *testing.T, e *env) {
	need(t, e.caps.Clones, "clones")
	f := e.files(t)
	f.garden("g")
	f.write("large", pattern(1, 9<<20))
	if e.caps.Links {
		f.link("large", "hard")
	}
	h := f.open("handle", vole.OpenOptions{Create: true})
	_, err := h.WriteAt(f.ctx, []byte("not synced"), 100)
	must(t, "write", err)
	before := f.tree()
	c := f.clone("clone", e.h.Spec)
	if d := before.Diff(c.tree()); d != "" {
		t.Errorf("the clone differs:%s", d)
	}
	info, err := f.vol.Refresh(f.ctx)
	must(t, "refresh", err)
	c.used("clone", int64(info.Used))
	if c.vol.ID() == f.vol.ID() || c.vol.Name() != "clone" {
		t.Errorf("the clone is %s, named %s", c.vol.ID(), c.vol.Name())
	}
	c.write("only-here", "x")
	must(t, "remove", c.RemoveAll(c.ctx, "g"))
	f.unchanged("changes of the clone", before)
	f.write("large", "small")
	must(t, "remove the original", f.vol.Remove(f.ctx))
	c.holds("large", pattern(1, 9<<20))
	again := c.clone("again", e.h.Spec)
	again.holds("only-here", "x")
}

func testCloneRefused(t *testing.T, e *env) {
	need(t, e.caps.Clones && e.caps.Quota, "clones and quotas")
	f := e.files(t)
	f.write("f", pattern(1, 1000))
	_, err := f.vol.Clone(f.ctx, "vol", vole.Spec{})
	wantErr(t, "onto a name that is taken", err, vole.ErrExists)
	_, err = f.vol.Clone(f.ctx, "small", vole.Spec{Quota: 999})
	wantErr(t, "into a smaller quota", err, vole.ErrQuota)
	_, err = e.store.Get(f.ctx, "small")
	wantErr(t, "get what was refused", err, vole.ErrNotFound)
	for _, id := range []string{"nonsense", "01900000-0000-7000-8000-000000000000"} {
		_, err = e.store.Create(f.ctx, "x", vole.Spec{From: id})
		wantErr(t, "of a volume that is not there", err, vole.ErrNotFound)
	}
	c := f.clone("c", vole.Spec{Quota: 1000, Labels: vole.Labels{"k": "v"}})
	equal(t, "quota", c.vol.Info().Quota, 1000)
	equal(t, "label", c.vol.Info().Labels["k"], "v")
	c.overWrite("g", 1)
	must(t, "remove", f.vol.Remove(f.ctx))
	_, err = f.vol.Clone(f.ctx, "late", vole.Spec{})
	wantErr(t, "of a removed volume", err, vole.ErrNotFound)
}

func testCloneDraft(t *testing.T, e *env) {
	need(t, e.caps.Clones && e.caps.Drafts, "clones and drafts")
	f := e.files(t)
	f.write("f", "original")
	v, err := e.store.Build(f.ctx, "built", vole.Spec{From: f.vol.ID()}, func(v *vole.Volume) error {
		fsys, err := v.FS(f.ctx)
		if err != nil {
			return err
		}
		defer fsys.Close()
		return fsys.WriteFile(f.ctx, "more", []byte("added"), 0o644)
	})
	must(t, "build", err)
	g := e.openFiles(t, v, vole.FSOptions{})
	g.holds("f", "original")
	g.holds("more", "added")
}

// A clone is the volume of one instant.
func testCloneWhileWritten(t *testing.T, e *env) {
	need(t, e.caps.Clones, "clones")
	f := e.files(t)
	f.write("d0/f", "x")
	done := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			// The only file is in one directory or the other.
			if err := f.Rename(f.ctx, fmt.Sprintf("d%d", i%2), fmt.Sprintf("d%d", (i+1)%2), vole.RenameOptions{}); err != nil {
				failed <- err
				return
			}
		}
	}()
	for i := range 8 {
		c := f.clone(fmt.Sprint("c", i), e.h.Spec)
		if got := c.names("."); len(got) != 1 {
			t.Errorf("a clone has %q", got)
		}
		c.used("clone", 1)
	}
	close(done)
	must(t, "rename", <-failed)
}
