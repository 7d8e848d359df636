package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/volehq/vole"
)

var lifecycleTests = []test{
	{"CreateGet", testCreateGet},
	{"CreateExists", testCreateExists},
	{"GetMissing", testGetMissing},
	{"NamesAreCaseSensitive", testNameCase},
	{"IDAsName", testIDAsName},
	{"Remove", testRemoveVolume},
	{"Ensure", testEnsure},
	{"EnsureRace", testEnsureRace},
	{"CreateRace", testCreateRace},
	{"RemoveRace", testRemoveRace},
	{"NameHammer", testNameHammer},
	{"TwoStores", testTwoStores},
	{"Persists", testPersists},
}

// sameInfo tells how two descriptions of one volume differ, "" when they do not.
func sameInfo(a, b vole.Info) string {
	at, bt := a.Created, b.Created
	au, bu := a.Updated, b.Updated
	if !at.Equal(bt) || !au.Equal(bu) {
		return fmt.Sprintf("times %v, %v and %v, %v", at, au, bt, bu)
	}
	if !maps.Equal(a.Labels, b.Labels) {
		return fmt.Sprintf("labels %v and %v", a.Labels, b.Labels)
	}
	a.Labels, b.Labels, a.Created, a.Updated = nil, nil, bt, bu
	if as, bs := fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b); as != bs {
		return as + " and " + bs
	}
	return ""
}

func testCreateGet(t *testing.T, e *env) {
	ctx := t.Context()
	spec := e.h.Spec
	spec.Labels = vole.Labels{"team": "ml", "x/y.z_-": "ünïcode = , value"}
	if e.caps.Quota && spec.Kind == vole.KindDir {
		spec.Quota = 3*vole.GiB + 1
	}
	before := time.Now()
	v := e.createSpec(t, "pip-cache", spec)
	after := time.Now()

	info := v.Info()
	if id, err := uuid.Parse(info.ID); err != nil || id.Version() != 7 || id.String() != info.ID {
		t.Errorf("id %q is not a UUIDv7 in its usual form (%v)", info.ID, err)
	}
	equal(t, "name", info.Name, "pip-cache")
	equal(t, "kind", info.Kind, spec.Kind)
	equal(t, "state", string(info.State), "ready")
	equal(t, "quota", info.Quota, spec.Quota)
	equal(t, "capacity", info.Capacity, spec.Capacity)
	equal(t, "used", info.Used, 0)
	equal(t, "stale", info.UsedStale, false)
	if !maps.Equal(info.Labels, spec.Labels) {
		t.Errorf("labels %v, want %v", info.Labels, spec.Labels)
	}
	// A second of play: a backend may keep times in coarse steps.
	if info.Created.Before(before.Add(-time.Second)) || info.Created.After(after.Add(time.Second)) {
		t.Errorf("created %v, want between %v and %v", info.Created, before, after)
	}
	if info.Created.Location() != time.UTC || info.Updated.Location() != time.UTC {
		t.Errorf("times %v and %v are not UTC", info.Created, info.Updated)
	}
	for _, ref := range []string{"pip-cache", info.ID} {
		got, err := e.store.Get(ctx, ref)
		must(t, "get "+ref, err)
		if d := sameInfo(info, got.Info()); d != "" {
			t.Errorf("get %s differs from create: %s", ref, d)
		}
	}
	f := e.openFiles(t, v, vole.FSOptions{})
	// A disk volume holds lost+found, as every ext4 does.
	if list := f.names("."); len(list) > 1 || len(list) == 1 && list[0] != "lost+found" {
		t.Errorf("a new volume lists %q", list)
	}
}

func testCreateExists(t *testing.T, e *env) {
	first := e.create(t, "name")
	spec := e.h.Spec
	spec.Labels = vole.Labels{"other": "yes"}
	_, err := e.store.Create(t.Context(), "name", spec)
	wantErrOf(t, "create again", err, vole.ErrExists, "create", "name")
	got, err := e.store.Get(t.Context(), "name")
	must(t, "get", err)
	if d := sameInfo(first.Info(), got.Info()); d != "" {
		t.Errorf("a failed create changed the volume: %s", d)
	}
}

func testGetMissing(t *testing.T, e *env) {
	ctx := t.Context()
	e.create(t, "there")
	id := uuid.Must(uuid.NewV7()).String()
	for _, ref := range []string{"nosuch", "there2", id} {
		_, err := e.store.Get(ctx, ref)
		wantErrOf(t, "get "+ref, err, vole.ErrNotFound, "get", ref)
		err = e.store.Remove(ctx, ref)
		wantErrOf(t, "remove "+ref, err, vole.ErrNotFound, "remove", ref)
		_, err = e.store.Rename(ctx, ref, "new")
		wantErr(t, "rename "+ref, err, vole.ErrNotFound)
	}
}

func testNameCase(t *testing.T, e *env) {
	lower, upper := e.create(t, "name"), e.create(t, "NAME")
	if lower.ID() == upper.ID() {
		t.Fatal("name and NAME are one volume")
	}
	for v, data := range map[*vole.Volume]string{lower: "lower", upper: "upper"} {
		f := e.openFiles(t, v, vole.FSOptions{})
		f.write("f", data)
		ok(t, "close", f.Close())
	}
	got, err := e.store.Get(t.Context(), "NAME")
	must(t, "get", err)
	e.openFiles(t, got, vole.FSOptions{}).holds("f", "upper")
}

// A name may look like an id, but must not equal the id of a volume: a lookup would be
// ambiguous.
func testIDAsName(t *testing.T, e *env) {
	ctx := t.Context()
	a, b := e.create(t, "a"), e.create(t, "b")
	_, err := e.store.Create(ctx, a.ID(), vole.Spec{Kind: e.h.Spec.Kind, Capacity: e.h.Spec.Capacity})
	wantErr(t, "create with another's id as name", err, vole.ErrExists)
	wantErr(t, "rename to another's id", b.Update(ctx, vole.Update{Name: a.ID()}), vole.ErrExists)
	wantErr(t, "rename to the own id", b.Update(ctx, vole.Update{Name: b.ID()}), vole.ErrExists)

	const nobody = "01890a5d-ac96-774b-bcce-b302099a8057"
	c := e.create(t, nobody)
	got, err := e.store.Get(ctx, nobody)
	must(t, "get by a name that looks like an id", err)
	equal(t, "id found", got.ID(), c.ID())
	must(t, "remove by a name that looks like an id", e.store.Remove(ctx, nobody))
	wantErr(t, "remove again", e.store.Remove(ctx, nobody), vole.ErrNotFound)
}

func testRemoveVolume(t *testing.T, e *env) {
	ctx := t.Context()
	byName, byID, byHandle := e.create(t, "one"), e.create(t, "two"), e.create(t, "three")
	e.create(t, "stays")
	e.openFiles(t, byName, vole.FSOptions{}).write("deep/down/f", pattern(1, 10000))
	ok(t, "remove by name", e.store.Remove(ctx, "one"))
	ok(t, "remove by id", e.store.Remove(ctx, byID.ID()))
	ok(t, "remove by handle", byHandle.Remove(ctx))
	for _, v := range []*vole.Volume{byName, byID, byHandle} {
		for _, ref := range []string{v.Name(), v.ID()} {
			_, err := e.store.Get(ctx, ref)
			wantErr(t, "get "+ref+" after remove", err, vole.ErrNotFound)
		}
		wantErrOf(t, "remove twice", v.Remove(ctx), vole.ErrNotFound, "remove", v.Name())
	}
	all, err := list(ctx, e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "what is left", strings.Join(names(all), " "), "stays")
}

func testEnsure(t *testing.T, e *env) {
	ctx := t.Context()
	spec := e.h.Spec
	spec.Labels = vole.Labels{"a": "1", "b": "2"}
	if e.caps.Quota && spec.Kind == vole.KindDir {
		spec.Quota = vole.GiB
	}
	v, created, err := e.store.Ensure(ctx, "v", spec)
	must(t, "ensure", err)
	equal(t, "created", created, true)

	fits := []vole.Spec{spec, e.h.Spec, {Kind: e.h.Spec.Kind, Capacity: e.h.Spec.Capacity, Labels: vole.Labels{"b": "2"}}}
	for _, s := range fits {
		got, created, err := e.store.Ensure(ctx, "v", s)
		must(t, "ensure again", err)
		equal(t, "created", created, false)
		equal(t, "id", got.ID(), v.ID())
	}
	differing := map[string]vole.Spec{"label a": spec, "label c": spec}
	differing["label a"] = withLabel(spec, "a", "other")
	differing["label c"] = withLabel(spec, "c", "")
	if spec.Quota != 0 {
		s := spec
		s.Quota++
		differing["quota"] = s
	}
	if e.h.Spec.Kind == vole.KindDisk {
		s := spec
		s.Capacity += vole.MiB
		differing["capacity"] = s
	}
	for what, s := range differing {
		_, created, err := e.store.Ensure(ctx, "v", s)
		wantErrOf(t, "ensure with another "+what, err, vole.ErrExists, "ensure", "v")
		equal(t, "created", created, false)
		if err != nil && !strings.Contains(err.Error(), what) {
			t.Errorf("error %q does not say that the %s differs", err, what)
		}
	}
	info, err := v.Refresh(ctx)
	must(t, "refresh", err)
	if !maps.Equal(info.Labels, spec.Labels) || info.Quota != spec.Quota {
		t.Errorf("ensure changed the volume: %+v", info)
	}
}

func withLabel(s vole.Spec, k, v string) vole.Spec {
	s.Labels = maps.Clone(s.Labels)
	s.Labels[k] = v
	return s
}

// race runs fn on n goroutines at once and returns their errors.
func race(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = fn(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// oneWins fails t unless exactly one of errs is nil and the others match lost.
func oneWins(t *testing.T, errs []error, lost error) {
	t.Helper()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wantErr(t, "loser", err, lost)
	}
	equal(t, "winners", won, 1)
}

func testEnsureRace(t *testing.T, e *env) {
	var mu sync.Mutex
	ids, made := map[string]bool{}, 0
	errs := race(12, func(int) error {
		v, created, err := e.store.Ensure(t.Context(), "one", e.h.Spec)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		ids[v.ID()] = true
		if created {
			made++
		}
		return nil
	})
	ok(t, "ensure", errors.Join(errs...))
	equal(t, "volumes", len(ids), 1)
	equal(t, "calls that created", made, 1)
}

func testCreateRace(t *testing.T, e *env) {
	for round := range 5 {
		name := fmt.Sprint("v", round)
		oneWins(t, race(12, func(int) error {
			_, err := e.store.Create(t.Context(), name, e.h.Spec)
			return err
		}), vole.ErrExists)
	}
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes", len(all), 5)
}

func testRemoveRace(t *testing.T, e *env) {
	for round := range 5 {
		v := e.create(t, fmt.Sprint("v", round))
		oneWins(t, race(12, func(i int) error {
			if i%2 == 0 {
				return v.Remove(t.Context())
			}
			return e.store.Remove(t.Context(), v.Name())
		}), vole.ErrNotFound)
	}
}

// Many goroutines create, write to and remove volumes under two names. None ever finds the
// files of another's volume, and calls fail only because a name is taken or missing.
func testNameHammer(t *testing.T, e *env) {
	stores := []*vole.Store{e.store}
	if e.h.Another != nil {
		stores = append(stores, e.another(t))
	}
	rounds := 25
	if testing.Short() {
		rounds = 8
	}
	errs := race(8, func(i int) error {
		for r := range rounds {
			name := fmt.Sprint("name", r%2)
			if err := hammer(t.Context(), stores[i%len(stores)], name, fmt.Sprintf("f%d-%d", i, r), e.h.Spec); err != nil {
				return fmt.Errorf("goroutine %d round %d: %w", i, r, err)
			}
		}
		return nil
	})
	ok(t, "hammer", errors.Join(errs...))
}

func hammer(ctx context.Context, s *vole.Store, name, file string, spec vole.Spec) error {
	v, err := s.Create(ctx, name, spec)
	if errors.Is(err, vole.ErrExists) {
		if err := s.Remove(ctx, name); err != nil && !errors.Is(err, vole.ErrNotFound) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	f, err := v.FS(ctx)
	if errors.Is(err, vole.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.WriteFile(ctx, file, []byte(v.ID()), 0o644)
	if err == nil {
		var list []vole.Entry
		list, err = f.ReadDir(ctx, ".")
		for _, e := range list {
			if e.Name != file && e.Name != "lost+found" {
				return fmt.Errorf("volume %s holds %s of another", v.ID(), e.Name)
			}
		}
	}
	if errors.Is(err, vole.ErrNotFound) {
		return nil
	}
	return err
}

func testTwoStores(t *testing.T, e *env) {
	need(t, e.h.Spec.Kind == vole.KindDir, "volumes that several write to")
	ctx := t.Context()
	other := e.another(t)
	here := e.create(t, "v")
	there, err := other.Get(ctx, "v")
	must(t, "get in the other store", err)
	equal(t, "id", there.ID(), here.ID())

	f := e.openFiles(t, here, vole.FSOptions{})
	f.write("a", "from here")
	g := e.openFiles(t, there, vole.FSOptions{})
	g.holds("a", "from here")
	g.write("b", "from there")
	f.holds("b", "from there")

	must(t, "rename", there.Update(ctx, vole.Update{Name: "w"}))
	info, err := here.Refresh(ctx)
	must(t, "refresh", err)
	equal(t, "name", info.Name, "w")
	_, err = other.Create(ctx, "w", e.h.Spec)
	wantErr(t, "create in the other store", err, vole.ErrExists)
	must(t, "remove in the other store", other.Remove(ctx, "w"))
	_, err = here.Refresh(ctx)
	wantErr(t, "refresh after remove in the other store", err, vole.ErrNotFound)
}

func testPersists(t *testing.T, e *env) {
	if e.h.Another == nil {
		t.Skip("the backend cannot be opened twice")
	}
	v := e.createSpec(t, "kept", withLabel(vole.Spec{Kind: e.h.Spec.Kind, Capacity: e.h.Spec.Capacity, Labels: vole.Labels{}}, "a", "b"))
	f := e.openFiles(t, v, vole.FSOptions{})
	f.write("d/f", pattern(7, 50000))
	want, before := v.ID(), f.tree()
	must(t, "close", e.store.Close())

	s := e.another(t)
	got, err := s.Get(t.Context(), "kept")
	must(t, "get after reopening", err)
	equal(t, "id", got.ID(), want)
	equal(t, "label", got.Info().Labels["a"], "b")
	g := e.openFiles(t, got, vole.FSOptions{})
	g.unchanged("reopening", before)
	g.used("reopened", 50000)
}
