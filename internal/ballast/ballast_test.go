//go:build unix

package ballast

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/volehq/vole/driver"
	"golang.org/x/sys/unix"
)

func open(t *testing.T, dir string) *Ballast {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return New(d)
}

// held is how many bytes of the disk the file has.
func held(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, Name), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// The file holds room, gives it up to those who free some, and has it back when all are done.
func TestLend(t *testing.T) {
	dir := t.TempDir()
	b, other := open(t, dir), open(t, dir)
	b.Keep()
	if n := held(t, dir); n < Size {
		t.Fatalf("it holds %d bytes", n)
	}
	done, more := b.Lend(), b.Lend()
	if n := held(t, dir); n != 0 {
		t.Errorf("lent, it holds %d bytes", n)
	}
	other.Keep() // another process opens the home
	done()
	done()
	if n := held(t, dir); n != 0 {
		t.Errorf("still lent, it holds %d bytes", n)
	}
	more()
	if n := held(t, dir); n < Size {
		t.Errorf("given back, it holds %d bytes", n)
	}
}

// An operation that finds the disk full gets the room and a second try; others fail once.
func TestFreeing(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	b.Keep()
	for want, failure := range map[int]error{1: driver.ErrInUse, 2: driver.ErrNoSpace} {
		tries := 0
		err := b.Freeing(func() error {
			tries++
			if tries == 2 && held(t, dir) != 0 {
				t.Error("the second try has no more room than the first")
			}
			return failure
		})
		if !errors.Is(err, failure) || tries != want {
			t.Errorf("%v after %d tries", err, tries)
		}
	}
	if held(t, dir) < Size {
		t.Error("the room is not held again")
	}
	ran := false
	if err := new(Ballast).Freeing(func() error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("none: %v, %v", ran, err)
	}
}

// Empty files hold inodes, which are given up and taken back with the room.
func TestInodes(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	if _, inodes := b.freeSpace(); inodes == math.MaxInt64 {
		t.Skip("this file system does not count inodes")
	}
	files := func() int {
		t.Helper()
		list, err := os.ReadDir(filepath.Join(dir, InodesName))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	b.Keep()
	if n := files(); n != Inodes {
		t.Fatalf("%d files", n)
	}
	done := b.Lend()
	if n := files(); n != 0 {
		t.Errorf("lent, %d files are left", n)
	}
	done()
	if n := files(); n != Inodes {
		t.Errorf("given back, %d files", n)
	}
	if err := os.Remove(filepath.Join(dir, inodeFileName(Inodes-1))); err != nil {
		t.Fatal(err)
	}
	b.Keep()
	if n := files(); n != Inodes {
		t.Errorf("kept, %d files", n)
	}
}
