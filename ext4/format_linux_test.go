package ext4

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mountFormatted mounts an image until the end of the test or until the function it returns
// is called.
func mountFormatted(t testing.TB, image string) (dir string, unmount func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices")
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// writeLoad writes a bit of everything into a directory, and removes some.
func writeLoad(t testing.TB, dir string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		d := filepath.Join(dir, fmt.Sprint("directory", i))
		check(os.Mkdir(d, 0o750))
		for k := range 10 {
			name := filepath.Join(d, fmt.Sprint(strings.Repeat("n", 10*k), k))
			check(os.WriteFile(name, make([]byte, 1000*k+1), 0o600))
			check(syscall.Setxattr(name, "user.test", make([]byte, 100*k), 0))
			check(os.Link(name, name+"l"))
			check(os.Symlink(strings.Repeat("s", 20*k+1), name+"s"))
		}
		check(os.Rename(d, d+"x"))
		if i%3 == 0 {
			check(os.RemoveAll(d + "x"))
		}
	}
}

// fillMounted writes until there is no space left, and removes what it wrote.
func fillMounted(t testing.TB, dir string) {
	t.Helper()
	name := filepath.Join(dir, "fill")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("filling the file system: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// Linux mounts the images, sees all of their blocks, and leaves them clean. Among the
// sizes are those with no journal, with the shortest, and with last groups of all kinds.
func TestFormatMounts(t *testing.T) {
	for _, c := range []struct {
		size int64
		fill bool
	}{
		{4 * fmtMiB, true}, {8*fmtMiB - 4096, true}, {8 * fmtMiB, true}, {67 * fmtMiB, true}, {128 * fmtMiB, false},
		{fmtGroup + 5*4096, true}, {2*fmtGroup + 4096, true}, {3*fmtGroup + 4*4096, false}, {1025 * fmtMiB, false},
		{16*fmtGroup + 4096, false}, {20 * fmtGiB, false}, {fmtTiB + fmtGroup, false},
	} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			image := formatImage(t, c.size, FormatOptions{UID: 5})
			dir, unmount := mountFormatted(t, image)
			var st syscall.Statfs_t
			if err := syscall.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			overhead := parseNumber(t, dumpe2fsFields(t, image)["Overhead clusters"])
			if int64(st.Blocks)+overhead != blocksOfSize(c.size) || int64(st.Blocks-st.Bfree) != initialFileBlocks(c.size) {
				t.Errorf("Linux counts %d blocks, %d of them free, and %d of overhead", st.Blocks, st.Bfree, overhead)
			}
			if fi, err := os.Stat(dir); err != nil || fi.Mode() != os.ModeDir|0o755 || fi.Sys().(*syscall.Stat_t).Uid != 5 {
				t.Errorf("the root directory: %v (%v)", fi, err)
			}
			writeLoad(t, dir)
			if c.fill {
				fillMounted(t, dir)
			}
			unmount()
			runFsck(t, image)
		})
	}
}

// resize2fs moves what is in its way, which it does only in a layout that it understands.
func TestFormatThenResize(t *testing.T) {
	resize := lookupFormatTool(t, "resize2fs")
	for _, c := range []struct{ from, to int64 }{
		{4 * fmtMiB, 300 * fmtMiB}, {8 * fmtMiB, 64 * fmtMiB}, {fmtGroup + 4096*600, fmtGiB},
		{2*fmtGroup + 4096, 17 * fmtGroup}, {128 * fmtMiB, 40 * fmtGiB}, {fmtTiB, fmtTiB + 20*fmtGiB},
	} {
		image := formatImage(t, c.from, FormatOptions{})
		if err := os.Truncate(image, c.to); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(resize, "-f", image).CombinedOutput(); err != nil {
			t.Errorf("from %d to %d: %v\n%s", c.from, c.to, err, out)
		}
		runFsck(t, image)
	}
}

// A file system whose superblock and descriptors are gone is repaired from a backup.
func TestFormatBackup(t *testing.T) { testRepairFromBackup(t, fmtGiB) }
