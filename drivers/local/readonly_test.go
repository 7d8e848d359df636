//go:build linux

package local_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/volehq/vole"
	"github.com/volehq/vole/internal/ballast"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of 8 MiB and returns its root.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

func seed(t *testing.T, home string) {
	t.Helper()
	ctx := t.Context()
	s, err := vole.Open(ctx, vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		_, f, err := volume(ctx, s, fmt.Sprint("v", i), vole.Spec{})
		if err == nil {
			err = f.WriteFile(ctx, "f", []byte("data"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// readsOnly makes sure that a home that cannot be written still shows what it holds,
// and says why it takes nothing: want.
func readsOnly(t *testing.T, home string, opts vole.Options, want error) {
	t.Helper()
	ctx := context.Background()
	opts.Home = home
	s, err := vole.Open(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	n := 0
	for v, err := range s.Volumes(ctx, vole.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		f, err := v.FS(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := f.ReadFile(ctx, "f"); err != nil || string(data) != "data" {
			t.Errorf("read %q, %v", data, err)
		}
		if err := f.WriteFile(ctx, "g", nil, 0); !errors.Is(err, want) {
			t.Errorf("write: %v", err)
		}
		if used := v.Info().Used; used != 4 {
			t.Errorf("used %d", used)
		}
		f.Close()
	}
	if n != 3 {
		t.Errorf("%d volumes", n)
	}
	if !s.Caps().ReadOnly {
		t.Error("not marked as read-only")
	}
	if _, err := s.Create(ctx, "w", vole.Spec{}); !errors.Is(err, want) {
		t.Errorf("create: %v", err)
	}
	if err := s.Remove(ctx, "v0"); !errors.Is(err, want) {
		t.Errorf("remove: %v", err)
	}
}

// A disk where there was no room for a ballast can be read when it is full.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t)
	home := filepath.Join(disk, "home")
	seed(t, home)
	for _, name := range []string{ballast.Name, ballast.InodesName} {
		if err := os.RemoveAll(filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, disk)
	readsOnly(t, home, vole.Options{}, vole.ErrNoSpace)

	// And with space again it is as it was.
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "again", vole.Spec{}); err != nil {
		t.Error(err)
	}
	closeChecked(t, s)
}

// A disk volume that cannot grow because the disk is full keeps its size, and its files.
func TestGrowOnFullDisk(t *testing.T) {
	for _, size := range []vole.Size{4 * vole.MiB, 20 * vole.MiB, 200 * vole.MiB} {
		t.Run(size.String(), func(t *testing.T) {
			ctx := t.Context()
			disk := smallDisk(t)
			s, err := vole.Open(ctx, vole.Options{Home: filepath.Join(disk, "home")})
			if err != nil {
				t.Fatal(err)
			}
			v, f, err := volume(ctx, s, "d", vole.Spec{Kind: vole.KindDisk, Capacity: size})
			if err == nil {
				err = errors.Join(f.WriteFile(ctx, "f", []byte("data"), 0o644), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			fill(t, disk)
			if err := v.Update(ctx, vole.Update{Capacity: 20 * vole.GiB}); !errors.Is(err, vole.ErrNoSpace) {
				t.Errorf("growing: %v", err)
			}
			checkFinds := func(when string) {
				if err := s.Check(ctx, vole.CheckOptions{}, func(f vole.Finding) error {
					t.Errorf("%s: %s %s %s", when, f.Code, f.Path, f.Detail)
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
			checkFinds("while the disk is full")
			if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
				t.Fatal(err)
			}
			if f, err = v.FS(ctx); err != nil {
				t.Fatal(err)
			}
			data, err := f.ReadFile(ctx, "f")
			if err = errors.Join(err, f.WriteFile(ctx, "g", make([]byte, vole.MiB), 0o644), f.Close()); err != nil || string(data) != "data" {
				t.Errorf("read %q, %v", data, err)
			}
			// One of 4 MiB has got a log, and room for that, before the disk was full.
			if v, err = s.Get(ctx, "d"); err != nil || v.Info().Capacity != size && size > 16*vole.MiB || v.Info().Capacity > 100*vole.MiB+size {
				t.Errorf("%s, %v; the capacity was %s", v.Info().Capacity, err, size)
			}
			closeChecked(t, s)
		})
	}
}

// TestDiskFillsUp writes to a home until nothing fits any more.
func TestDiskFillsUp(t *testing.T) {
	ctx := t.Context()
	home := filepath.Join(smallDisk(t), "home")
	s, err := vole.Open(ctx, vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := volume(ctx, s, "v", vole.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for err == nil {
		if err = f.WriteFile(ctx, fmt.Sprint("f", names), make([]byte, 300<<10), 0o644); err == nil {
			names++
		}
	}
	if !errors.Is(err, vole.ErrNoSpace) || names < 10 {
		t.Fatalf("after %d files: %v", names, err)
	}
	list, err := f.ReadDir(ctx, ".")
	if err != nil || len(list) != names {
		t.Errorf("%d entries, %v; %d files were written", len(list), err, names)
	}
	for err = nil; err == nil; names++ {
		_, err = s.Create(ctx, fmt.Sprint("w", names), vole.Spec{})
		if names > 100000 {
			t.Fatal("the disk does not fill")
		}
	}
	if !errors.Is(err, vole.ErrNoSpace) {
		t.Errorf("create: %v", err)
	}
	for _, e := range list {
		if err := f.Remove(ctx, e.Name); err != nil {
			t.Errorf("removing when the disk is full: %v", err)
		}
	}
	if _, err := s.Create(ctx, "room", vole.Spec{}); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	closeChecked(t, s)
}

func TestReadOnlyDisk(t *testing.T) {
	disk := smallDisk(t)
	home := filepath.Join(disk, "home")
	seed(t, home)
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	readsOnly(t, home, vole.Options{}, vole.ErrReadOnly)
}

// TestReadOnlyDiskAfterCrash is TestReadOnlyDisk with a write-ahead log that nobody
// has folded into the database yet.
func TestReadOnlyDiskAfterCrash(t *testing.T) {
	disk := smallDisk(t)
	home, crashed := filepath.Join(disk, "home"), filepath.Join(disk, "crashed")
	seed(t, home)
	s, err := vole.Open(t.Context(), vole.Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Get(t.Context(), "v0")
	if err == nil {
		err = v.Update(t.Context(), vole.Update{Name: "renamed"})
	}
	if err == nil {
		err = os.CopyFS(crashed, os.DirFS(home)) // what a crash would leave
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(crashed, "catalog.db-wal")); err != nil || info.Size() == 0 {
		t.Fatalf("no log to test with: %v", err)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	readsOnly(t, crashed, vole.Options{}, vole.ErrReadOnly)
	s, err = vole.Open(t.Context(), vole.Options{Home: crashed})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "renamed"); err != nil {
		t.Errorf("what was in the log is not seen: %v", err)
	}
}

func TestReadOnlyAsked(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	if _, err := vole.Open(t.Context(), vole.Options{Home: home, ReadOnly: true}); !errors.Is(err, vole.ErrNotExist) {
		t.Errorf("a home that is not there: %v", err)
	}
	if _, err := os.Stat(home); !errors.Is(err, os.ErrNotExist) {
		t.Error("reading made a home")
	}
	seed(t, home)
	readsOnly(t, home, vole.Options{ReadOnly: true}, vole.ErrReadOnly)
}

// A home that is missing below a read-only or a full directory cannot be made.
func TestHomeBelowReadOnlyOrFullDisk(t *testing.T) {
	disk := smallDisk(t)
	fill(t, disk)
	if _, err := vole.Open(t.Context(), vole.Options{Home: filepath.Join(disk, "a", "home")}); !errors.Is(err, vole.ErrNoSpace) {
		t.Errorf("a full disk: %v", err)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, home := range []string{filepath.Join(disk, "home"), filepath.Join(disk, "b", "home")} {
		_, err := vole.Open(t.Context(), vole.Options{Home: home})
		if !errors.Is(err, vole.ErrReadOnly) || !strings.Contains(err.Error(), home) {
			t.Errorf("%s: %v", home, err)
		}
	}
}
