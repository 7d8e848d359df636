package conformance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/volehq/vole"
)

var concurrentTests = []test{
	{"Volumes", testConcurrentVolumes},
	{"OneFS", testConcurrentFS},
	{"ManyFS", testConcurrentManyFS},
	{"TwoStores", testConcurrentTwoStores},
	{"OpenClose", testConcurrentOpenClose},
}

// Many live their own lives beside one another.
func testConcurrentVolumes(t *testing.T, e *env) {
	ctx := t.Context()
	errs := race(12, func(i int) error {
		for j := range 6 {
			name := fmt.Sprintf("v%d-%d", i, j)
			v, err := e.store.Create(ctx, name, e.cheapest())
			if err != nil {
				return err
			}
			f, err := v.FS(ctx)
			if err != nil {
				return err
			}
			if err := f.WriteFile(ctx, "d/f", []byte(name), 0o644); err != nil {
				return err
			}
			if err := v.Update(ctx, vole.Update{Name: name + "x", SetLabels: vole.Labels{"i": fmt.Sprint(i)}}); err != nil {
				return err
			}
			got, err := f.ReadFile(ctx, "d/f")
			if err != nil || string(got) != name {
				return fmt.Errorf("read %q: %w", got, err)
			}
			if err := f.Close(); err != nil {
				return err
			}
			if _, err := list(ctx, e.store, vole.Filter{Limit: 5}); err != nil {
				return err
			}
			if j%2 == 0 {
				if err := v.Remove(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	})
	must(t, "all", errors.Join(errs...))
	all, err := list(ctx, e.store, vole.Filter{})
	must(t, "list", err)
	equal(t, "volumes left", len(all), 36)
	for _, info := range all {
		equal(t, "used by "+info.Name, int(info.Used), len(info.Name)-1)
	}
}

// churn does what comes to its mind among a few names that all share. A result that
// is no error of the contract fails.
func churn(f *files, seed uint64, n int) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	pick := func() string {
		return []string{"a", "b", "d/a", "d/b", "d/e/a", "d/e", "d", "c/x", "c"}[rnd.IntN(9)]
	}
	for range n {
		var err error
		switch p, q := pick(), pick(); rnd.IntN(9) {
		case 0, 1, 2:
			err = f.WriteFile(f.ctx, p, []byte(pattern(int(seed), rnd.IntN(5000))), 0o644)
		case 3:
			err = f.Rename(f.ctx, p, q, vole.RenameOptions{NoReplace: rnd.IntN(2) == 0})
		case 4:
			err = f.Copy(f.ctx, p, q, vole.CopyOptions{})
		case 5:
			if err = f.RemoveAll(f.ctx, p); err != nil && !errors.Is(err, vole.ErrNotDir) {
				return fmt.Errorf("remove all: %w", err) // nothing else is in the way of that
			}
		case 6:
			err = f.MkdirAll(f.ctx, p, 0o755)
		case 7:
			err = churnHandle(f, p, rnd)
		default:
			if f.e.caps.Links {
				err = f.Link(f.ctx, p, q)
			}
		}
		if !expected(err) {
			return err
		}
	}
	return nil
}

func churnHandle(f *files, p string, rnd *rand.Rand) error {
	h, err := f.Open(f.ctx, p, vole.OpenOptions{Create: true})
	if err != nil {
		return err
	}
	_, err = h.WriteAt(f.ctx, []byte(pattern(1, rnd.IntN(3000))), rnd.Int64N(3000))
	err = errors.Join(err, h.Truncate(f.ctx, rnd.Int64N(4000)))
	_, err2 := h.Append(f.ctx, []byte("tail"))
	return errors.Join(err, err2, h.Close())
}

// expected reports whether err is one that a race between path operations may return.
func expected(err error) bool {
	if err == nil {
		return true
	}
	for _, want := range []error{
		vole.ErrNotExist, vole.ErrExists, vole.ErrNotDir, vole.ErrIsDir, vole.ErrNotEmpty, vole.ErrPermission, vole.ErrInvalid,
	} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

func churnAll(t *testing.T, e *env, list ...*files) {
	t.Helper()
	n := 150
	if testing.Short() {
		n = 40
	}
	errs := race(8, func(i int) error { return churn(list[i%len(list)], uint64(i), n) })
	must(t, "churn", errors.Join(errs...))
	f := list[0]
	f.countedRight()
	for _, g := range list[1:] {
		if d := f.tree().Diff(g.tree()); d != "" {
			t.Errorf("two views of one volume differ:%s", d)
		}
	}
}

// countedRight compares the count of bytes with a measurement. No process died and none
// bypassed the FS, so the count must not be stale.
func (f *files) countedRight() {
	f.t.Helper()
	counted, err := f.vol.Refresh(f.ctx)
	must(f.t, "refresh", err)
	s, err := f.Statfs(f.ctx)
	must(f.t, "statfs", err)
	measured, err := f.vol.Measure(f.ctx)
	must(f.t, "measure", err)
	if counted.Used != measured.Used || s.Used != int64(measured.Used) || counted.UsedStale {
		f.t.Errorf("counted %d bytes (stale: %v; statfs: %d), measured %d", counted.Used, counted.UsedStale, s.Used, measured.Used)
	}
}

func testConcurrentFS(t *testing.T, e *env) {
	churnAll(t, e, e.files(t))
}

func testConcurrentManyFS(t *testing.T, e *env) {
	f := e.files(t)
	churnAll(t, e, f, f.beside(vole.FSOptions{}), f.beside(vole.FSOptions{Batch: true}))
}

func testConcurrentTwoStores(t *testing.T, e *env) {
	need(t, e.h.Spec.Kind == vole.KindDir, "volumes that several write to")
	f := e.files(t)
	v, err := e.another(t).Get(f.ctx, "vol")
	must(t, "get", err)
	g := e.openFiles(t, v, vole.FSOptions{})
	errs := race(6, func(i int) error { return churn([]*files{f, g}[i%2], uint64(i), 60) })
	must(t, "churn", errors.Join(errs...))
	if d := f.tree().Diff(g.tree()); d != "" {
		t.Errorf("two stores see one volume differently:%s", d)
	}
	ok(t, "close", g.Close())
	f.countedRight()
}

func testConcurrentOpenClose(t *testing.T, e *env) {
	need(t, e.h.Spec.Kind == vole.KindDir, "volumes that several write to")
	v := e.create(t, "vol")
	ctx := t.Context()
	errs := race(8, func(i int) error {
		for j := range 15 {
			f, err := v.OpenFS(ctx, vole.FSOptions{Batch: j%2 == 0})
			if err != nil {
				return err
			}
			err = f.WriteFile(ctx, fmt.Sprintf("d%d/f%d", i, j), []byte("12345"), 0o644)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, "all", errors.Join(errs...))
	e.openFiles(t, v, vole.FSOptions{}).used("at the end", 8*15*5)
}
