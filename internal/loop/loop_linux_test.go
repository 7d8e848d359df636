package loop

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDeviceLastsAsLongAsItIsOpen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, readOnly := range []bool{false, true} {
		image, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		if err := image.Truncate(1 << 20); err != nil {
			t.Fatal(err)
		}
		dev, err := Attach(image, readOnly)
		if os.IsNotExist(err) || os.IsPermission(err) {
			t.Skip("the kernel gives no loop devices here: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		want := Device{dev.Name(), readOnly}
		if list := Of(image); len(list) != 1 || list[0] != want {
			t.Errorf("%+v, want %+v", list, want)
		}
		_, err = dev.WriteAt([]byte("x"), 0)
		if err == nil {
			err = dev.Sync()
		}
		if (err != nil) != readOnly {
			t.Errorf("write, read-only %v: %v", readOnly, err)
		}
		dev.Close()
		for end := time.Now().Add(5 * time.Second); len(Of(image)) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the device is left")
			}
		}
		b := make([]byte, 1)
		if _, err := image.ReadAt(b, 0); err != nil || (b[0] == 'x') == readOnly {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// A device of another mount namespace is found though the path that it was made with
// leads nowhere here.
func TestOtherPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	image, err := os.Create(filepath.Join(dir, "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	// A detached copy of the mount has paths of its own.
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Skip("the kernel has no detached mounts: ", err)
	}
	defer unix.Close(fd)
	n, err := unix.Openat(fd, "image", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(n), "image")
	defer other.Close()
	dev, err := Attach(other, false)
	if err != nil {
		t.Skip("the kernel gives no loop devices here: ", err)
	}
	defer dev.Close()
	if list := Of(image); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}
