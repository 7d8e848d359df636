package conformance

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var usedTests = []test{
	{"Place", testPlaceOfVolume},
	{"EachUse", testEachUseIsNoted},
	{"NoUse", testReadingIsNoUse},
	{"Elsewhere", testUsedElsewhere},
	{"RemoveUnused", testRemoveUnused},
	{"RemoveUnusedAttached", testRemoveUnusedAttached},
	{"RemoveUnusedRace", testRemoveUnusedRace},
}

// testPlaceOfVolume compares what volumes report of the storage that holds them.
func testPlaceOfVolume(t *testing.T, e *env) {
	v := e.create(t, "v")
	check := func(what string, i vole.Info) {
		t.Helper()
		equal(t, what+": backend", i.Backend, e.caps.Backend)
		equal(t, what+": has a path", i.HostPath != "", e.caps.HostPath)
		format, fstype, image := "", "", ""
		if i.Kind == vole.KindDisk {
			format, fstype, image = "raw", "ext4", i.HostPath
		}
		equal(t, what+": format", i.DiskFormat, format)
		equal(t, what+": file system", i.DiskFilesystem, fstype)
		equal(t, what+": image", i.ImagePath, image)
	}
	check("create", v.Info())
	info, err := v.Refresh(t.Context())
	must(t, "get", err)
	check("get", info)
	must(t, "update", v.Update(t.Context(), vole.Update{SetLabels: vole.Labels{"k": "v"}}))
	check("update", v.Info())
	info, err = v.Measure(t.Context())
	must(t, "measure", err)
	check("measure", info)
	page, err := e.store.List(t.Context(), vole.Filter{})
	must(t, "list", err)
	check("list", page.Volumes[0])
	a := attach(t, v, vole.AttachOptions{Holder: "h", ReadOnly: true})
	equal(t, "path of an attachment", a.Path(), info.HostPath)
	detach(t, a)
}

// lastUsed asks for the time of a volume's last use.
func lastUsed(t *testing.T, v *vole.Volume) time.Time {
	t.Helper()
	info, err := v.Refresh(t.Context())
	must(t, "get", err)
	return info.LastUsed
}

func testEachUseIsNoted(t *testing.T, e *env) {
	v := e.create(t, "v")
	last := lastUsed(t, v)
	if since := time.Since(last); since > time.Minute || since < -time.Minute {
		t.Errorf("last used %v ago, right after it was made", since)
	}
	var a *vole.Attachment
	uses := []struct {
		what string
		use  func()
	}{
		{"attach", func() { a = attach(t, v, vole.AttachOptions{Holder: "h", ReadOnly: true}) }},
		{"detach", func() { detach(t, a) }},
		{"labels", func() { must(t, "update", v.Update(t.Context(), vole.Update{SetLabels: vole.Labels{"a": "b"}})) }},
		{"write", func() {
			e.changeFiles(t, v, func(f *vole.FS) error { return f.WriteFile(t.Context(), "d/f", []byte("x"), 0o644) })
		}},
		{"mkdir", func() { e.changeFiles(t, v, func(f *vole.FS) error { return f.Mkdir(t.Context(), "e", 0o755) }) }},
		{"chmod", func() { e.changeFiles(t, v, func(f *vole.FS) error { return f.Chmod(t.Context(), "d/f", 0o600) }) }},
		{"chtimes", func() {
			e.changeFiles(t, v, func(f *vole.FS) error { return f.Chtimes(t.Context(), "d/f", time.Unix(1, 0), time.Unix(2, 0)) })
		}},
		{"handle", func() {
			e.changeFiles(t, v, func(f *vole.FS) error {
				h, err := f.Open(t.Context(), "d/f", vole.OpenOptions{Write: true})
				if err != nil {
					return err
				}
				_, err = h.WriteAt(t.Context(), []byte("yy"), 0)
				return errors.Join(err, h.Close())
			})
		}},
		{"rename", func() {
			e.changeFiles(t, v, func(f *vole.FS) error { return f.Rename(t.Context(), "d/f", "g", vole.RenameOptions{}) })
		}},
		{"remove", func() { e.changeFiles(t, v, func(f *vole.FS) error { return f.Remove(t.Context(), "g") }) }},
	}
	for _, u := range uses {
		u.use()
		now := lastUsed(t, v)
		if !now.After(last) {
			t.Errorf("%s: last used at %v, before that %v", u.what, now, last)
		}
		last = now
	}
	page, err := e.store.List(t.Context(), vole.Filter{})
	must(t, "list", err)
	equal(t, "last use in the list", page.Volumes[0].LastUsed, last)
}

// changeFiles changes files of a volume through an FS of their own.
func (e *env) changeFiles(t *testing.T, v *vole.Volume, change func(f *vole.FS) error) {
	t.Helper()
	f, err := v.FS(t.Context())
	must(t, "open", err)
	must(t, "change", errors.Join(change(f), f.Close()))
}

func testReadingIsNoUse(t *testing.T, e *env) {
	v := e.create(t, "v")
	e.changeFiles(t, v, func(f *vole.FS) error { return f.WriteFile(t.Context(), "f", []byte("x"), 0o644) })
	last := lastUsed(t, v)
	f, err := v.OpenFS(t.Context(), vole.FSOptions{ReadOnly: true})
	must(t, "open", err)
	_, err = f.ReadFile(t.Context(), "f")
	must(t, "read", errors.Join(err, f.Close()))
	_, err = v.Measure(t.Context())
	must(t, "measure", err)
	_, err = v.Attachments(t.Context())
	must(t, "attachments", err)
	equal(t, "last use", lastUsed(t, v), last)
}

// testUsedElsewhere uses a volume through one store and looks at it through another, while
// the first has its files open and after it is closed.
func testUsedElsewhere(t *testing.T, e *env) {
	v := e.create(t, "v")
	other := must1(t, &env{h: e.h, store: e.another(t), caps: e.caps}, "v")
	last := lastUsed(t, other)
	f, err := v.FS(t.Context())
	must(t, "open", err)
	must(t, "write", f.WriteFile(t.Context(), "f", []byte("x"), 0o644))
	now := lastUsed(t, other)
	if !now.After(last) {
		t.Errorf("last used at %v, before the change %v", now, last)
	}
	must(t, "close", errors.Join(f.Close(), e.store.Close()))
	equal(t, "last use after the end of the user", lastUsed(t, other), now)
}

func testRemoveUnused(t *testing.T, e *env) {
	v := e.create(t, "v")
	listed := lastUsed(t, v)
	e.changeFiles(t, v, func(f *vole.FS) error { return f.WriteFile(t.Context(), "f", []byte("x"), 0o644) })
	wantErr(t, "remove what was changed", v.RemoveUnused(t.Context(), listed), vole.ErrInUse)
	listed = lastUsed(t, v)
	detach(t, attach(t, v, vole.AttachOptions{Holder: "h", ReadOnly: true}))
	wantErr(t, "remove what was attached", v.RemoveUnused(t.Context(), listed), vole.ErrInUse)
	wantErr(t, "remove without a time", v.RemoveUnused(t.Context(), time.Time{}), vole.ErrUnsupported)
	e.changeFiles(t, v, func(f *vole.FS) error { _, err := f.ReadFile(t.Context(), "f"); return err })
	must(t, "remove what is unused", v.RemoveUnused(t.Context(), lastUsed(t, v)))
	wantErr(t, "remove again", v.RemoveUnused(t.Context(), time.Now()), vole.ErrNotFound)
	_, err := e.store.Get(t.Context(), "v")
	wantErr(t, "get", err, vole.ErrNotFound)
}

func testRemoveUnusedAttached(t *testing.T, e *env) {
	v := e.create(t, "v")
	a := attach(t, v, vole.AttachOptions{Holder: "the-holder", ReadOnly: true})
	wantErr(t, "remove", v.RemoveUnused(t.Context(), time.Now().Add(time.Hour)), vole.ErrInUse)
	detach(t, a)
	must(t, "remove", v.RemoveUnused(t.Context(), lastUsed(t, v)))
}

// testRemoveUnusedRace removes volumes while others begin to use them: one of the two fails.
func testRemoveUnusedRace(t *testing.T, e *env) {
	uses := map[string]func(v *vole.Volume) error{
		"write": func(v *vole.Volume) error {
			f, err := v.FS(t.Context())
			if err != nil {
				return err
			}
			return errors.Join(f.WriteFile(t.Context(), "f", []byte("x"), 0o644), f.Close())
		},
		"attach": func(v *vole.Volume) error {
			a, err := v.Attach(t.Context(), vole.AttachOptions{Holder: "h", ReadOnly: true})
			if err != nil {
				return err
			}
			return a.Detach(t.Context())
		},
	}
	const rounds = 6
	for what, use := range uses {
		for range rounds {
			v := e.create(t, what)
			listed := lastUsed(t, v)
			var used, removed error
			var wg sync.WaitGroup
			wg.Go(func() { used = use(v) })
			wg.Go(func() { removed = v.RemoveUnused(t.Context(), listed) })
			wg.Wait()
			switch {
			case used == nil && removed == nil:
				t.Fatalf("%s: the volume was used, and removed as unused", what)
			case used != nil && removed != nil:
				t.Logf("%s: neither succeeded: %v, %v", what, used, removed)
			}
			if removed != nil {
				wantErr(t, "remove", removed, vole.ErrInUse)
				must(t, "remove at last", e.store.Remove(t.Context(), v.ID()))
			}
		}
	}
}
