//go:build linux

package local_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/fault"
	"golang.org/x/sys/unix"
)

// nest makes directories nested n deep beneath dir, deeper than a path can say.
func nest(t *testing.T, dir string, n int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range n {
		must(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
}

// attached attaches a volume by its path, lets fn at it, and detaches.
func attached(t *testing.T, v *vole.Volume, fn func(path string)) {
	t.Helper()
	a, err := v.Attach(t.Context(), vole.AttachOptions{HostPath: true})
	must(t, err)
	fn(a.Path())
	must(t, a.Detach(t.Context()))
}

// TestDeepTrees removes what is nested deeper than a process may have files open.
func TestDeepTrees(t *testing.T) {
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	small := limit
	small.Cur = 512
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &small))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)

	home := filepath.Join(t.TempDir(), "home")
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	must(t, err)
	defer closeChecked(t, s)
	for _, name := range []string{"v", "w"} {
		v, err := s.Create(t.Context(), name, vole.Spec{})
		must(t, err)
		attached(t, v, func(path string) { nest(t, path, 3000) })
	}
	v, err := s.Get(t.Context(), "v")
	must(t, err)
	f, err := v.FS(t.Context())
	must(t, err)
	must(t, f.RemoveAll(t.Context(), "d"), f.Close())
	if info, err := v.Measure(t.Context()); err != nil || info.Used != 0 {
		t.Errorf("measured %v, %v", info.Used, err)
	}
	must(t, s.Remove(t.Context(), "w"))
	if left, err := os.ReadDir(filepath.Join(home, "volumes")); err != nil || len(left) != 1 {
		t.Errorf("volumes/ holds %v, %v", left, err)
	}
}

// TestWhatCannotBeDeleted makes sure that one volume that will not go keeps nobody
// from the others, is reported, and goes once it can.
func TestWhatCannotBeDeleted(t *testing.T) {
	home, faults := filepath.Join(t.TempDir(), "home"), &fault.Injector{}
	s, err := openFaulty(t.Context(), home, faults)
	must(t, err)
	_, f, err := volume(t.Context(), s, "v", vole.Spec{})
	must(t, err)
	must(t, f.WriteFile(t.Context(), "stuck", []byte("x"), 0o644), f.Close())
	faults.Set(func(op, what string, do func() error) error {
		if op == "unlink" && what == "stuck" {
			return unix.EPERM // as of a file that is immutable
		}
		return do()
	})
	if err := s.Remove(t.Context(), "v"); !errors.Is(err, vole.ErrPermission) {
		t.Fatalf("remove: %v", err)
	}
	must(t, s.Close())
	for range 2 {
		s, err = openFaulty(t.Context(), home, faults)
		must(t, err)
		if s.Caps().ReadOnly {
			t.Fatal("the home is open for reading only")
		}
		if _, err := s.Create(t.Context(), "v", vole.Spec{}); err != nil {
			t.Fatalf("its name is blocked: %v", err)
		}
		if codes, _ := findings(t, s, false); !slices.Equal(codes, []string{"unfinished-volume"}) {
			t.Errorf("found %v", codes)
		}
		if codes, fixed := findings(t, s, true); !slices.Equal(codes, []string{"unfinished-volume"}) || fixed {
			t.Errorf("repair found %v, repaired %v", codes, fixed)
		}
		must(t, s.Remove(t.Context(), "v"), s.Close())
	}
	faults.Set(nil)
	s, err = openFaulty(t.Context(), home, faults)
	must(t, err)
	closeChecked(t, s)
	if left, err := os.ReadDir(filepath.Join(home, "volumes")); err != nil || len(left) != 0 {
		t.Errorf("volumes/ holds %v, %v", left, err)
	}
}

// TestMeasureWhileRemoving measures a volume while a tree is on its way out.
func TestMeasureWhileRemoving(t *testing.T) {
	home, _, v, faults := faultyHomeWith(t, vole.Spec{Quota: vole.MiB})
	f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
	must(t, err)
	must(t, f.WriteFile(t.Context(), "keep", make([]byte, 5000), 0o644))
	for i := range 100 {
		must(t, f.WriteFile(t.Context(), fmt.Sprint("d/", i), make([]byte, 100), 0o644))
	}
	other, err := vole.Open(t.Context(), vole.Options{Home: home})
	must(t, err)
	defer closeChecked(t, other)
	type result struct {
		info vole.Info
		err  error
	}
	var n atomic.Int64
	measured := make(chan result, 1)
	faults.Set(func(op, _ string, do func() error) error {
		err := do()
		if op == "unlink" && n.Add(1) == 50 {
			// In another goroutine: the lock of the file is held here.
			go func() {
				var r result
				ov, err := other.Get(t.Context(), "v")
				if err == nil {
					r.info, err = ov.Measure(t.Context())
				}
				r.err = err
				measured <- r
			}()
			time.Sleep(10 * time.Millisecond)
		}
		return err
	})
	err = f.RemoveAll(t.Context(), "d")
	faults.Set(nil)
	must(t, err, f.Close())
	r := <-measured
	must(t, r.err)
	if r.info.Used < 5000 || r.info.Used > 5000+10000 {
		t.Errorf("measured %d meanwhile", r.info.Used)
	}
	if info, err := v.Refresh(t.Context()); err != nil || info.Used != 5000 || info.UsedStale {
		t.Errorf("afterwards %d, stale %v, %v; want 5000", info.Used, info.UsedStale, err)
	}
}

// TestNamelessAcrossStores shrinks a file whose name another process took away.
func TestNamelessAcrossStores(t *testing.T) {
	home, _, v := homeWith(t, vole.Spec{Quota: vole.MiB})
	ctx := t.Context()
	f, err := v.FS(ctx)
	must(t, err)
	must(t, f.WriteFile(ctx, "f", make([]byte, vole.MiB), 0o644))
	h, err := f.Open(ctx, "f", vole.OpenOptions{Write: true})
	must(t, err)
	other, err := vole.Open(ctx, vole.Options{Home: home})
	must(t, err)
	defer closeChecked(t, other)
	ov, err := other.Get(ctx, "v")
	must(t, err)
	of, err := ov.FS(ctx)
	must(t, err)
	must(t, of.Remove(ctx, "f"), h.Truncate(ctx, 0))
	_, err = h.WriteAt(ctx, make([]byte, 1000), 0)
	must(t, err, h.Truncate(ctx, 10))
	must(t, of.WriteFile(ctx, "g", make([]byte, vole.MiB-10), 0o644))
	if err := of.WriteFile(ctx, "h", make([]byte, 1), 0o644); !errors.Is(err, vole.ErrQuota) {
		t.Errorf("one byte beyond the quota: %v", err)
	}
	must(t, h.Close(), f.Close(), of.Close())
	if info, err := v.Refresh(ctx); err != nil || info.Used != vole.MiB-10 || info.UsedStale {
		t.Errorf("used %d, stale %v, %v", info.Used, info.UsedStale, err)
	}
}

// TestCatalogLost makes sure that nobody begins anew over volumes whose catalog is gone.
func TestCatalogLost(t *testing.T) {
	for _, how := range []string{"missing", "empty"} {
		home := filepath.Join(t.TempDir(), "home")
		seed(t, home)
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(filepath.Join(home, "catalog.db"+suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if how == "empty" {
			must(t, os.WriteFile(filepath.Join(home, "catalog.db"), nil, 0o600))
		}
		s, err := vole.Open(t.Context(), vole.Options{Home: home})
		if !errors.Is(err, vole.ErrCorrupt) || !strings.Contains(err.Error(), "3 volumes") {
			t.Errorf("%s: %v", how, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

// TestChangeWhileRemoving makes sure that the removal of a tree lets others in: what
// somebody else changes in the volume, begun after the removal, ends before it.
func TestChangeWhileRemoving(t *testing.T) {
	home, _, v, faults := faultyHomeWith(t, vole.Spec{Quota: 64 * vole.MiB})
	f, err := v.OpenFS(t.Context(), vole.FSOptions{Batch: true})
	must(t, err)
	const files = 1000
	for i := range files {
		must(t, f.WriteFile(t.Context(), fmt.Sprintf("d/%d/%d", i%10, i), nil, 0o644))
	}
	other, err := vole.Open(t.Context(), vole.Options{Home: home})
	must(t, err)
	defer closeChecked(t, other)
	ov, err := other.Get(t.Context(), "v")
	must(t, err)
	of, err := ov.FS(t.Context())
	must(t, err)
	var removed, removedBefore atomic.Int64
	changed := make(chan error, 1)
	faults.Set(func(op, _ string, do func() error) error {
		if op != "unlink" {
			return do()
		}
		if removed.Add(1) == 50 {
			go func() {
				err := errors.Join(
					of.MkdirAll(t.Context(), "other/dir", 0o755),
					of.WriteFile(t.Context(), "other/file", []byte("x"), 0o644),
					of.Rename(t.Context(), "other/file", "other/dir/file", vole.RenameOptions{}),
				)
				removedBefore.Store(removed.Load())
				changed <- err
			}()
		}
		time.Sleep(100 * time.Microsecond)
		return do()
	})
	must(t, f.RemoveAll(t.Context(), "d"))
	select {
	case err := <-changed:
		must(t, err)
	default:
		t.Errorf("the change was made only after all %d files were removed", files)
		must(t, <-changed)
	}
	t.Logf("the change was made while %d of %d files were removed", removedBefore.Load(), files)
	must(t, f.Close(), of.Close())
}
