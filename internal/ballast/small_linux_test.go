package ballast

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// On a small disk the file takes a part of it, and more once there is more room; what it was
// lent for it has back, whatever else is free.
func TestSmallDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", 3*Size)); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b := open(t, dir)
	b.Keep()
	first := held(t, dir)
	if first < minSize || first > 3*Size/maxShare {
		t.Fatalf("on a disk of %d bytes it holds %d", 3*Size, first)
	}
	fillDisk(t, filepath.Join(dir, "others"))
	b.Keep()
	b.Lend()()
	if n := held(t, dir); n != first {
		t.Errorf("on a full disk it holds %d bytes, and %d before", n, first)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", 20*Size)); err != nil {
		t.Fatal(err)
	}
	b.Keep()
	if n := held(t, dir); n < Size {
		t.Errorf("with more room it holds %d bytes", n)
	}
}

// fillDisk writes a file until the disk is full.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, pageSize); err == nil; {
		_, err = f.Write(b)
	}
	if !NoSpace(err) {
		t.Fatal(err)
	}
}
