//go:build unix

package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole/driver"
)

// inTmp returns the names in tmp.
func inTmp(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, tmpDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// TestDirOrder looks at what a put does to the disk, and in which order.
func TestDirOrder(t *testing.T) {
	dir := t.TempDir()
	steps := func(s *dirStore, key string) []string {
		var got []string
		s.faults.Set(func(op, what string, f func() error) error {
			rel, err := filepath.Rel(dir, what)
			if err != nil || strings.HasPrefix(rel, "..") {
				rel = what
			}
			if strings.HasPrefix(rel, tmpDir+"/") {
				rel = "tmp/*"
			}
			got = append(got, op+" "+filepath.ToSlash(rel))
			return f()
		})
		mustPut(t, s, key, []byte("data"))
		s.faults.Set(nil)
		return got
	}
	s := openTestDir(t, dir)
	file := []string{"create tmp/*", "write tmp/*", "fsync tmp/*"}
	want := slices.Concat(file, []string{"mkdir o", "fsync .", "mkdir o/x", "fsync o", "link o/x/1", "fsync o/x", "unlink tmp/*"})
	if got := steps(s, "o/x/1"); !slices.Equal(got, want) {
		t.Errorf("first put:\n%q, want\n%q", got, want)
	}
	want = slices.Concat(file, []string{"link o/x/2", "fsync o/x", "unlink tmp/*"})
	if got := steps(s, "o/x/2"); !slices.Equal(got, want) {
		t.Errorf("second put:\n%q, want\n%q", got, want)
	}
	// Who made the directories and this object may have died before they were durable.
	want = slices.Concat(file, []string{"mkdir o", "fsync .", "mkdir o/x", "fsync o", "link o/x/2", "fsync o/x", "unlink tmp/*"})
	if got := steps(openTestDir(t, dir), "o/x/2"); !slices.Equal(got, want) {
		t.Errorf("put by another process:\n%q, want\n%q", got, want)
	}
}

// TestDirFaults fails every step of a put once, or dies there, then looks with new eyes.
func TestDirFaults(t *testing.T) {
	broken := errors.New("injected")
	for _, die := range []bool{false, true} {
		for step := 1; ; step++ {
			dir := t.TempDir()
			s := openTestDir(t, dir)
			n, at := 0, ""
			s.faults.Set(func(op, what string, f func() error) error {
				if n++; n == step {
					at = op
					return broken
				}
				if die && n > step {
					return broken // nothing happens after death
				}
				return f()
			})
			data := []byte("data")
			err := s.Put(t.Context(), "o/x/1", data, sumOf(data))
			s.faults.Set(nil)
			if n < step {
				if step < 9 {
					t.Errorf("only %d steps", step)
				}
				break
			}
			name := fmt.Sprintf("step %d (%s), die=%v", step, at, die)
			if at != "unlink" && !errors.Is(err, broken) || at == "unlink" && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			again := openTestDir(t, dir)
			switch _, serr := again.Stat(t.Context(), "o/x/1"); {
			case serr == nil:
				wantBytes(t, again, "o/x/1", data)
				if err != nil && !errors.Is(err, ErrUncertain) {
					t.Errorf("%s: stored, in spite of %v", name, err)
				}
			case !errors.Is(serr, fs.ErrNotExist):
				t.Errorf("%s: %v", name, serr)
			case err == nil:
				t.Errorf("%s: lost", name)
			}
			if left := inTmp(t, dir); !die && at != "unlink" && len(left) != 0 {
				t.Errorf("%s: left in tmp: %q", name, left)
			}
			if keys := keysOf(t, again, ""); len(keys) > 1 {
				t.Errorf("%s: %q", name, keys)
			}
			mustPut(t, again, "o/x/1", data)
		}
	}
}

func TestDirErrors(t *testing.T) {
	s := openTestDir(t, t.TempDir())
	for _, test := range []struct {
		op    string
		errno syscall.Errno
		kind  error
	}{
		{"write", syscall.ENOSPC, driver.ErrNoSpace},
		{"write", syscall.EDQUOT, driver.ErrNoSpace},
		{"fsync", syscall.EDQUOT, driver.ErrNoSpace},
		{"mkdir", syscall.ENOSPC, driver.ErrNoSpace},
		{"create", syscall.EROFS, driver.ErrReadOnly},
		{"create", syscall.EACCES, driver.ErrPermission},
		{"link", syscall.EPERM, driver.ErrUnsupported},
		{"fsync", syscall.EIO, syscall.EIO},
	} {
		s.faults.Set(func(op, what string, f func() error) error {
			if op == test.op {
				return &fs.PathError{Op: op, Path: what, Err: test.errno}
			}
			return f()
		})
		err := s.Put(t.Context(), "o/"+test.op+"/1", nil, 0)
		s.faults.Set(nil)
		wantCertain(t, err, test.kind)
	}
	// Of a key that is a folder of another there is no object.
	mustPut(t, s, "o/a/b", nil)
	wantCertain(t, s.Put(t.Context(), "o/a", nil, 0), driver.ErrExists)
	wantCertain(t, s.Put(t.Context(), "o/a/b/c", nil, 0), driver.ErrNotDir)
	wantErr(t, s.ReadAt(t.Context(), "o/a/b/c", nil, 0), fs.ErrNotExist)
	if err := s.Delete(t.Context(), "o/a"); err != nil {
		t.Error(err)
	}
	wantBytes(t, s, "o/a/b", nil)
	wantErr(t, s.Put(t.Context(), "o/"+strings.Repeat("k", 300), nil, 0), driver.ErrInvalid)
}

func TestDirIsPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	top := filepath.Join(t.TempDir(), "new", "blobs")
	s := openTestDir(t, top)
	mustPut(t, s, "o/x/1", []byte("data"))
	err := filepath.WalkDir(filepath.Dir(top), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[d.IsDir()]; st.Mode().Perm() != want {
			t.Errorf("%s: %v", name, st.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDirStale looks after what crashed puts left.
func TestDirStale(t *testing.T) {
	dir := t.TempDir()
	openTestDir(t, dir)
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "new": 23 * time.Hour} {
		name = filepath.Join(dir, tmpDir, name)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
	s := openTestDir(t, dir)
	if left := inTmp(t, dir); !slices.Equal(left, []string{"new"}) {
		t.Errorf("left: %q", left)
	}
	if keys := keysOf(t, s, ""); len(keys) != 0 {
		t.Errorf("objects: %q", keys)
	}
}

// TestDirLinks puts links where the store would follow them out.
func TestDirLinks(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openTestDir(t, dir)
	if err := os.Symlink(outside, filepath.Join(dir, "o")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "file"), filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "o/new", nil, 0); err == nil {
		t.Error("put through a link")
	}
	if err := s.ReadAt(t.Context(), "o/file", make([]byte, 1), 0); err == nil {
		t.Error("read through a link")
	}
	if err := s.ReadAt(t.Context(), "f", make([]byte, 1), 0); err == nil {
		t.Error("read a link")
	}
	if err := s.Delete(t.Context(), "o/file"); err == nil {
		t.Error("deleted through a link")
	}
	if keys := keysOf(t, s, ""); len(keys) != 0 {
		t.Errorf("listed %q", keys)
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
		t.Errorf("outside: %v, %v", list, err)
	}
}

// TestDirVanishes has someone remove directories that the store knows.
func TestDirVanishes(t *testing.T) {
	dir := t.TempDir()
	s := openTestDir(t, dir)
	mustPut(t, s, "o/x/1", []byte("1"))
	if err := os.RemoveAll(filepath.Join(dir, "o")); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "o/x/1", []byte("2"))
	wantBytes(t, s, "o/x/1", []byte("2"))
}
