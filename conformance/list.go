package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/volehq/vole"
)

var listTests = []test{
	{"NewestFirst", testNewestFirst},
	{"Empty", testListEmpty},
	{"Pages", testPages},
	{"BadCursor", testBadCursor},
	{"IterStops", testIterStops},
	{"Kind", testListKind},
	{"Changing", testListChanging},
	{"CursorRemoved", testCursorRemoved},
	{"ConcurrentChange", testListConcurrent},
	{"MoreThanAPage", testListLarge},
}

// cheapest is the spec of volumes that only have to be many.
func (e *env) cheapest() vole.Spec {
	if e.caps.Dir {
		return vole.Spec{Kind: vole.KindDir}
	}
	return e.h.Spec
}

// many makes volumes one after the other and returns their names, newest first.
func (e *env) many(t *testing.T, prefix string, n int) []string {
	t.Helper()
	list := make([]string, n)
	for i := range n {
		list[n-1-i] = fmt.Sprintf("%s%03d", prefix, i)
		e.createSpec(t, list[n-1-i], e.cheapest())
	}
	return list
}

func testListEmpty(t *testing.T, e *env) {
	page, err := e.store.List(t.Context(), vole.Filter{})
	must(t, "list", err)
	if len(page.Volumes) != 0 || page.Next != "" {
		t.Errorf("an empty backend lists %+v", page)
	}
}

// More are made in a row than could each have a millisecond of their own.
func testNewestFirst(t *testing.T, e *env) {
	want := e.many(t, "v", 40)
	all, err := list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	if got := names(all); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	for i, info := range all {
		got, err := e.store.Get(t.Context(), info.ID)
		must(t, "get", err)
		if d := sameInfo(info, got.Info()); d != "" {
			t.Errorf("list and get differ: %s", d)
		}
		if i > 0 && info.Created.After(all[i-1].Created) {
			t.Errorf("%s is listed after %s, which is older", info.Name, all[i-1].Name)
		}
	}
	// The order is that of creation: neither a new name nor other changes move one.
	must(t, "update", must1(t, e, "v000").Update(t.Context(), vole.Update{Name: "zzz"}))
	all, err = list(t.Context(), e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "last of the list", all[len(all)-1].Name, "zzz")
}

func must1(t *testing.T, e *env, ref string) *vole.Volume {
	t.Helper()
	v, err := e.store.Get(t.Context(), ref)
	must(t, "get "+ref, err)
	return v
}

// pages lists by hand and returns the names of each page.
func pages(ctx context.Context, s *vole.Store, filter vole.Filter) ([][]string, error) {
	var all [][]string
	for {
		page, err := s.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		all = append(all, names(page.Volumes))
		if page.Next == "" {
			return all, nil
		}
		if len(all) > 10000 {
			return nil, errors.New("the pages do not end")
		}
		filter.Cursor = page.Next
	}
}

func testPages(t *testing.T, e *env) {
	ctx := t.Context()
	want := e.many(t, "v", 10)
	for _, limit := range []int{1, 3, 5, 9, 10, 11, 1 << 30} {
		got, err := pages(ctx, e.store, vole.Filter{Limit: limit})
		must(t, "list", err)
		if !slices.Equal(slices.Concat(got...), want) {
			t.Errorf("limit %d: pages %v, want %v", limit, got, want)
		}
		for _, p := range got {
			if len(p) > limit {
				t.Errorf("limit %d: page %v", limit, p)
			}
		}
		all, err := list(ctx, e.store, vole.Filter{Limit: limit})
		must(t, "volumes", err)
		if n := min(limit, 10); !slices.Equal(names(all), want[:n]) {
			t.Errorf("limit %d: volumes %v, want %v", limit, names(all), want[:n])
		}
	}
	page, err := e.store.List(ctx, vole.Filter{Limit: 4})
	must(t, "list", err)
	rest, err := list(ctx, e.store, vole.Filter{Cursor: page.Next})
	must(t, "volumes from a cursor", err)
	if !slices.Equal(names(rest), want[4:]) {
		t.Errorf("from the cursor: %v, want %v", names(rest), want[4:])
	}
}

func testBadCursor(t *testing.T, e *env) {
	e.many(t, "v", 3)
	for _, cursor := range []string{"nonsense", "0", "'; DROP TABLE volumes; --", strings.Repeat("x", 5000), "\x00"} {
		_, err := e.store.List(t.Context(), vole.Filter{Cursor: cursor})
		wantErrOf(t, fmt.Sprintf("list from %.20q", cursor), err, vole.ErrInvalid, "list", "")
	}
	_, err := e.store.List(t.Context(), vole.Filter{Limit: -1})
	wantErr(t, "limit -1", err, vole.ErrInvalid)
	_, err = list(t.Context(), e.store, vole.Filter{Limit: -1})
	wantErr(t, "volumes with limit -1", err, vole.ErrInvalid)
}

func testIterStops(t *testing.T, e *env) {
	e.many(t, "v", 5)
	n := 0
	for _, err := range e.store.Volumes(t.Context(), vole.Filter{}) {
		must(t, "volumes", err)
		if n++; n == 2 {
			break
		}
	}
	equal(t, "yielded", n, 2)
	e.create(t, "after") // nothing is left locked by the listing that was given up
}

func testListKind(t *testing.T, e *env) {
	e.create(t, "v")
	for _, kind := range []vole.Kind{vole.KindDir, vole.KindDisk} {
		all, err := list(t.Context(), e.store, vole.Filter{Kind: kind})
		must(t, "list", err)
		equal(t, "volumes of kind "+string(kind), len(all) == 1, kind == e.h.Spec.Kind)
	}
}

// Between two pages volumes are made, removed and renamed: those that stay are all
// shown, once each.
func testListChanging(t *testing.T, e *env) {
	ctx := t.Context()
	e.many(t, "v", 12)
	filter := vole.Filter{Limit: 2}
	seen := map[string]int{}
	for i := 0; ; i++ {
		page, err := e.store.List(ctx, filter)
		must(t, "list", err)
		for _, info := range page.Volumes {
			seen[info.Name]++
		}
		if filter.Cursor = page.Next; page.Next == "" {
			break
		}
		e.createSpec(t, fmt.Sprint("new", i), e.cheapest())
		if i < 3 { // one not shown yet, and one that was shown
			must(t, "remove", e.store.Remove(ctx, fmt.Sprintf("v%03d", i)))
			must(t, "remove", e.store.Remove(ctx, fmt.Sprintf("v%03d", 11-i)))
		}
	}
	for i := range 12 {
		name := fmt.Sprintf("v%03d", i)
		if n := seen[name]; i >= 3 && n != 1 || n > 1 {
			t.Errorf("%s was shown %d times", name, n)
		}
	}
}

func testCursorRemoved(t *testing.T, e *env) {
	ctx := t.Context()
	want := e.many(t, "v", 8)
	page, err := e.store.List(ctx, vole.Filter{Limit: 3})
	must(t, "list", err)
	for _, info := range page.Volumes {
		must(t, "remove", e.store.Remove(ctx, info.ID))
	}
	rest, err := list(ctx, e.store, vole.Filter{Cursor: page.Next})
	must(t, "list on", err)
	if got := names(rest); !slices.Equal(got, want[3:]) {
		t.Errorf("after the cursor's volume was removed: %v, want %v", got, want[3:])
	}
}

func testListConcurrent(t *testing.T, e *env) {
	ctx := t.Context()
	stays := e.many(t, "stays", 15)
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := 0; !done.Load(); n++ {
				name := fmt.Sprintf("churn%d", i)
				if _, err := e.store.Create(ctx, name, e.cheapest()); err != nil {
					t.Errorf("create: %v", err)
				}
				if err := e.store.Remove(ctx, name); err != nil {
					t.Errorf("remove: %v", err)
				}
			}
		})
	}
	for round := range 15 {
		got, err := pages(ctx, e.store, vole.Filter{Limit: 1 + round%4})
		if err != nil {
			t.Errorf("list: %v", err)
			break
		}
		shown := slices.DeleteFunc(slices.Concat(got...), func(n string) bool { return strings.HasPrefix(n, "churn") })
		if !slices.Equal(shown, stays) {
			t.Errorf("listed %v, want %v", shown, stays)
		}
	}
	done.Store(true)
	wg.Wait()
}

// A page holds 1000 volumes at most, whatever is asked for, and Volumes goes on.
func testListLarge(t *testing.T, e *env) {
	if testing.Short() {
		t.Skip("makes more than a thousand volumes")
	}
	e.unchecked = true // a check of so many volumes takes longer than all else; backends test it
	const n = 1005
	errs := race(8, func(i int) error {
		for j := i; j < n; j += 8 {
			if _, err := e.store.Create(t.Context(), fmt.Sprint("v", j), e.cheapest()); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "create", errors.Join(errs...))
	for _, limit := range []int{0, 5000} {
		got, err := pages(t.Context(), e.store, vole.Filter{Limit: limit})
		must(t, "list", err)
		seen := map[string]bool{}
		for _, p := range got {
			if len(p) > 1000 {
				t.Errorf("limit %d: a page of %d volumes", limit, len(p))
			}
			for _, name := range p {
				seen[name] = true
			}
		}
		equal(t, "volumes in pages", len(slices.Concat(got...)), n)
		equal(t, "different volumes", len(seen), n)
	}
	all, err := list(t.Context(), e.store, vole.Filter{Limit: 1003})
	must(t, "volumes", err)
	equal(t, "volumes", len(all), 1003)
}
