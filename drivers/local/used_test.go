//go:build unix

package local_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/local"
	"github.com/volehq/vole/internal/fault"
)

// handClock is a clock that stands still but for what is added to it.
type handClock struct{ ns atomic.Int64 }

func newHandClock() *handClock {
	c := &handClock{}
	c.ns.Store(time.Now().UnixNano())
	return c
}

func (c *handClock) now() time.Time      { return time.Unix(0, c.ns.Load()).UTC() }
func (c *handClock) add(d time.Duration) { c.ns.Add(int64(d)) }

// openAt opens a home by that clock.
func openAt(t *testing.T, home string, c *handClock) *vole.Store {
	t.Helper()
	return openFaultyAt(t, home, c, nil)
}

func openFaultyAt(t *testing.T, home string, c *handClock, faults *fault.Injector) *vole.Store {
	t.Helper()
	b, err := local.Open(t.Context(), home, local.WithFaults(local.Options{Clock: c.now}, faults))
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return vole.New(b)
}

// While files are being changed the time of the last use costs no statement at all, and is
// right for everybody; the first and the last statement of a user have it anyway.
func TestLastUseCostsNoStatements(t *testing.T) {
	for name, spec := range map[string]vole.Spec{"dir": {}, "disk": {Kind: vole.KindDisk, Capacity: 8 * vole.MiB}} {
		t.Run(name, func(t *testing.T) {
			ctx, clock := t.Context(), newHandClock()
			home := filepath.Join(t.TempDir(), "home")
			faults := &fault.Injector{}
			s, other := openFaultyAt(t, home, clock, faults), openFaultyAt(t, home, clock, faults)
			v, err := s.Create(ctx, "v", spec)
			must(t, err)
			seen, err := other.Get(ctx, "v")
			must(t, err)
			f, err := v.FS(ctx)
			must(t, err, f.WriteFile(ctx, "f", []byte("x"), 0o644))

			var statements, updates atomic.Int64
			faults.Set(func(op, what string, do func() error) error {
				if strings.HasPrefix(op, "sql.") {
					statements.Add(1)
				}
				if op == "sql.exec" && strings.Contains(what, "last_used") {
					updates.Add(1)
				}
				return do()
			})
			for range 30 {
				clock.add(10 * time.Minute)
				must(t, f.WriteFile(ctx, "f", []byte("y"), 0o644), f.Chmod(ctx, "f", 0o600))
				if i, err := seen.Refresh(ctx); err != nil || i.LastUsed.Before(clock.now()) {
					t.Fatalf("last used at %v, want %v (%v)", i.LastUsed, clock.now(), err)
				}
			}
			if n := statements.Load(); n != 0 {
				t.Errorf("%d statements that write", n)
			}
			must(t, f.Close(), s.Close())
			if n := updates.Load(); n != 1 {
				t.Errorf("%d updates of the last use when the user ends", n)
			}
			if i, err := seen.Refresh(ctx); err != nil || i.LastUsed.Before(clock.now()) {
				t.Errorf("last used at %v, want %v (%v)", i.LastUsed, clock.now(), err)
			}
		})
	}
}

// Volumes from before the time of their last use was kept count from the upgrade, and those
// that an older process makes beside a newer one from their making.
func TestUpgradedVolumesCountFromNow(t *testing.T) {
	home, _ := preparedHome(t)
	sqlIn(t, home, `UPDATE volumes SET created = 1000000007, updated = 1000000007`)
	downgrade(t, home, 3)
	s := openAt(t, home, newHandClock())
	v, err := s.Get(t.Context(), "v")
	must(t, err)
	if i := v.Info(); time.Since(i.LastUsed) > time.Minute || i.Updated.UnixNano() != 1000000007 {
		t.Errorf("last used at %v, updated at %v", i.LastUsed, i.Updated)
	}
	sqlIn(t, home, `UPDATE volumes SET last_used = 0`)
	if i, err := v.Refresh(t.Context()); err != nil || !i.LastUsed.Equal(i.Updated) {
		t.Errorf("made by an older process: last used at %v, updated at %v, %v", i.LastUsed, i.Updated, err)
	}
}

// How long a process used a volume that was killed nobody knows: until somebody noticed.
func TestUsedUntilSomebodyNoticed(t *testing.T) {
	const dead = "0190b5d0-0000-7000-8000-000000000001"
	for what, q := range map[string]string{
		"attachment": `INSERT INTO attachments (id, volume, process, holder, read_only, host_path, host, pid, started, since)
			SELECT '` + dead + `', id, '` + dead + `', 'h', 1, 0, 'x', 1, 1, 1 FROM volumes`,
		"counting": `INSERT INTO counting (volume, process) SELECT id, '` + dead + `' FROM volumes`,
	} {
		t.Run(what, func(t *testing.T) {
			ctx, clock := t.Context(), newHandClock()
			home := filepath.Join(t.TempDir(), "home")
			s := openAt(t, home, clock)
			v, err := s.Create(ctx, "v", vole.Spec{})
			must(t, err)
			clock.add(40 * 24 * time.Hour)
			sqlIn(t, home, q)
			if err := v.RemoveUnused(ctx, v.Info().LastUsed); !errors.Is(err, vole.ErrInUse) {
				t.Fatalf("remove: %v", err)
			}
			i, err := v.Refresh(ctx)
			must(t, err)
			if !i.LastUsed.Equal(clock.now()) {
				t.Errorf("last used at %v, want %v", i.LastUsed, clock.now())
			}
			must(t, s.Check(ctx, vole.CheckOptions{Fix: true}, func(vole.Finding) error { return nil }))
			must(t, v.RemoveUnused(ctx, i.LastUsed))
		})
	}
}

// A disk volume whose files somebody has open is not removed as unused.
func TestOpenDiskIsNotUnused(t *testing.T) {
	ctx := t.Context()
	home := filepath.Join(t.TempDir(), "home")
	clock := newHandClock()
	s, other := openAt(t, home, clock), openAt(t, home, clock)
	v, err := s.Create(ctx, "k", vole.Spec{Kind: vole.KindDisk, Capacity: 8 * vole.MiB})
	must(t, err)
	w, err := other.Get(ctx, "k")
	must(t, err)
	f, err := w.FS(ctx)
	must(t, err)
	if err := v.RemoveUnused(ctx, v.Info().LastUsed); !errors.Is(err, vole.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	must(t, f.WriteFile(ctx, "f", nil, 0o644), f.Close())
	i, err := v.Refresh(context.Background())
	must(t, err, v.RemoveUnused(ctx, i.LastUsed))
}
