package conformance

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/volehq/vole"
)

var updateTests = []test{
	{"Rename", testRenameVolume},
	{"RenameTaken", testRenameTaken},
	{"RenameRace", testRenameRace},
	{"Labels", testUpdateLabels},
	{"Nothing", testUpdateNothing},
	{"AllOrNothing", testUpdateAtomic},
	{"Concurrent", testUpdateConcurrent},
	{"Quota", testUpdateQuota},
	{"WrongKind", testUpdateWrongKind},
}

func testRenameVolume(t *testing.T, e *env) {
	ctx := t.Context()
	v := e.create(t, "old")
	f := e.openFiles(t, v, vole.FSOptions{})
	f.write("f", "data")
	before := v.Info()
	got, err := e.store.Rename(ctx, "old", "new")
	must(t, "rename", err)
	info := got.Info()
	equal(t, "id", info.ID, before.ID)
	equal(t, "name", info.Name, "new")
	if !info.Created.Equal(before.Created) || info.Updated.Before(before.Updated) {
		t.Errorf("created and updated %v, %v, were %v, %v", info.Created, info.Updated, before.Created, before.Updated)
	}
	_, err = e.store.Get(ctx, "old")
	wantErr(t, "get by the old name", err, vole.ErrNotFound)
	f.holds("f", "data")
	_, err = e.store.Rename(ctx, v.ID(), "newer")
	must(t, "rename by id", err)
	equal(t, "id", must1(t, e, "newer").ID(), before.ID)
	_, err = e.store.Rename(ctx, "newer", "newer")
	ok(t, "rename to the name it has", err)
	e.create(t, "old")
}

func testRenameTaken(t *testing.T, e *env) {
	ctx := t.Context()
	a, b := e.create(t, "a"), e.create(t, "b")
	_, err := e.store.Rename(ctx, "a", "b")
	wantErrOf(t, "rename to a taken name", err, vole.ErrExists, "rename", "a")
	wantErrOf(t, "update to a taken name", a.Update(ctx, vole.Update{Name: "b"}), vole.ErrExists, "update", "a")
	equal(t, "id of a", must1(t, e, "a").ID(), a.ID())
	equal(t, "id of b", must1(t, e, "b").ID(), b.ID())
}

func testRenameRace(t *testing.T, e *env) {
	vols := make([]*vole.Volume, 8)
	for i := range vols {
		vols[i] = e.createSpec(t, fmt.Sprint("v", i), e.cheapest())
	}
	oneWins(t, race(len(vols), func(i int) error {
		return vols[i].Update(t.Context(), vole.Update{Name: "prize"})
	}), vole.ErrExists)
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes", len(all), len(vols))
}

func testUpdateLabels(t *testing.T, e *env) {
	ctx := t.Context()
	v := e.createSpec(t, "v", withLabel(vole.Spec{Kind: e.h.Spec.Kind, Capacity: e.h.Spec.Capacity, Labels: vole.Labels{"b": "2"}}, "a", "1"))
	must(t, "update", v.Update(ctx, vole.Update{
		SetLabels:    vole.Labels{"b": "two", "c": ""},
		RemoveLabels: []string{"a", "never-there"},
	}))
	want := vole.Labels{"b": "two", "c": ""}
	if got := v.Info().Labels; !maps.Equal(got, want) {
		t.Errorf("labels in the handle %v, want %v", got, want)
	}
	if got := must1(t, e, "v").Info().Labels; !maps.Equal(got, want) {
		t.Errorf("labels %v, want %v", got, want)
	}
	must(t, "remove labels", v.Update(ctx, vole.Update{RemoveLabels: []string{"b", "c"}}))
	equal(t, "labels left", len(must1(t, e, "v").Info().Labels), 0)
}

func testUpdateNothing(t *testing.T, e *env) {
	v := e.create(t, "v")
	before := v.Info()
	must(t, "update", v.Update(t.Context(), vole.Update{}))
	after := v.Info()
	after.Updated, after.LastUsed = before.Updated, before.LastUsed
	if d := sameInfo(before, after); d != "" {
		t.Errorf("an empty update changed %s", d)
	}
}

// What an update cannot do in full it does not do in part.
func testUpdateAtomic(t *testing.T, e *env) {
	ctx := t.Context()
	e.create(t, "taken")
	v := e.createSpec(t, "v", withLabel(vole.Spec{Kind: e.h.Spec.Kind, Capacity: e.h.Spec.Capacity, Labels: vole.Labels{}}, "k", "v"))
	before := v.Info()
	set := vole.Labels{"k": "other", "new": "1"}
	wantErr(t, "labels and a taken name", v.Update(ctx, vole.Update{Name: "taken", SetLabels: set}), vole.ErrExists)
	many := vole.Labels{}
	for i := range 64 {
		many[fmt.Sprint("m", i)] = ""
	}
	wantErr(t, "65 labels in two steps", v.Update(ctx, vole.Update{Name: "w", SetLabels: many}), vole.ErrInvalid)
	if d := sameInfo(before, must1(t, e, "v").Info()); d != "" {
		t.Errorf("a failed update changed %s", d)
	}
	must(t, "64 labels", v.Update(ctx, vole.Update{RemoveLabels: []string{"k"}, SetLabels: many}))
	equal(t, "labels", len(v.Info().Labels), 64)
}

func testUpdateConcurrent(t *testing.T, e *env) {
	e.create(t, "v")
	errs := race(8, func(i int) error {
		v, err := e.store.Get(t.Context(), "v")
		if err != nil {
			return err
		}
		for j := range 5 {
			if err := v.Update(t.Context(), vole.Update{SetLabels: vole.Labels{fmt.Sprintf("k%d-%d", i, j): "x"}}); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "update", errors.Join(errs...))
	equal(t, "labels", len(must1(t, e, "v").Info().Labels), 40)
}

func testUpdateQuota(t *testing.T, e *env) {
	need(t, e.caps.Quota && e.caps.Dir, "quotas")
	ctx := t.Context()
	v := e.createSpec(t, "v", vole.Spec{})
	f := e.openFiles(t, v, vole.FSOptions{})
	f.write("f", pattern(1, 5000))

	wantErrOf(t, "quota below what is held", v.Update(ctx, vole.Update{Quota: 4999, Name: "w"}), vole.ErrQuota, "update", "v")
	equal(t, "name after the refused update", must1(t, e, "v").Name(), "v")
	equal(t, "quota after the refused update", must1(t, e, "v").Info().Quota, 0)

	must(t, "quota of what is held", v.Update(ctx, vole.Update{Quota: 5000}))
	equal(t, "quota", v.Info().Quota, 5000)
	// The files were opened before there was a quota; it holds for them all the same.
	wantErr(t, "write beyond the new quota", f.WriteFile(ctx, "g", []byte("x"), 0o644), vole.ErrQuota)

	must(t, "larger quota", v.Update(ctx, vole.Update{Quota: 5001}))
	f.write("g", "x")
	wantErr(t, "write beyond the larger quota", f.WriteFile(ctx, "h", []byte("x"), 0o644), vole.ErrQuota)
	must(t, "other change", v.Update(ctx, vole.Update{SetLabels: vole.Labels{"a": "b"}}))
	equal(t, "quota after another change", v.Info().Quota, 5001)

	must(t, "clear the quota", v.Update(ctx, vole.Update{ClearQuota: true}))
	equal(t, "quota", v.Info().Quota, 0)
	f.write("h", pattern(2, 5000))
	f.used("end", 10001)
}

func testUpdateWrongKind(t *testing.T, e *env) {
	ctx := t.Context()
	v := e.create(t, "v")
	before := v.Info()
	if e.h.Spec.Kind == vole.KindDisk {
		wantErr(t, "quota on a disk", v.Update(ctx, vole.Update{Quota: vole.GiB}), vole.ErrInvalid)
		wantErr(t, "smaller capacity", v.Update(ctx, vole.Update{Capacity: before.Capacity - vole.MiB}), vole.ErrInvalid)
		must(t, "larger capacity", v.Update(ctx, vole.Update{Capacity: before.Capacity * 2}))
		equal(t, "capacity", v.Info().Capacity, before.Capacity*2)
		return
	}
	wantErr(t, "capacity on a dir", v.Update(ctx, vole.Update{Capacity: vole.GiB, Name: "w"}), vole.ErrInvalid)
	if d := sameInfo(before, must1(t, e, "v").Info()); d != "" {
		t.Errorf("a failed update changed %s", d)
	}
}
