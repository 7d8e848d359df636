//go:build linux

package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/volehq/vole/ext4"
)

// newRegressFS returns an empty file system in memory, and its device.
func newRegressFS(t *testing.T, size int64, batch bool) (*ext4.FS, *crashDevice) {
	t.Helper()
	d := newCrashDevice(size, nil)
	if _, err := ext4.Format(d, size, ext4.FormatOptions{Journal: 4 * mega}); err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(d, ext4.OpenOptions{Size: size, Batch: batch})
	if err != nil {
		t.Fatal(err)
	}
	return fs, d
}

// closeAndCheck closes a file system that must have no fault.
func closeAndCheck(t *testing.T, fs *ext4.FS, d *crashDevice) {
	t.Helper()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkWithoutProblems(d, d.size); err != nil {
		t.Fatal(err)
	}
}

func failOnErrors(t *testing.T, list ...error) {
	t.Helper()
	if err := errors.Join(list...); err != nil {
		t.Fatal(err)
	}
}

// RemoveAll makes lost+found when it is missing, in the directory that it removes from.
func TestRegressRemoveAllMakesLostFound(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	ctx := context.Background()
	failOnErrors(t, fs.Remove("lost+found"), fs.MkdirAll("a/b", 0o755), fs.RemoveAll(ctx, "a"))
	closeAndCheck(t, fs, d)
}

func TestRegressChownClearsSetuid(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	for mode, want := range map[uint32]uint32{0o4755: 0o755, 0o2755: 0o755, 0o2745: 0o2745, 0o6600: 0o2600} {
		_, err := fs.WriteFile(context.Background(), "f", strings.NewReader(""), ext4.WriteOptions{})
		failOnErrors(t, err, fs.Chmod("f", goFileMode(mode)), fs.Chown("f", 5, 6))
		if info, err := fs.Lstat("f"); err != nil || statModeOf(info.Mode)&0o7777 != want {
			t.Errorf("%o: %v, %v", mode, info.Mode, err)
		}
	}
	closeAndCheck(t, fs, d)
}

// A large file takes the group of its directory also when that is made with it.
func TestRegressGroupOfNewParents(t *testing.T) {
	fs, d := newRegressFS(t, 32*mega, true)
	failOnErrors(t, fs.Mkdir("shared", 0o755), fs.Chown("shared", 1, 77), fs.Chmod("shared", goFileMode(0o2755)))
	_, err := fs.WriteFile(context.Background(), "shared/x/y/large", bytes.NewReader(make([]byte, 3*mega)), ext4.WriteOptions{})
	failOnErrors(t, err)
	if info, err := fs.Lstat("shared/x/y/large"); err != nil || info.GID != 77 {
		t.Errorf("group %d, %v", info.GID, err)
	}
	closeAndCheck(t, fs, d)
}

// Nothing that is appended changes nothing.
func TestRegressAppendNothing(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	f, err := fs.OpenFile("f", ext4.OpenFlags{Create: true})
	failOnErrors(t, err)
	old := time.Unix(1000, 0)
	failOnErrors(t, fs.Chtimes("f", old, old))
	if off, err := f.Append(nil); off != 0 || err != nil {
		t.Error(off, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mtime.Equal(old) {
		t.Error(info.Mtime, err)
	}
	failOnErrors(t, f.Close())
	closeAndCheck(t, fs, d)
}

// fillWithFiles takes all space but what is free for certain, by a file named rest.
func fillWithFiles(t *testing.T, fs *ext4.FS) {
	t.Helper()
	f, err := fs.OpenFile("rest", ext4.OpenFlags{Create: true})
	failOnErrors(t, err)
	for n := int64(mega); n >= 4096; {
		if _, err := f.Append(bytes.Repeat([]byte{7}, int(n))); errors.Is(err, syscall.ENOSPC) {
			n /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	failOnErrors(t, f.Close())
}

// An operation that finds space only once what was freed before is certain begins anew:
// PunchHole then went on from the start of the file, and left out the edges.
func TestRegressPunchTriedAgain(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	f, err := fs.OpenFile("f", ext4.OpenFlags{Create: true})
	failOnErrors(t, err)
	// Four extents fill the inode; the hole splits the last one.
	const bs = 4096
	content := bytes.Repeat([]byte("x"), 8*bs)
	for i := range int64(4) {
		_, err := f.WriteAt(content, i*16*bs)
		failOnErrors(t, err)
	}
	_, err = fs.WriteFile(context.Background(), "victim", bytes.NewReader(make([]byte, 4*bs)), ext4.WriteOptions{})
	failOnErrors(t, err)
	fillWithFiles(t, fs)
	failOnErrors(t, fs.Sync(context.Background()), fs.Remove("victim"))
	failOnErrors(t, f.PunchHole(50*bs+100, 3*bs))
	want := make([]byte, 56*bs)
	for i := range 4 {
		copy(want[i*16*bs:], content)
	}
	clear(want[50*bs+100 : 53*bs+100])
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("at %d: %q, want %q", i, got[i], want[i])
			}
		}
		t.Fatal(err)
	}
	failOnErrors(t, f.Close())
	closeAndCheck(t, fs, d)
}

// goFileMode translates the permission bits of st_mode.
func goFileMode(m uint32) iofs.FileMode {
	mode := iofs.FileMode(m & 0o777)
	if m&0o4000 != 0 {
		mode |= iofs.ModeSetuid
	}
	if m&0o2000 != 0 {
		mode |= iofs.ModeSetgid
	}
	return mode
}

// A block that was cut in a transaction, then freed, then written for another file, was
// read as it had been.
func TestRegressCutBlockUsedAgain(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	ctx := context.Background()
	write := func(name string, c byte) []byte {
		b := bytes.Repeat([]byte{c}, 5000)
		_, err := fs.WriteFile(ctx, name, bytes.NewReader(b), ext4.WriteOptions{})
		failOnErrors(t, err)
		return b
	}
	write("a", 'a')
	fillWithFiles(t, fs)
	failOnErrors(t, fs.Sync(ctx))
	f, err := fs.OpenFile("a", ext4.OpenFlags{Write: true})
	failOnErrors(t, err, f.Truncate(4500), f.Close(), fs.Remove("a"), fs.Sync(ctx))
	want := write("b", 'b')
	f, err = fs.OpenFile("b", ext4.OpenFlags{})
	failOnErrors(t, err)
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %q...%q", err, got[:4], got[len(got)-4:])
	}
	failOnErrors(t, f.Close())
	closeAndCheck(t, fs, d)
}

// A tree that a crash left half removed made the image one that nobody could open.
func TestRegressHalfRemovedTree(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	failOnErrors(t, fs.MkdirAll("a/b/c", 0o755))
	info, err := fs.Stat("a")
	name := fmt.Sprintf("lost+found/.removed-%d", info.Ino)
	failOnErrors(t, err, fs.Rename("a", name, false), fs.Close())
	fs, err = ext4.Open(d, ext4.OpenOptions{Size: d.size})
	failOnErrors(t, err)
	if _, err := fs.Stat(name); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
	closeAndCheck(t, fs, d)
}

// The name that a tree gets in lost+found may be taken.
func TestRegressTrashNameTaken(t *testing.T) {
	fs, d := newRegressFS(t, 64*mega, true)
	ctx := context.Background()
	failOnErrors(t, fs.MkdirAll("a/b", 0o755), fs.Mkdir("c", 0o755))
	info, err := fs.Stat("c")
	failOnErrors(t, err, fs.Mkdir(fmt.Sprintf("lost+found/.removed-%d", info.Ino), 0o755), fs.RemoveAll(ctx, "c"))
	for i := range 200 {
		_, err := fs.WriteFile(ctx, fmt.Sprint("a/b/", i), strings.NewReader("x"), ext4.WriteOptions{})
		failOnErrors(t, err)
	}
	var all sync.WaitGroup
	for k := range 4 {
		all.Go(func() {
			if err := fs.Copy(ctx, "a", fmt.Sprint("copy", k), false); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	closeAndCheck(t, fs, d)
}

// What Copy makes in lost+found does not keep what it inherits there.
func TestRegressCopyInheritsNothing(t *testing.T) {
	fs, d := newRegressFS(t, 16*mega, true)
	list := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255, 255, 255,
		8, 0, 7, 0, 5, 0, 0, 0, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	failOnErrors(t, fs.MkdirAll("a/b", 0o755), fs.Setxattr("lost+found", "system.posix_acl_default", list))
	failOnErrors(t, fs.Copy(context.Background(), "a", "c", false))
	for _, p := range []string{"c", "c/b"} {
		if names, err := fs.Listxattr(p); err != nil || len(names) > 0 {
			t.Error(p, names, err)
		}
	}
	closeAndCheck(t, fs, d)
}

// More directories than one transaction can hold are made in several; what cannot be
// made so fails, and nothing else does afterwards.
func TestRegressDeepParents(t *testing.T) {
	fs, d := newRegressFS(t, 64*mega, true)
	ctx := context.Background()
	deep := strings.Repeat("d/", 2000)
	if _, err := fs.WriteFile(ctx, deep+"f", strings.NewReader("x"), ext4.WriteOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if _, err := fs.Stat("d"); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
	failOnErrors(t, fs.MkdirAll(deep[:len(deep)-1], 0o755), fs.Sync(ctx))
	_, err := fs.WriteFile(ctx, deep+"f", strings.NewReader("x"), ext4.WriteOptions{})
	failOnErrors(t, err, fs.RemoveAll(ctx, "d"))
	closeAndCheck(t, fs, d)
}

// A file that is removed while it is truncated was in the list of orphans twice.
func TestRegressRemoveWhileTruncated(t *testing.T) {
	const size = 1 << 40
	fs, d := newRegressFS(t, size, true)
	for k := range 4 {
		f, err := fs.OpenFile("f", ext4.OpenFlags{Create: true})
		failOnErrors(t, err, f.Allocate(0, 100<<30, false), fs.Sync(context.Background()))
		cut := make(chan error)
		go func() { cut <- f.Truncate(0) }()
		time.Sleep(time.Duration(k+1) * 2 * time.Millisecond)
		failOnErrors(t, fs.Remove("f"), <-cut, f.Close(), fs.Close())
		fs, err = ext4.Open(d, ext4.OpenOptions{Size: size, Batch: true})
		failOnErrors(t, err)
	}
	failOnErrors(t, fs.Close())
}
