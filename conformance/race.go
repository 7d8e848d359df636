package conformance

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
)

var raceTests = []test{
	{"SwapByFS", testRaceByFS},
	{"SwapByHost", testRaceByHost},
}

// swapper changes the volume under the operations of others: by turns "swap" is a
// directory and a link that leads out, and "leaf" a file and such a link.
type swapper struct {
	rename    func(from, to string) error
	removeAll func(p string) error
	build     func() error // makes swap, leaf, and the links out and outleaf
}

// run swaps until it is stopped, and counts how often it did.
func (s swapper) run(stop *atomic.Bool, swaps *atomic.Int64) {
	for !stop.Load() {
		if s.swap("swap", "out") == nil && s.swap("leaf", "outleaf") == nil {
			if swaps.Add(1)%50 != 0 {
				continue
			}
		}
		// Other goroutines create files in the gaps, so that a step fails. Rebuild; if that
		// fails too, the next round tries again.
		for _, p := range []string{"swap", "out", "away", "leaf", "outleaf"} {
			_ = s.removeAll(p)
		}
		_ = s.build()
	}
}

func (s swapper) swap(real, link string) error {
	return errors.Join(s.rename(real, "away"), s.rename(link, real), s.rename(real, link), s.rename("away", real))
}

func testRaceByFS(t *testing.T, e *env) {
	need(t, e.caps.Links, "links")
	dir, _ := outside(t)
	f := e.openFiles(t, e.create(t, "vol"), vole.FSOptions{Batch: true})
	raceSwaps(t, e, f, swapper{
		rename:    func(from, to string) error { return f.Rename(f.ctx, from, to, vole.RenameOptions{}) },
		removeAll: func(p string) error { return f.RemoveAll(f.ctx, p) },
		build: func() error {
			return errors.Join(
				f.WriteFile(f.ctx, "swap/secret", []byte("inside"), 0o644),
				f.WriteFile(f.ctx, "swap/sub/inner", []byte("inside"), 0o644),
				f.WriteFile(f.ctx, "leaf", []byte("inside"), 0o644),
				f.Symlink(f.ctx, dir, "out"),
				f.Symlink(f.ctx, filepath.Join(dir, "secret"), "outleaf"))
		},
	})
}

func testRaceByHost(t *testing.T, e *env) {
	if e.h.Spec.Kind == vole.KindDisk {
		t.Skip("for dir volumes")
	}
	if e.h.Root == nil {
		t.Skip("the backend keeps no files on this host")
	}
	dir, _ := outside(t)
	f := e.openFiles(t, e.create(t, "vol"), vole.FSOptions{Batch: true})
	// Changes by the host path are announced by an attachment; usage is measured afterwards.
	a := attach(t, f.vol, vole.AttachOptions{Holder: "swapper", HostPath: e.caps.HostPath})
	root := e.h.Root(t, e.store, f.vol)
	at := func(p string) string { return filepath.Join(root, p) }
	raceSwaps(t, e, f, swapper{
		rename:    func(from, to string) error { return os.Rename(at(from), at(to)) },
		removeAll: func(p string) error { return os.RemoveAll(at(p)) },
		build:     func() error { buildOnHost(root, dir); return nil },
	})
	must(t, "close", f.Close())
	detach(t, a)
	stale(t, "after the race", f.vol, false)
}

// buildOnHost creates the swapped files under names that no operation uses, because a name in
// use may be a fifo by now, and moves them into place.
func buildOnHost(root, dir string) {
	at := func(p string) string { return filepath.Join(root, p) }
	for _, p := range []string{"host-swap", "host-leaf"} {
		os.RemoveAll(at(p))
	}
	os.MkdirAll(at("host-swap/sub"), 0o755)
	for _, p := range []string{"host-swap/secret", "host-swap/sub/inner", "host-leaf"} {
		os.WriteFile(at(p), []byte("inside"), 0o644)
	}
	os.Rename(at("host-swap"), at("swap"))
	os.Rename(at("host-leaf"), at("leaf"))
	os.Symlink(dir, at("out"))
	os.Symlink(filepath.Join(dir, "secret"), at("outleaf"))
}

// raceSwaps runs every operation repeatedly while s swaps. Operations may fail; none may reach
// files outside of the volume.
func raceSwaps(t *testing.T, e *env, f *files, s swapper) {
	t.Helper()
	f.fixture()
	must(t, "build", s.build())
	length := time.Second
	if testing.Short() {
		length = 500 * time.Millisecond
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	var swaps atomic.Int64
	wg.Go(func() { s.run(&stop, &swaps) })
	// A slow machine gets more time to swap as often as it takes to see something.
	const enough = 10
	deadline, limit := time.Now().Add(length), time.Now().Add(30*length)
	goOn := func() bool {
		now := time.Now()
		return now.Before(deadline) || swaps.Load() < enough && now.Before(limit)
	}
	var workers sync.WaitGroup
	for i := range 2 {
		workers.Go(func() {
			for n := i; goOn(); n++ {
				raceRound(t, e, f, n)
			}
		})
	}
	workers.Wait()
	stop.Store(true)
	wg.Wait()
	if n := swaps.Load(); n < enough {
		t.Errorf("only %d times was swapped", n)
	}
}

var racePaths = []string{"swap/secret", "swap/sub/inner", "leaf", "swap", "swap/sub", "swap/new", "swap/only-outside"}

// raceRound runs each operation once, and checks the bytes read, entries listed and files
// copied.
func raceRound(t *testing.T, e *env, f *files, n int) {
	for i, o := range e.pathOps() {
		p := racePaths[(n+i)%len(racePaths)]
		o.run(f.ctx, f.FS, p) //nolint:errcheck // any result will do
	}
	for _, p := range append([]string{"renamed", "copied", "linked"}, racePaths...) {
		data, err := f.ReadFile(f.ctx, p)
		if err == nil && strings.Contains(string(data), secret) {
			t.Errorf("%s: what is outside was read", p)
		}
		list, err := f.ReadDir(f.ctx, p)
		if err != nil {
			continue
		}
		for _, entry := range list {
			if entry.Name != "only-outside" {
				continue
			}
			// The race may have made a file of that name within the volume.
			b, err := f.ReadFile(f.ctx, path.Join(p, entry.Name))
			if err == nil && strings.Contains(string(b), secret) || entry.Size == int64(len(secret)) {
				t.Errorf("%s: what is outside was listed", p)
			}
		}
	}
	for _, p := range []string{"renamed", "copied", "linked"} {
		if err := f.RemoveAll(f.ctx, p); err != nil && !errors.Is(err, vole.ErrNotEmpty) {
			t.Errorf("remove %s: %v", p, err)
		}
	}
	f.WriteFile(f.ctx, "file", []byte("content"), 0o644) //nolint:errcheck // a worker beside this one may be in the way
}
