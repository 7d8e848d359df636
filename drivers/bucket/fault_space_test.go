//go:build linux

package bucket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole"
	"github.com/volehq/vole/drivers/bucket"
)

// smallDisk mounts an empty file system of that many bytes until the test ends.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Skipf("mounting a small file system needs root and the right to mount: %v", err)
	}
	t.Cleanup(func() {
		// Detached: gone now for all paths, and for good with the last file that is open.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk leaves that many bytes free on a file system, and returns the file that has the rest.
func fillDisk(t *testing.T, dir string, expected int64) string {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := int64(st.Bavail)*st.Bsize - expected
	if _, err := io.CopyN(f, zeros{}, max(0, n)); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return name
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFull writes until there is no room: for blobs, for the database, for both. Calls
// fail with ErrNoSpace, nothing that was there is harmed, and with room all goes on.
func TestFull(t *testing.T) {
	t.Parallel()
	for _, k := range []struct {
		name           string
		blobs, catalog bool // on the small disk
		size           int  // of what is written: an object, or bytes in a row
	}{
		{"blobs", true, false, 100 << 10},
		{"database", false, true, 10 << 10},
		{"database of objects", false, true, 17 << 10},
		{"both", true, true, 60 << 10},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			disk, free := smallDisk(t, 32<<20), t.TempDir()
			at := func(small bool, name string) string {
				if small {
					return filepath.Join(disk, name)
				}
				return filepath.Join(free, name)
			}
			opts := bucket.Options{Database: at(k.catalog, "namespace.db"), Blobs: at(k.blobs, "blobs"), Maintain: -1}
			s, _, f := openShared(t, opts)
			want := fileTree{}
			writeOld(t, f, want)
			ballast := fillDisk(t, disk, 600<<10)
			writeUntilFull(t, f, want, k.size)
			mustSeeAll(t, s, want, "on a full disk")
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			writeWithRoom(t, s, f, want)
			again, _, _ := openShared(t, opts)
			mustSeeAll(t, again, want, "opened again")
			removeAllAndSweep(t, opts)
		})
	}
}

// writeUntilFull replaces and adds files in every way until each way has failed.
func writeUntilFull(t *testing.T, f *vole.FS, want fileTree, size int) {
	t.Helper()
	ctx := t.Context()
	ways := map[string]func(path string, data []byte) error{
		"new":     func(path string, data []byte) error { return f.WriteFile(ctx, path, data, 0o644) },
		"replace": func(_ string, data []byte) error { return f.WriteFile(ctx, "old1", data, 0o644) },
		"append": func(_ string, data []byte) error {
			h, err := f.Open(ctx, "old2", vole.OpenOptions{Append: true})
			if err != nil {
				return err
			}
			_, err = h.Append(ctx, data)
			return errors.Join(err, h.Close())
		},
	}
	fails := map[string]bool{}
	begin := time.Now()
	for i := 0; len(fails) < len(ways); i++ {
		if time.Since(begin) > time.Minute {
			t.Fatalf("the disk does not get full; failed did %v", fails)
		}
		for way, write := range ways {
			path, data := fmt.Sprintf("new%d", i), pattern(uint64(100+i), size)
			err := write(path, data)
			if err != nil {
				if !errors.Is(err, vole.ErrNoSpace) {
					t.Errorf("%s on a full disk: %v", way, err)
				}
				fails[way] = true
				continue
			}
			switch way {
			case "new":
				want[path] = data
			case "replace":
				want["old1"] = data
			case "append":
				want["old2"] = append(bytes.Clone(want["old2"]), data...)
			}
		}
	}
}

// mustSeeAll compares the volume with what it should hold.
func mustSeeAll(t *testing.T, s *vole.Store, want fileTree, when string) {
	t.Helper()
	v, err := s.Get(t.Context(), "shared")
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if got, err := readTree(t.Context(), v, "."); err != nil || !got.equal(want) {
		t.Errorf("%s there is, %v:\n%v\nand should be:\n%v", when, err, got, want)
	}
	mustAuditClean(t, s, when)
}

// TestFullSwept: on a disk that is full of blobs, removing files makes room.
func TestFullSwept(t *testing.T) {
	t.Parallel()
	opts := bucket.Options{Database: filepath.Join(t.TempDir(), "namespace.db"), Blobs: smallDisk(t, 32<<20), Maintain: -1}
	_, _, f := openShared(t, opts)
	data := pattern(1, 5<<20)
	for i := 0; ; i++ {
		err := f.WriteFile(t.Context(), fmt.Sprint("f", i), data, 0o644)
		if errors.Is(err, vole.ErrNoSpace) && i > 3 {
			break
		}
		if err != nil || i > 10 {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	for _, path := range []string{"f0", "f1", "f2"} {
		if err := f.Remove(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	sweepUntilEmpty(t, opts)
	// Without a grace time the sweep also took the ids that this process had in reserve.
	s, _, f := openShared(t, opts)
	for _, path := range []string{"f0", "f1"} {
		if err := f.WriteFile(t.Context(), path, data, 0o644); err != nil {
			t.Errorf("after the sweep: %v", err)
		}
	}
	mustAuditClean(t, s, "after the sweep")
}

// writeOld writes what is to outlive that space runs out.
func writeOld(t *testing.T, f *vole.FS, want fileTree) {
	t.Helper()
	for i := range 4 {
		path, data := fmt.Sprintf("old%d", i), pattern(uint64(i), []int{100, 50 << 10}[i%2])
		if err := f.WriteFile(t.Context(), path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		want[path] = data
	}
}

// writeWithRoom shows that writing goes on, with room again, and that all is there.
func writeWithRoom(t *testing.T, s *vole.Store, f *vole.FS, want fileTree) {
	t.Helper()
	data := pattern(9, 200<<10)
	if err := f.WriteFile(t.Context(), "after", data, 0o644); err != nil {
		t.Errorf("with room again: %v", err)
	}
	want["after"] = data
	mustSeeAll(t, s, want, "with room again")
}
