package conformance

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var quotaSharedTests = []test{
	{"TwoFS", testQuotaTwoFS},
	{"TwoStores", testQuotaTwoStores},
	{"TwoStoresRace", testQuotaTwoStoresRace},
	{"SetWhileOpen", testQuotaSetWhileOpen},
	{"UsageOfTwoStores", testUsageTwoStores},
}

// pair opens one volume with a quota by two stores.
func (e *env) pair(t *testing.T, quota int64) (f, g *files) {
	t.Helper()
	f = e.quotaFiles(t, quota)
	v, err := e.another(t).Get(t.Context(), "vol")
	must(t, "get", err)
	return f, e.openFiles(t, v, vole.FSOptions{})
}

// settles waits until v's usage is told exactly as want by every one of the views. A
// view of another process may lag behind a little.
func settles(t *testing.T, what string, want vole.Size, views ...*vole.Volume) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, v := range views {
		for {
			info, err := v.Refresh(t.Context())
			must(t, "refresh", err)
			if info.Used == want && !info.UsedStale {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: used %d (stale: %v), want %d", what, info.Used, info.UsedStale, want)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func testQuotaTwoFS(t *testing.T, e *env) {
	f := e.quotaFiles(t, 10_000)
	g := e.openFiles(t, f.vol, vole.FSOptions{})
	f.write("a", pattern(1, 7000))
	g.used("by the other", 7000)
	g.overWrite("b", 3001)
	g.write("b", pattern(2, 3000))
	f.overWrite("c", 1)
	g.remove("a")
	f.write("c", pattern(3, 7000))
	f.used("at the end", 10_000)

	// A file is held by one and removed by the other.
	h := g.open("c", vole.OpenOptions{})
	f.remove("c")
	f.overWrite("d", 7001)
	f.used("removed here, open there", 10_000)
	must(t, "close", h.Close())
	f.used("closed there", 3000)
}

// Bytes that one store has not used are available to the other, to the last byte.
func testQuotaTwoStores(t *testing.T, e *env) {
	f, g := e.pair(t, 1<<20)
	f.write("a", pattern(1, 100))
	g.write("b", pattern(2, 1<<20-100))
	wantErr(t, "one byte more here", f.WriteFile(f.ctx, "c", []byte("x"), 0o644), vole.ErrQuota)
	wantErr(t, "one byte more there", g.WriteFile(f.ctx, "c", []byte("x"), 0o644), vole.ErrQuota)
	f.remove("b")
	f.write("c", pattern(3, 1<<19))
	g.write("d", pattern(4, 1<<19-100))
	wantErr(t, "one byte more", f.WriteFile(f.ctx, "e", []byte("x"), 0o644), vole.ErrQuota)
	settles(t, "full", 1<<20, f.vol, g.vol)
	ok(t, "close", g.Close())
	f.used("when the other has closed", 1<<20)
}

// Many of two stores write at once: never is the quota exceeded, and at the end all
// of it can be used.
func testQuotaTwoStoresRace(t *testing.T, e *env) {
	const size, fit = 1000, 30
	f, g := e.pair(t, size*fit)
	errs := race(48, func(i int) error {
		return []*files{f, g}[i%2].WriteFile(f.ctx, fmt.Sprint("f", i), []byte(pattern(i, size)), 0o644)
	})
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			g.holds(fmt.Sprint("f", i), pattern(i, size))
			continue
		}
		wantErr(t, "write", err, vole.ErrQuota)
	}
	if won > fit {
		t.Errorf("%d files of %d bytes were written under a quota of %d", won, size, size*fit)
	}
	// Two that ask at the same instant may both be turned away; asked again, they fit.
	for i := won; i < fit; i++ {
		[]*files{f, g}[i%2].write(fmt.Sprint("more", i), pattern(i, size))
	}
	wantErr(t, "one byte more", f.WriteFile(f.ctx, "x", []byte("x"), 0o644), vole.ErrQuota)
	settles(t, "full", size*fit, f.vol, g.vol)
	ok(t, "close", errors.Join(f.Close(), g.Close()))
	info, err := f.vol.Measure(t.Context())
	must(t, "measure", err)
	equal(t, "measured", info.Used, vole.Size(size*fit))
}

// A quota that is set while others have the files open binds them.
func testQuotaSetWhileOpen(t *testing.T, e *env) {
	need(t, e.caps.Quota && e.caps.Dir, "quotas")
	v := e.createSpec(t, "vol", vole.Spec{})
	f := e.openFiles(t, v, vole.FSOptions{})
	there, err := e.another(t).Get(t.Context(), "vol")
	must(t, "get", err)
	g := e.openFiles(t, there, vole.FSOptions{})
	f.write("a", pattern(1, 4000))
	g.write("b", pattern(2, 1000))
	wantErr(t, "quota below what both hold", v.Update(f.ctx, vole.Update{Quota: 4999}), vole.ErrQuota)
	must(t, "set the quota", v.Update(f.ctx, vole.Update{Quota: 6000}))
	wantErr(t, "write here", f.WriteFile(f.ctx, "c", []byte(pattern(3, 1001)), 0o644), vole.ErrQuota)
	wantErr(t, "write there", g.WriteFile(f.ctx, "c", []byte(pattern(3, 1001)), 0o644), vole.ErrQuota)
	g.write("c", pattern(3, 1000))
	must(t, "clear the quota", v.Update(f.ctx, vole.Update{ClearQuota: true}))
	g.write("d", pattern(4, 5000))
	settles(t, "at the end", 11_000, v, there)
}

func testUsageTwoStores(t *testing.T, e *env) {
	need(t, e.h.Spec.Kind == vole.KindDir, "volumes that several write to")
	f := e.files(t)
	v, err := e.another(t).Get(f.ctx, "vol")
	must(t, "get", err)
	g := e.openFiles(t, v, vole.FSOptions{})
	f.write("a", pattern(1, 1000))
	g.write("b", pattern(2, 200))
	settles(t, "both write", 1200, f.vol, v)
	g.remove("a")
	f.write("b", "12345")
	settles(t, "each changes the other's", 5, f.vol, v)
	h := g.open("b", vole.OpenOptions{Append: true})
	_, err = h.Append(f.ctx, []byte("678"))
	must(t, "append", err)
	must(t, "close", h.Close())
	ok(t, "close", g.Close())
	f.used("when the other has closed", 8)
	ok(t, "close", f.Close())
	info, err := v.Refresh(t.Context())
	must(t, "refresh", err)
	equal(t, "when both have closed", info.Used, 8)
	equal(t, "stale when both have closed", info.UsedStale, false)
}
